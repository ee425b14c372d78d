"""What a host does while Envoy, or the agent that should mind it, is gone; and what an operator's commands do to it."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from agent.lab.readiness import agent_ready
from tests.integration.meshlab import (
    APP_UID,
    HOSTMESH,
    bookinfo,
    envoy_admin,
    hostmesh,
    load,
    metric_lines,
    node_status,
    wait_settled,
)
from tests.waiting import wait_for

AGENT = Path(sys.executable).with_name("hostmesh-agent")
DETAILS = "http://details:9080/details/0"
BROKEN_ENVOY = """#!/bin/sh
case "$1" in
--version) echo "envoy  version: 0/9.9.9/Clean/RELEASE/BoringSSL" ;;
--hot-restart-version) echo 1 ;;
*) sleep 0.2; exit 1 ;;
esac
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A client, two servers of one service, and a host that no mesh knows."""
    details = bookinfo_app("details", "v1", {})
    hosts = (
        CONSUL_HOST,
        HostPlan("client", (bookinfo_app("productpage", "v1", {}),)),
        HostPlan("server", (details,)),
        HostPlan("second", (details,)),
        HostPlan("outside", (details,), agent=False, consul=False),
    )
    with Lab(msgspec.structs.replace(bookinfo("10.78.17.0/24"), hosts=hosts, page_host="")) as lab:
        wait_for(lambda: status(lab["client"]) == "200", "details answers")
        wait_for(lambda: len(serving(lab)) == 2, "both serve")
        yield lab


def serving(lab: Lab) -> list[str]:
    """Return the nodes on which Consul calls an instance of the service healthy."""
    with urllib.request.urlopen(f"{lab.state.consul}/v1/health/service/details?passing") as answer:
        return [entry["Node"]["Node"] for entry in json.load(answer)]


def status(host: Host, url: str = DETAILS) -> str:
    """Return the status of a request that a program of this host makes, 000 if there is no answer."""
    curl = ("curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url)
    return host.exec(*curl, uid=APP_UID, check=False).stdout


def from_outside(lab: Lab) -> str:
    """Return what a host without a mesh gets at the server's port."""
    return status(lab["outside"], f"http://{lab['server'].address}:9080/details/0")


def own_rules(host: Host) -> list[str]:
    saved = host.exec("iptables-save").stdout + host.exec("ip6tables-save").stdout
    return [line for line in saved.splitlines() if "HOSTMESH_" in line]


def interception(host: Host, command: str, *options: str) -> str:
    """Run `hostmesh interception …` as root on a host."""
    names = {"CONFIG": "etc", "STATE": "var", "RUN": "run"}
    folders = {f"HOSTMESH_{kind}_DIR": str(host.path(name)) for kind, name in names.items()}
    return host.exec(str(HOSTMESH), "interception", command, *options, environment=folders).stdout


@contextmanager
def settings(host: Host) -> Iterator[dict[str, Any]]:
    """Change agent.yaml."""
    file = host.path("etc/agent.yaml")
    values = yaml.safe_load(file.read_text())
    yield values
    file.write_text(yaml.safe_dump(values))


def hostmesh_token(lab: Lab, identity: str) -> str:
    return hostmesh(lab, "ca", "token", "create", "--identity", identity, "--socket", lab.state.ca_socket).strip()


def reload(host: Host) -> None:
    host.exec("kill", "-HUP", str(host.pid("agent")))


def test_an_operator_takes_interception_away_and_puts_it_back(lab: Lab) -> None:
    """The agent leaves it as the operator says, and tells so; new settings are taken up without a restart."""
    server = lab["server"]
    interception(server, "remove")
    assert own_rules(server) == []
    wait_for(lambda: any("operator has removed" in fault.reason for fault in node_status(server).faults), "it is told")
    assert own_rules(server) == []
    with settings(server) as values:
        values["interception"] = {"excludeOutboundPorts": [25], "includeOutboundPorts": [81]}
    interception(server, "apply")
    assert any("--dports 81" in line for line in own_rules(server))
    wait_for(lambda: not node_status(server).faults, "no fault is left")
    wait_settled(lab)
    wait_for(lambda: "as planned" in interception(server, "diff"), "the agent wants the same")
    wait_for(lambda: status(lab["client"]) == "200", "details answers")


