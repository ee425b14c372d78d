"""The packages on a machine whose names systemd-resolved answers: nothing is configured for it, nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import TOP, Machine, new_machine
from tests.e2e.test_packages import APP_UNIT, CONSUL_CONFIG, CONSUL_UNIT, SERVICE
from tests.integration.netns import lan
from tests.programs import NAME_SERVERS
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def machine(packages: Path) -> Iterator[Machine]:
    """Boot a machine with systemd-resolved, Consul, the application, and our packages."""
    binds = [packages, TOP / "build/tools/bin", NAME_SERVERS / "packages"]
    with lan("vm", subnet=92) as hosts, new_machine(hosts["vm"], binds) as machine:
        machine.run("systemctl", "disable", "--now", "dnsmasq")
        machine.run("sh", "-c", "dpkg -i /mnt/packages/systemd-resolved_*.deb", timeout=120)
        machine.run("systemctl", "restart", "systemd-resolved")
        machine.write("/etc/systemd/system/consul.service", CONSUL_UNIT.replace("ADDRESS", machine.host.v4))
        machine.write("/etc/consul.json", json.dumps(CONSUL_CONFIG))
        machine.write("/etc/systemd/system/hello.service", APP_UNIT)
        machine.write("/srv/hello/index.html", "hello from the mesh\n")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "consul", "hello")
        machine.run("sh", "-c", "dpkg -i /mnt/dist/hostmesh-agent_*.deb /mnt/dist/hostmesh-proxy_*.deb", timeout=180)
        machine.write("/etc/hostmesh/agent.yaml", f"address: {machine.host.v4}\n")
        machine.write("/etc/hostmesh/services.d/hello.yaml", SERVICE)
        yield machine


def address(machine: Machine, name: str) -> str:
    """Return what a program gets for a name, "" if nothing."""
    return machine.run("getent", "ahostsv4", name, check=False).stdout.partition(" ")[0]


def dns_is(machine: Machine) -> str:
    """Return the state of the mesh's own dnsmasq."""
    return machine.run("systemctl", "is-active", "hostmesh-dns", check=False).stdout.strip()


def test_names_come_with_the_agent_and_go_with_it(machine: Machine) -> None:
    assert "127.0.0.53" in machine.run("cat", "/etc/resolv.conf").stdout
    machine.run("systemctl", "start", "hostmesh-agent", timeout=120)
    log = "hostmesh-resolved"
    names = ("hello", "hello.default", "hello.default.svc.cluster.local", "hello.service.consul")
    for name in names:
        wait_for(lambda name=name: address(machine, name).startswith("240.240."), name, 60, 0.5)  # type: ignore[misc]
    assert machine.run("curl", "-s", "--max-time", "10", "http://hello:8080/").stdout == "hello from the mesh\n"
    assert address(machine, "consul.service.consul") == machine.host.v4, "Consul's own answer"
    shown = machine.run("resolvectl", "status", "hostmesh").stdout
    assert "-DefaultRoute" in shown, shown
    machine.run("systemctl", "restart", "hostmesh-agent", timeout=90)
    machine.run("systemctl", "restart", "systemd-resolved")
    assert address(machine, "hello").startswith("240.240."), machine.journal(log)

    machine.run("systemctl", "stop", "hostmesh-agent", timeout=90)
    wait_for(lambda: "hostmesh" not in machine.run("ip", "link").stdout, machine.journal(log), 30, 0.5)
    assert address(machine, "hello") == ""
    wait_for(lambda: dns_is(machine) == "inactive", "its dnsmasq is stopped, too", 30, 0.2)
    assert machine.run("pgrep", "dnsmasq", check=False).stdout == ""

    machine.run("systemctl", "enable", "--now", "hostmesh-dns")  # as for unbound or bind: it stays whatever comes
    machine.run("systemctl", "start", "hostmesh-agent", timeout=120)
    machine.run("systemctl", "stop", "hostmesh-agent", timeout=90)
    wait_for(lambda: "hostmesh" not in machine.run("ip", "link").stdout, machine.journal(log), 30, 0.5)
    assert dns_is(machine) == "active"
    machine.run("dpkg", "-P", "hostmesh-agent", timeout=120)
    assert machine.run("pgrep", "dnsmasq", check=False).stdout == ""
