"""The packages on real systemd machines: install, start, traffic, upgrade, downgrade, reboot, stop, remove, purge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent import __version__
from tests.e2e.conftest import NEWER
from tests.e2e.fingerprint import differences, fingerprint
from tests.e2e.machine import TOP, Machine, booted, disk, new_machine
from tests.integration.netns import Host, lan
from tests.waiting import wait_for

CONSUL_UNIT = """[Unit]
Description=Consul
[Service]
ExecStart=/mnt/bin/consul agent -server -bootstrap-expect=1 -data-dir=/var/lib/consul -bind=127.0.0.1 \
  -advertise=ADDRESS -client=0.0.0.0 -log-level=warn -config-file=/etc/consul.json
[Install]
WantedBy=multi-user.target
"""
CONSUL_CONFIG = {"performance": {"raft_multiplier": 1}, "disable_update_check": True, "bind_addr": "0.0.0.0"}
APP_UNIT = """[Unit]
Description=A small HTTP application
[Service]
DynamicUser=yes
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory /srv/hello 8080
[Install]
WantedBy=multi-user.target
"""
SERVICE = """name: hello
serviceAccount: hello
port: 8080
protocol: http
labels: {version: v1}
check: {http: /, interval: 1s}
"""
TRACES = "iptables-save; ip6tables-save; ip route show table all | grep 240.240 || true"


OLDER = __version__
CALLER_UNIT = """[Unit]
Description=Calls the mesh as soon as it may
After=hostmesh-agent.service
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /srv/calls.py
StandardOutput=file:/srv/calls.txt
[Install]
WantedBy=multi-user.target
"""
LATE_UNIT = """[Unit]
Description=Writes down where its peers are told it is when it is stopped
After=hostmesh-agent.service
[Service]
ExecStart=/usr/bin/python3 -m http.server 8081
ExecStop=/usr/bin/curl --silent --max-time 5 --output /srv/at-its-end.json http://{consul}:8500/v1/catalog/service/late
[Install]
WantedBy=multi-user.target
"""
CALLS = """
import urllib.request
for _ in range(100):
    try:
        print(urllib.request.urlopen("http://hello:8080/", timeout=10).read().decode().strip())
    except OSError as error:
        print(repr(error))
"""


@dataclass(frozen=True)
class Site:
    """A machine where Consul and the application run, nothing of ours yet, and the place for another one."""

    machine: Machine
    peer: Host
    binds: list[Path]


@pytest.fixture(scope="module")
def site(packages: Path, newer: Path) -> Iterator[Site]:
    """Boot the machine."""
    binds = [packages, newer, TOP / "build/tools/bin"]
    with lan("vm", "peer", subnet=91) as hosts, new_machine(hosts["vm"], binds) as running:
        running.write("/etc/systemd/system/consul.service", CONSUL_UNIT.replace("ADDRESS", running.host.v4))
        running.write("/etc/consul.json", json.dumps(CONSUL_CONFIG))
        running.write("/etc/systemd/system/hello.service", APP_UNIT)
        running.write("/srv/hello/index.html", "hello from the mesh\n")
        running.run("systemctl", "daemon-reload")
        running.run("systemctl", "start", "consul", "hello")
        wait_for(lambda: '"' in consul(running, "/v1/status/leader", raw=True).replace('""', ""), timeout=60)
        yield Site(running, hosts["peer"], binds)


def install(machine: Machine, folder: str) -> None:
    """`dpkg -i` all packages of a folder."""
    machine.run("sh", "-c", f"dpkg -i /mnt/{folder}/hostmesh-*.deb", timeout=180)


def consul(machine: Machine, path: str, raw: bool = False) -> str:
    """Return what Consul's HTTP API answers in the machine."""
    return machine.run("curl", "-s", "--max-time", "5", f"http://127.0.0.1:8500{path}", check=raw is False).stdout


def serving(machine: Machine) -> list[str]:
    """Return the IDs of the healthy instances of the service."""
    return [entry["Service"]["ID"] for entry in json.loads(consul(machine, "/v1/health/service/hello?passing"))]