def test_without_envoy_a_host_is_closed_or_open_as_configured(lab: Lab) -> None:
    """An Envoy that always ends at once: nothing passes; with `open` everything does, as if there were no mesh."""
    server = lab["server"]
    broken = server.path("var/broken-envoy")
    broken.write_text(BROKEN_ENVOY)
    broken.chmod(0o755)
    with settings(server) as values:
        binary = values["proxy"]["binary"]
        values["proxy"]["binary"] = str(broken)
    lab.kill("server", "agent")
    lab.kill("server", "envoy")
    assert from_outside(lab) == "000", "agent and Envoy are dead"
    for save in ("iptables", "ip6tables"):  # as after a boot
        for name in ("nat", "filter"):
            server.exec(save, "-w", "-t", name, "-F")
            server.exec(save, "-w", "-t", name, "-X")
    assert from_outside(lab) == "200"
    lab.start_agent("server")
    wait_for(lambda: from_outside(lab) == "000", "the ports are shut before Envoy is there")
    wait_for(lambda: node_status(server).proxy.restarts > 1, "Envoy is started again and again")
    assert from_outside(lab) == "000"
    assert status(server, "http://127.0.0.1:9080/details/0") == "200", "Consul's checks, and all else of the host"
    assert "exit code 1" in node_status(server).proxy.last_exit

    with settings(server) as values:
        values["interception"]["onProxyFailure"] = "open"
    reload(server)
    wait_for(lambda: from_outside(lab) == "200", "the host goes without Envoy", 60)
    wait_for(lambda: not own_rules(server), "IPv6 too")  # one family after the other
    wait_for(lambda: any("onProxyFailure: open" in fault.reason for fault in node_status(server).faults), "it is told")
    with settings(server) as values:
        values["proxy"]["binary"] = binary
    lab.kill("server", "agent")
    lab.start_agent("server")
    lab.wait({("server", "agent"): agent_ready(server)})
    wait_for(lambda: any("REDIRECT" in line for line in own_rules(server)), "Envoy is back in front")
    wait_for(lambda: len(serving(lab)) == 2, "both serve", 40)
    wait_for(lambda: status(lab["client"]) == "200", "details answers", 40)


def test_a_graceful_stop_costs_no_request(lab: Lab) -> None:
    """Out of the catalog first, then drained, then ended; and back again."""
    with load(lab["client"], DETAILS, rate=100) as running:
        lab.stop("second", "agent", seconds=30)
        assert serving(lab) == ["server"]
        assert lab["second"].pid("envoy") is None
        lab.start_agent("second")
        wait_for(lambda: len(serving(lab)) == 2, "both serve again", 40)
    assert running.failures == []
    assert running.total > 100


def test_a_host_that_dies_without_a_word(lab: Lab) -> None:
    """Nothing comes back from it, not even a refusal: callers leave it out before Consul does, and find it again."""
    second, caller = lab["second"], lab["client"]
    with load(caller, DETAILS) as running:
        second.exec("ip", "link", "set", "eth0", "down")
        died = time.time()
        wait_for(lambda: serving(lab) == ["server"], "Consul leaves it out", 90)
        wait_settled_of(caller)
        out = time.time()
        wait_for(lambda: time.time() > out + 2, "the load goes on")
        second.exec("ip", "link", "set", "eth0", "up")
        wait_for(lambda: len(serving(lab)) == 2, "it is back", 60)
    begun = [when - (10 if "Timeout" in reason else 0) for when, reason in running.failures]  # the load waits for 10 s
    assert [when - out for when in begun if when > out + 1] == []
    assert len(running.failures) <= (out - died + 2) * 4, "less than a fifth of the requests meanwhile"


def wait_settled_of(host: Host) -> None:
    wait_for(lambda: node_status(host).state == "SYNCED", "it is settled", 30)


def test_a_disk_that_takes_nothing_and_files_that_are_spoilt(lab: Lab) -> None:
    """It is told, in a line; the host serves on with what it has, and starts with it."""
    client = lab["client"]
    var = str(client.path("var"))
    client.exec("mount", "--bind", var, var)
    client.exec("mount", "-o", "remount,bind,ro", var)
    try:
        with load(client, DETAILS) as running:
            lab.kill("client", "agent")
            lab.start_agent("client")
            lab.wait({("client", "agent"): agent_ready(client)})
        assert running.failures == []
        lab.kill("client", "envoy")
        wait_for(lambda: status(client) == "200", "Envoy comes back without its log", 40)
    finally:
        client.exec("umount", var)
    lab.kill("client", "agent")
    for spoilt in ("last-known", "vips.json"):
        client.path(f"var/{spoilt}").write_bytes(b"\xff{")
    keys = [path for path in client.path("var/certificates").rglob("*") if path.is_file()]
    assert keys
    for path in keys:
        path.write_bytes(b"\xff{")
    made = hostmesh_token(lab, "ns/default/sa/bookinfo-productpage")
    client.path("etc/join-token").write_text(f"ns/default/sa/bookinfo-productpage {made}\n")
    lab.start_agent("client")
    lab.wait({("client", "agent"): agent_ready(client)})
    wait_for(lambda: status(client) == "200", "details answers", 40)
    told = ("last known state cannot be read", "table of virtual addresses can't be read", ".pem: corrupt")
    wait_for(lambda: all(each in client.log("agent", 5000) for each in told), "each is told", 40)


