"""A host of the mesh beside Debian's firewalld and ufw: what they flush comes back, and what they let in gets in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.machine import TOP, Machine, new_machine
from tests.e2e.test_packages import APP_UNIT, CONSUL_CONFIG, CONSUL_UNIT, SERVICE
from tests.integration.netns import Host, lan
from tests.programs import FIREWALLS
from tests.waiting import wait_for

HELLO = "hello from the mesh\n"


@dataclass(frozen=True)
class Site:
    """A host with the service `hello` and the firewalls, all off, and a plain host beside it."""

    machine: Machine
    peer: Host

    def is_served(self) -> bool:
        """Tell whether the plain host gets an answer; by Envoy, as the application listens on 127.0.0.1 alone."""
        url = f"http://{self.machine.host.v4}:8080/"
        return self.peer.run("curl", "-s", "--max-time", "5", url, check=False).stdout == HELLO

    def serves_both(self) -> bool:
        """Tell whether the plain host gets an answer, and a program of this host by the service's name."""
        own = self.machine.run("curl", "-s", "--max-time", "5", "http://hello:8080/", check=False).stdout
        return self.is_served() and own == HELLO

    def repairs(self) -> int:
        """Return how many times the agent has put back what another program took away."""
        page = self.machine.run("curl", "-s", "http://127.0.0.1:15020/metrics").stdout
        found = re.search(r"^hostmesh_interception_repairs_total (\d+)", page, re.MULTILINE)
        assert found, page
        return int(found[1])

    def is_as_planned(self) -> bool:
        """Tell whether all rules and routes stand."""
        return self.machine.run("hostmesh", "interception", "diff", check=False).returncode == 0

    def firewall_findings(self) -> list[str]:
        """Return what the doctor finds wrong with the firewalls."""
        found = json.loads(self.machine.run("hostmesh", "doctor", "-o", "json", check=False).stdout)
        return [it["found"] for it in found if it["check"] == "firewall" and it["level"] != "ok"]


@pytest.fixture(scope="module")
def site(packages: Path) -> Iterator[Site]:
    """Boot the machine and start the agent."""
    binds = [packages, TOP / "build/tools/bin", FIREWALLS]
    with lan("vm", "peer", subnet=93) as hosts, new_machine(hosts["vm"], binds) as machine:
        machine.run("sh", "-c", f"dpkg --force-unsafe-io -i /mnt/{FIREWALLS.name}/*.deb", timeout=240)
        machine.run("systemctl", "disable", "--now", "firewalld", "ufw")
        machine.write("/etc/systemd/system/consul.service", CONSUL_UNIT.replace("ADDRESS", machine.host.v4))
        machine.write("/etc/consul.json", json.dumps(CONSUL_CONFIG))
        machine.write("/etc/systemd/system/hello.service", APP_UNIT)
        machine.write("/srv/hello/index.html", HELLO)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "start", "consul", "hello")
        machine.run("sh", "-c", "dpkg -i /mnt/dist/hostmesh-agent_*.deb /mnt/dist/hostmesh-proxy_*.deb", timeout=180)
        machine.write("/etc/hostmesh/agent.yaml", f"address: {machine.host.v4}\n")
        machine.write("/etc/hostmesh/services.d/hello.yaml", SERVICE)
        machine.run("systemctl", "start", "hostmesh-agent", timeout=120)
        site = Site(machine, hosts["peer"])
        wait_for(site.is_served, machine.journal("hostmesh-agent"), 60, 0.5)
        yield site


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_firewalld_flushes_everybodys_rules_and_ours_come_back(site: Site, backend: str) -> None:
    """At its start, reload and stop, whatever it writes its own with; what was redirected passes its own."""
    before = site.repairs()
    setting = f"s/^FirewallBackend=.*/FirewallBackend={backend}/"
    site.machine.run("sed", "-i", setting, "/etc/firewalld/firewalld.conf")
    for change in (
        ("systemctl", "start", "firewalld"),
        ("firewall-cmd", "--reload"),
        ("systemctl", "stop", "firewalld"),
    ):
        site.machine.run(*change)
        wait_for(site.is_as_planned, f"all rules stand after {change}", 30, 0.3)
        wait_for(site.serves_both, f"all is served after {change}", 30, 0.3)
    assert site.repairs() > before


def test_ufw_sees_captured_connections_at_envoys_port(site: Site) -> None:
    """The service's own port being open is not enough: the doctor says so, and what it advises mends it."""
    machine, before = site.machine, site.repairs()
    for port in (22, 8080):
        machine.run("ufw", "allow", f"{port}/tcp")
    machine.run("ufw", "--force", "enable")
    assert not site.is_served()
    found = site.firewall_findings()
    assert len(found) == 2, found
    assert all("port 15006" in line for line in found)
    machine.run("ufw", "allow", "15006/tcp")
    assert site.serves_both()
    assert site.firewall_findings() == []
    direct = site.peer.run("curl", "-s", "--max-time", "5", f"http://{machine.host.v4}:15006/", check=False)
    assert direct.returncode == 7, "refused, not dropped"
    for change in ("reload", "disable"):
        machine.run("ufw", change)
        wait_for(site.serves_both, f"all is served after {change}", 30, 0.3)
    assert site.is_as_planned()
    assert site.repairs() == before