def test_the_packages_life_on_a_host(site: Site) -> None:
    """One test: each step needs the one before, and a machine takes seconds to make."""
    machine = site.machine
    before = fingerprint(machine)
    assert len(before["files"]) > 5000
    assert all(before[what] for what in ("content of /etc", "users", "unit files", "routes")), before
    install(machine, "dist")
    installed_but_not_started(machine)
    manual_and_completion_are_there(machine)
    the_ca_runs_and_gives_a_token(machine)
    the_agent_starts_and_the_instance_is_in_the_catalog(machine)
    traffic_goes_through_the_mesh(machine)
    nothing_fails_while_agent_and_envoy_are_replaced(machine)
    units_after_the_agent_lose_nothing_at_boot(site)
    the_journal_has_fields_and_levels_change(machine)
    an_agent_that_hangs_is_replaced(machine)
    a_boot_without_consul_and_ca_serves_what_was_known(machine)
    stop_leaves_nothing_behind(machine)
    a_stop_takes_down_what_a_dead_agent_left(machine)
    removed_packages_keep_what_is_the_operators(machine)
    machine.run("dpkg", "-P", "hostmesh-agent", "hostmesh-ca", "hostmesh-proxy", timeout=120)
    assert differences(before, fingerprint(machine)) == ""


def installed_but_not_started(machine: Machine) -> None:
    """Nothing redirects traffic before the operator says so; the files are there and belong to whom they should."""
    assert machine.run("systemctl", "is-active", "hostmesh-agent", check=False).stdout.strip() == "inactive"
    assert machine.run("hostmesh", "version", "--client").stdout.startswith("hostmesh ")
    machine.run("hostmesh-agent", "--check")
    machine.run("hostmesh-ca", "--check")
    samples = "/usr/share/hostmesh/samples"
    checked = machine.run("hostmesh", "validate", "-f", f"{samples}/bookinfo", "-f", f"{samples}/bookinfo/networking")
    assert "objects valid\n" in checked.stdout
    machine.run("test", "-x", f"{samples}/cleanup.sh")
    modes = machine.run("stat", "-c", "%U %a %n", "/var/lib/hostmesh", "/var/lib/hostmesh-ca").stdout.splitlines()
    assert modes == ["hostmesh 755 /var/lib/hostmesh", "hostmesh-ca 700 /var/lib/hostmesh-ca"]
    assert "/usr/lib/hostmesh/envoy" in machine.run("dpkg", "-L", "hostmesh-proxy").stdout


def manual_and_completion_are_there(machine: Machine) -> None:
    """Pages and completion of the command belong to whichever package serves it; both packages have them."""
    pages = machine.run("ls", "/usr/share/man/man1", "/usr/share/man/man8").stdout.split()
    assert {"hostmesh.1.gz", "hostmesh-apply.1.gz", "hostmesh-agent.8.gz", "hostmesh-ca.8.gz"} <= set(pages)
    page = "/usr/share/man/man1/hostmesh-apply.1.gz"
    assert "hostmesh apply" in machine.run("zcat", page).stdout
    assert machine.run("readlink", "-f", page).stdout.startswith("/usr/lib/hostmesh/share/man/")
    complete = ". /usr/share/bash-completion/completions/hostmesh; complete -p hostmesh"
    assert "hostmesh" in machine.run("bash", "-c", complete).stdout


def the_ca_runs_and_gives_a_token(machine: Machine) -> None:
    """The CA on this same host; the token goes where the agent's configuration says."""
    machine.write("/etc/hostmesh/ca.yaml", f"serverNames: {{ips: [{machine.host.v4}]}}\n")
    machine.run("systemctl", "start", "hostmesh-ca")
    token = machine.run("hostmesh", "ca", "token", "create", "--identity", "ns/default/sa/hello").stdout
    machine.write("/etc/hostmesh/join-token", token)
    machine.run("sh", "-c", "chown hostmesh /etc/hostmesh/join-token; chmod 600 /etc/hostmesh/join-token")


def the_agent_starts_and_the_instance_is_in_the_catalog(machine: Machine) -> None:
    """`systemctl start` returns when the agent serves; then Consul's own check must have passed once."""
    machine.write("/etc/hostmesh/agent.yaml", f"address: {machine.host.v4}\nca: {{address: {machine.host.v4}}}\n")
    machine.write("/etc/hostmesh/services.d/hello.yaml", SERVICE)
    started = machine.run("systemctl", "start", "hostmesh-agent", check=False, timeout=120)
    assert started.returncode == 0, machine.journal("hostmesh-agent")
    try:
        assert wait_for(lambda: serving(machine), timeout=30, interval=0.3) == ["hostmesh-hello-8080"]
    except AssertionError as error:
        raise AssertionError(machine.journal("hostmesh-agent")) from error
    # Agents write their status at most once a second.
    status = wait_for(lambda: machine.run("hostmesh", "proxy-status").stdout.partition("SYNCED")[2], timeout=5)
    assert "1.40" in status
    assert "23h" in status  # the certificate's remaining life