def test_a_full_disk_costs_what_it_would_hold_and_nothing_else(lab: Lab) -> None:
    """It is told; what is new is followed, by an agent that starts then as well; it is saved when there is room."""
    client, node = lab["client"], {"Node": "newcomer", "Address": lab["outside"].address}
    service = {"ID": "newcomer", "Service": "newcomer", "Port": 9080, "Meta": {"protocol": "http"}}
    with a_small_disk(lab, client) as filler:
        with load(client, DETAILS) as running:
            client.exec("dd", "if=/dev/zero", f"of={filler}", "bs=4096", check=False)
            renew = ("curl", "-fsS", "-X", "POST", "--unix-socket", str(client.path("run/admin.sock")))
            client.exec(*renew, "http://agent/certificates/renew")
            put(lab, "/v1/catalog/register", node | {"Service": service})
            wait_for(lambda: len(full_disk_faults(client)) == 4, "key, names, addresses, the last known mesh", 60)
            assert any("No space left on device" in line for line in metric_lines(client, "hostmesh_fault"))
            wait_for(lambda: "newcomer_service_consul" in envoy_admin(client, "/clusters"), "Envoy has what is new")
        assert running.failures == []

        lab.kill("client", "agent")
        for family in ("iptables", "ip6tables"):  # as after a boot
            client.exec(family, "-w", "-t", "nat", "-F")
        lab.start_agent("client")
        wait_for(lambda: any("REDIRECT" in line for line in own_rules(client)), "it captures again", 40)
        wait_for(lambda: status(client) == "200", "details answers")
        assert client.exec("getent", "hosts", "newcomer", check=False).returncode != 0

        client.exec("rm", filler)
        wait_for(lambda: has_no_fault(client), "no fault is left", 60)
        wait_for(lambda: status(client, "http://newcomer:9080/details/0") == "200", "the newcomer has a name", 40)
        client.exec("grep", "-q", "newcomer", str(client.path("var/last-known")), str(client.path("var/vips.json")))
    put(lab, "/v1/catalog/deregister", node)


def has_no_fault(host: Host) -> bool:
    """Tell so; raises AssertionError with the faults."""
    faults = node_status(host).faults
    assert not faults, faults
    return True


def full_disk_faults(host: Host) -> list[str]:
    return [str(fault) for fault in node_status(host).faults if "No space left on device" in fault.reason]


def put(lab: Lab, path: str, value: object) -> None:
    """Write to Consul's catalog as any program might."""
    request = urllib.request.Request(f"{lab.state.consul}{path}", json.dumps(value).encode(), method="PUT")
    urllib.request.urlopen(request).close()


@contextmanager
def a_small_disk(lab: Lab, host: Host) -> Iterator[str]:
    """Have what the host keeps on a disk of its own, of 2 MiB; yields the path of a file that may fill it."""
    var = str(host.path("var"))
    script = 'mkdir "$1.small" && mount -t tmpfs -o size=2m tmpfs "$1.small" && cp -a "$1/." "$1.small"'
    host.exec("sh", "-ec", f'{script} && mount --move "$1.small" "$1"', "sh", var)
    try:
        renew_names(lab, host)
        yield f"{var}/filler"
    finally:
        host.exec("umount", var)
        renew_names(lab, host)


def renew_names(lab: Lab, host: Host) -> None:
    """Start the host's dnsmasq anew: it looks at folders, not at paths."""
    lab.kill(host.name, "dnsmasq")
    lab.start(host.name, "dnsmasq")
    wait_for(lambda: status(host) == "200", "names are given", 40)


def test_what_a_dead_agent_left_is_taken_down(lab: Lab) -> None:
    """`hostmesh-agent --remove`: out of the catalog, no rule, no name, no Envoy; refused while an agent runs."""
    server = lab["server"]
    folders = [
        f"--{kind}-dir={server.path(name)}" for kind, name in (("config", "etc"), ("state", "var"), ("run", "run"))
    ]
    lab.stop("server", "agent", seconds=30)  # an ID that was deregistered is never used again: the next has a number
    lab.start_agent("server")
    wait_for(lambda: len(serving(lab)) == 2, "both serve", 40)
    refused = server.exec(str(AGENT), "--remove", *folders, check=False)
    assert refused.returncode == 1
    assert "runs here" in refused.stderr
    assert own_rules(server)
    lab.kill("server", "agent")
    assert server.pid("envoy") is not None
    server.exec(str(AGENT), "--remove", *folders)
    assert own_rules(server) == []
    assert "240.240" not in server.exec("ip", "route").stdout
    assert server.pid("envoy") is None
    assert server.exec("getent", "hosts", "details", check=False).returncode != 0
    assert serving(lab) == ["second"]
    assert json.loads(server.exec("curl", "-s", "http://127.0.0.1:8500/v1/agent/services").stdout) == {}
    server.exec(str(AGENT), "--remove", *folders)  # after an orderly stop there is nothing to do
    lab.start_agent("server")
    wait_for(lambda: len(serving(lab)) == 2, "both serve", 40)
    wait_for(lambda: status(lab["client"]) == "200", "details answers", 40)