def traffic_goes_through_the_mesh(machine: Machine) -> None:
    """By its plain name: dnsmasq answers the virtual address, iptables leads to Envoy, Envoy to the application."""
    answer = machine.run("curl", "-si", "--max-time", "10", "http://hello:8080/", check=False).stdout
    assert "hello from the mesh" in answer, answer + machine.journal("hostmesh-agent")
    stats = machine.run("curl", "-s", "http://127.0.0.1:15090/stats/prometheus").stdout
    outbound = "outbound|8080||hello_service_consul"
    assert f'envoy_cluster_upstream_rq_completed{{envoy_cluster_name="{outbound}"}} 1\n' in stats
    assert f'envoy_cluster_ssl_handshake{{envoy_cluster_name="{outbound}"}} 1\n' in stats  # mutual TLS to itself, too
    assert 'envoy_cluster_upstream_rq_completed{envoy_cluster_name="inbound|8080||"} 1\n' in stats
    address = machine.run("getent", "hosts", "hello").stdout.split()[0]
    assert address.startswith(("240.240.", "fdf0:240:240:")), address
    assert machine.run("pgrep", "-u", "hostmesh", "envoy").stdout.strip()


def shown(machine: Machine, field: str) -> str:
    """Return a property of the agent's unit."""
    return machine.run("systemctl", "show", "--value", "-p", field, "hostmesh-agent").stdout.strip()


def envoy(machine: Machine) -> list[str]:
    """Return the pids of the Envoys that run."""
    return machine.run("pgrep", "-x", "envoy", check=False).stdout.split()


def nothing_fails_while_agent_and_envoy_are_replaced(machine: Machine) -> None:
    """Restart, crash, upgrade, downgrade: the same Envoy; another way to run Envoy: a hot restart. No request fails."""
    machine.run("rm", "/etc/hostmesh/join-token")  # spent: whatever comes now goes without
    first, agent = envoy(machine), shown(machine, "MainPID")
    resolver = machine.run("systemctl", "show", "--value", "-p", "MainPID", "dnsmasq").stdout
    with machine.load("http://hello:8080/", "hello from the mesh") as failures:
        machine.run("systemctl", "restart", "hostmesh-agent", timeout=90)
        assert shown(machine, "MainPID") != agent
        assert envoy(machine) == first, machine.journal("hostmesh-agent")
        assert "serving: Envoy 1.40" in shown(machine, "StatusText")

        machine.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "hostmesh-agent")
        wait_for(lambda: shown(machine, "NRestarts") == "1" and shown(machine, "ActiveState") == "active", timeout=30)
        assert envoy(machine) == first, machine.journal("hostmesh-agent")

        for folder, version in (("newer", NEWER), ("dist", OLDER)):
            agent = shown(machine, "MainPID")
            install(machine, folder)
            assert machine.run("dpkg-query", "-W", "-f", "${Version}", "hostmesh-agent").stdout == version
            assert shown(machine, "MainPID") != agent
            assert shown(machine, "ActiveState") == "active"
            assert envoy(machine) == first, machine.journal("hostmesh-agent")
            now = machine.run("systemctl", "show", "--value", "-p", "MainPID", "dnsmasq").stdout
            assert now == resolver, "dnsmasq has no new settings to read"

        machine.run("sh", "-c", "echo 'proxy: {concurrency: 1}' >>/etc/hostmesh/agent.yaml")
        machine.run("systemctl", "restart", "hostmesh-agent", timeout=90)
        assert len(envoy(machine)) == 2, "the one before lets its connections end"
    assert failures == [], f"{failures}\n{machine.journal('hostmesh-agent')}"
    assert serving(machine) == ["hostmesh-hello-8080"]


def the_journal_has_fields_and_levels_change(machine: Machine) -> None:
    """A reload is enough for log levels, the agent's and Envoy's; Envoy's lines are in the agent's journal."""
    machine.run("sed", "-i", "s/concurrency: 1/concurrency: 1, logLevel: debug/", "/etc/hostmesh/agent.yaml")
    machine.run("sh", "-c", "echo 'log: {level: debug}' >>/etc/hostmesh/agent.yaml")
    machine.run("systemctl", "reload", "hostmesh-agent")
    fields = ["journalctl", "-o", "cat", "--no-pager", "-u", "hostmesh-agent"]
    component = ("SYSLOG_IDENTIFIER=envoy", "ENVOY_COMPONENT=admin")
    machine.run("hostmesh", "proxy-stats")
    wait_for(lambda: machine.run(*fields, *component, check=False).stdout, timeout=10)
    said = machine.run(*fields, "LOGGER=agent.runtime.levels", "PRIORITY=4").stdout
    assert said == "log level: debug\n"
    machine.run(
        "sed", "-i", "s/level: debug/level: info/; s/logLevel: debug/logLevel: warning/", "/etc/hostmesh/agent.yaml"
    )
    machine.run("systemctl", "reload", "hostmesh-agent")


def an_agent_that_hangs_is_replaced(machine: Machine) -> None:
    """The watchdog ends it and the next one takes over; Envoy serves on, and no request fails."""
    shorter = "/etc/systemd/system/hostmesh-agent.service.d"
    machine.write(f"{shorter}/shorter.conf", "[Service]\nWatchdogSec=10\n")
    machine.run("systemctl", "daemon-reload")
    with machine.load("http://hello:8080/", "hello from the mesh") as failures:
        machine.run("systemctl", "restart", "hostmesh-agent", timeout=90)
        first, agent = envoy(machine), shown(machine, "MainPID")
        machine.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", "hostmesh-agent")
        wait_for(lambda: shown(machine, "NRestarts") != "0" and shown(machine, "ActiveState") == "active", timeout=90)
        assert shown(machine, "MainPID") != agent
        assert set(envoy(machine)) & set(first), machine.journal("hostmesh-agent")  # the older may end
    assert failures == [], f"{failures}\n{machine.journal('hostmesh-agent')}"
    assert "Watchdog timeout" in machine.run("journalctl", "--no-pager", "-u", "hostmesh-agent").stdout
    machine.run("rm", "-r", shorter)
    machine.run("systemctl", "daemon-reload")


def a_boot_without_consul_and_ca_serves_what_was_known(machine: Machine) -> None:
    """Ready, with a status that says what is missing, and requests are answered."""
    machine.run("systemctl", "stop", "hostmesh-agent", timeout=90)
    machine.run("systemctl", "stop", "consul", "hostmesh-ca")
    machine.run("systemctl", "start", "hostmesh-agent", timeout=90)
    assert "Consul" in wait_for(
        lambda: status if "fault" in (status := shown(machine, "StatusText")) else "", timeout=10
    )
    with machine.load("http://hello:8080/", "hello from the mesh") as failures:
        machine.run("systemctl", "restart", "hostmesh-agent", timeout=90)
    assert failures == [], f"{failures}\n{machine.journal('hostmesh-agent')}"
    machine.run("systemctl", "start", "consul", "hostmesh-ca")
    # The stop took the instance out of the catalog; it is there again once Consul's check has passed.
    wait_for(lambda: "fault" not in shown(machine, "StatusText") and serving(machine), timeout=60, interval=0.5)


def stop_leaves_nothing_behind(machine: Machine) -> None:
    """Out of the catalog, no rule, no route, no name, no Envoy."""
    assert "HOSTMESH" in machine.run("sh", "-c", TRACES).stdout
    machine.run("systemctl", "stop", "hostmesh-agent", timeout=90)
    assert serving(machine) == []
    assert "hello" not in json.loads(consul(machine, "/v1/catalog/services"))
    left = machine.run("sh", "-c", TRACES).stdout
    assert "HOSTMESH" not in left
    assert "240.240" not in left
    assert machine.run("pgrep", "envoy", check=False).stdout == ""
    assert machine.run("sh", "-c", "ls /dev/shm").stdout == ""
    wait_for(lambda: machine.run("getent", "hosts", "hello", check=False).returncode != 0, timeout=5)


def a_stop_takes_down_what_a_dead_agent_left(machine: Machine) -> None:
    """Even while systemd waits to start the next one; the guard's stop, which follows the agent's, does it."""
    machine.write("/etc/systemd/system/hostmesh-agent.service.d/slow.conf", "[Service]\nRestartSec=300\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "hostmesh-agent", timeout=90)
    wait_for(lambda: serving(machine), timeout=60, interval=0.5)
    machine.run("systemctl", "kill", "--kill-who=main", "--signal=KILL", "hostmesh-agent")
    wait_for(lambda: shown(machine, "SubState") == "auto-restart", timeout=30)
    assert "HOSTMESH" in machine.run("sh", "-c", TRACES).stdout
    assert envoy(machine)
    machine.run("systemctl", "stop", "hostmesh-agent", "hostmesh-guard", timeout=90)
    left = machine.run("sh", "-c", TRACES).stdout
    assert "HOSTMESH" not in left, machine.journal("hostmesh-guard")
    assert "240.240" not in left
    assert envoy(machine) == []
    assert serving(machine) == []
    assert machine.run("sh", "-c", "ls /dev/shm").stdout == ""
    machine.run("rm", "-r", "/etc/systemd/system/hostmesh-agent.service.d")
    machine.run("systemctl", "daemon-reload")


def removed_packages_keep_what_is_the_operators(machine: Machine) -> None:
    """`dpkg -r` stops what runs; configuration, keys and records are there for the next installation."""
    machine.run("systemctl", "start", "hostmesh-agent", timeout=90)
    assert "HOSTMESH" in machine.run("sh", "-c", TRACES).stdout
    machine.run("dpkg", "-r", "hostmesh-agent", "hostmesh-ca", "hostmesh-proxy", timeout=120)
    machine.run("test", "-s", "/etc/hostmesh/services.d/hello.yaml")
    assert machine.run("sh", "-c", "ls /var/lib/hostmesh-ca").stdout.split()
    assert machine.run("sh", "-c", "command -v hostmesh hostmesh-agent hostmesh-ca", check=False).stdout == ""
    assert machine.run("pgrep", "-u", "hostmesh,hostmesh-ca", check=False).stdout == ""
    assert "HOSTMESH" not in machine.run("sh", "-c", TRACES).stdout


def units_after_the_agent_lose_nothing_at_boot(site: Site) -> None:
    """Another machine boots, and boots again without Consul: all that a unit after the agent asks is answered."""
    vm = site.machine
    with disk() as written:
        with booted(site.peer, written, site.binds) as peer:
            install(peer, "dist")
            config = f"address: {site.peer.v4}\nnode: peer\nconsul: {{address: 'http://{vm.host.v4}:8500'}}\n"
            peer.write("/etc/hostmesh/agent.yaml", config)
            peer.write("/etc/systemd/system/caller.service", CALLER_UNIT)
            peer.write("/srv/calls.py", CALLS)
            peer.write("/etc/systemd/system/late.service", LATE_UNIT.format(consul=vm.host.v4))
            peer.write("/etc/hostmesh/services.d/late.yaml", "name: late\nport: 8081\n")
            peer.run("systemctl", "daemon-reload")
            peer.run("systemctl", "enable", "caller", "late", "hostmesh-agent")
            peer.run("systemctl", "start", "late")
            peer.run("systemctl", "start", "hostmesh-agent", timeout=120)
            wait_for(lambda: "hello" in peer.run("curl", "-s", "http://hello:8080/", check=False).stdout, timeout=60)
            wait_for(lambda: json.loads(consul(vm, "/v1/catalog/service/late")), timeout=60, interval=0.5)
            peer.power_off()
        assert json.loads(Path(f"/proc/{written.holder}/root{written.root}/srv/at-its-end.json").read_text()) == [], (
            "out of the catalog before its end"
        )
        assert "HOSTMESH" not in site.peer.run("sh", "-c", TRACES).stdout
        for consul_is in ("start", "stop"):
            vm.run("systemctl", consul_is, "consul")
            with booted(site.peer, written, site.binds) as peer:
                answers = wait_for(lambda: called(peer), timeout=60, interval=0.2)
                assert answers == ["hello from the mesh"] * 100, peer.journal("hostmesh-agent")
                assert 0 < active_at(peer, "hostmesh-guard") <= active_at(peer, "network-pre.target")
                assert ("Consul" in shown(peer, "StatusText")) == (consul_is == "stop")
                peer.power_off()
    vm.run("systemctl", "start", "consul")
    wait_for(lambda: '"' in consul(vm, "/v1/status/leader", raw=True).replace('""', ""), timeout=60)
    wait_for(lambda: serving(vm), timeout=60, interval=0.5)


def active_at(peer: Machine, unit: str) -> int:
    """Return when a unit became active, in microseconds since the boot; 0 if it never has."""
    field = "ActiveEnterTimestampMonotonic"
    return int(peer.run("systemctl", "show", "--value", "-p", field, unit).stdout)


def called(peer: Machine) -> list[str]:
    """Return what the caller was answered, once it has ended."""
    ended = peer.run("systemctl", "show", "--value", "-p", "ExecMainExitTimestampMonotonic", "caller").stdout.strip()
    return peer.run("cat", "/srv/calls.txt").stdout.splitlines() if ended != "0" else []
