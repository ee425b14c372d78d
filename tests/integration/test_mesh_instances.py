"""Instances in a whole mesh, by mutual TLS: active checks beside Consul's, maintenance, warnings; protocol `auto`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from tests.integration.meshlab import APP_UID, bookinfo, envoy_admin, hostmesh, load, wait_settled
from tests.waiting import wait_for

CLUSTER = "outbound|9080||details.service.consul"
DETAILS = "http://details:9080/details/0"
SERVICE = """
name: details
serviceAccount: bookinfo-details
port: 9080
protocol: http
labels: {version: v1}
check: {http: /health, interval: 10m}
activeCheck: {http: /health, interval: 100ms}
"""
OUT_SECONDS = 3.0
"""Within which an instance that does not answer is out; Consul would not look for ten minutes."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A client and two instances of details, at which Consul looks almost never and every Envoy often."""
    details = bookinfo_app("details", "v1", {})
    hosts = (
        CONSUL_HOST,
        HostPlan("client", (bookinfo_app("productpage", "v1", {}),)),
        HostPlan("one", (details,)),
        HostPlan("two", (details,)),
    )
    with Lab(msgspec.structs.replace(bookinfo("10.79.4.0/24"), hosts=hosts, page_host="")) as lab:
        hostmesh(lab, "mesh", "set", "mtls=strict")
        for host in ("one", "two"):
            (lab[host].path("etc") / "services.d" / "details-9080.yaml").write_text(SERVICE)
            lab[host].exec("kill", "-HUP", str(lab[host].pid("agent")))
        wait_for(lambda: serving(lab) == {"one", "two"} and checked(lab), "both are looked at by the client's Envoy")
        yield lab


def flags(lab: Lab) -> dict[str, str]:
    """Return what the client's Envoy thinks of each instance."""
    addresses = {lab[host].address: host for host in ("one", "two")}
    found = {}
    for line in envoy_admin(lab["client"], "/clusters").splitlines():
        if line.startswith(f"{CLUSTER}::") and "::health_flags::" in line:
            _, address, _, value = line.split("::")
            found[addresses[address.rsplit(":", 1)[0]]] = value
    return found


def serving(lab: Lab) -> set[str]:
    return {host for host, value in flags(lab).items() if value == "healthy"}


def checked(lab: Lab) -> bool:
    stats = envoy_admin(lab["client"], "/stats?filter=details.*health_check.success")
    return any(int(line.rsplit(" ", 1)[1]) > 0 for line in stats.splitlines())


def consul(lab: Lab, host: str, method: str, path: str, body: object = None) -> str:
    """Ask a host's own Consul agent."""
    data = ["--data", json.dumps(body)] if body is not None else []
    return lab[host].exec("curl", "-sSf", "-X", method, *data, f"http://127.0.0.1:8500/v1/{path}").stdout


def health(lab: Lab, host: str) -> set[str]:
    """Return the statuses that Consul has of a host's instance."""
    entries = json.loads(consul(lab, "client", "GET", "health/service/details"))
    return {check["Status"] for e in entries if e["Node"]["Node"] == host for check in e["Checks"]}


def test_an_instance_that_refuses_connections_is_out_before_consul_knows(lab: Lab) -> None:
    with load(lab["client"], DETAILS, rate=50) as running:
        ended = time.time()
        lab.kill("one", "details")
        wait_for(lambda: serving(lab) == {"two"}, "the dead one is out", OUT_SECONDS)
        gone = time.time()
        assert health(lab, "one") == {"passing"}
        wait_for(lambda: time.time() > gone + 1, "a second passes without it")
        lab.start("one", "details")
        wait_for(lambda: serving(lab) == {"one", "two"}, "it is back")
    assert [failure for failure in running.failures if not ended - 0.5 < failure[0] < gone + 0.5] == []


def test_maintenance_takes_out_what_answers_its_checks(lab: Lab) -> None:
    with load(lab["client"], DETAILS, rate=50) as running:
        consul(lab, "two", "PUT", "agent/maintenance?enable=true")
        wait_for(lambda: serving(lab) == {"one"} and "two" not in flags(lab), "it is out, and not looked at")
        consul(lab, "two", "PUT", "agent/maintenance?enable=false")
        wait_for(lambda: serving(lab) == {"one", "two"}, "it is back")
    assert running.failures == []


def test_a_warning_is_served_or_drained_as_the_mesh_says(lab: Lab) -> None:
    disk = {"Name": "disk", "ServiceID": "hostmesh-details-9080", "TTL": "1h", "Status": "warning"}
    consul(lab, "one", "PUT", "agent/check/register", disk)
    wait_for(lambda: "warning" in health(lab, "one"), "Consul has the warning")
    assert serving(lab) == {"one", "two"}
    with load(lab["client"], DETAILS, rate=50) as running:
        hostmesh(lab, "mesh", "set", "warningInstances=drain")
        wait_for(lambda: serving(lab) == {"two"}, "it is drained")
        assert "gets no traffic" in hostmesh(lab, "describe", "instance", "one")
        hostmesh(lab, "mesh", "set", "warningInstances=serve")
        wait_for(lambda: serving(lab) == {"one", "two"}, "it serves again")
    assert running.failures == []
    consul(lab, "one", "PUT", "agent/check/deregister/disk")


GREETER = str(Path(__file__).with_name("greeter.py"))
AUTO_SERVICES = """
- {name: chat, serviceAccount: bookinfo-details, port: 7001, protocol: auto, check: {tcp: true, interval: 1s}}
- {name: files, serviceAccount: bookinfo-details, ports: [{name: auto-web, port: 7002}], check: {tcp: true}}
"""
AUTO_RULES = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: files}
spec: {destination: {name: files}, match: {request: {headers: {uri: {exact: /gone}}}}, redirect: {uri: /new}}
"""
SAY = "import socket, sys; s = socket.create_connection(('chat', 7001), 10); print(s.makefile().readline())"


def test_protocols_are_found_out_behind_virtual_addresses(lab: Lab) -> None:
    lab["one"].start("chat", [sys.executable, GREETER, "7001", "chat"], APP_UID)
    lab["one"].start("files", [sys.executable, "-m", "http.server", "7002", "--directory", "/usr/share/doc"], APP_UID)
    (lab["one"].path("etc") / "services.d" / "auto.yaml").write_text(AUTO_SERVICES)
    lab["one"].exec("kill", "-HUP", str(lab["one"].pid("agent")))
    for mode in ("strict", "permissive"):
        hostmesh(lab, "mesh", "set", f"mtls={mode}")
        wait_settled(lab)
        wait_for(lambda: curl(lab, "http://files:7002/") == "200", f"files answer under {mode}")
        wait_for(lambda: greeting(lab) == "hello from chat", f"chat greets under {mode}")
    assert curl(lab, "http://files:7002/gone") == "404"
    printed = hostmesh(lab, "apply", stdin=AUTO_RULES)
    wait_settled(lab, int(printed.split("revision ")[1].split()[0]))
    assert curl(lab, "http://files:7002/gone") == "301"
    # Seen as HTTP in front of the instance too, by mutual TLS, and nothing else of the host is looked at.
    stats = envoy_admin(lab["one"], "/stats?filter=http.inbound_7002.downstream_rq_completed")
    assert int(stats.rsplit(" ", 1)[1]) > 0


def greeting(lab: Lab) -> str:
    """Return what the client's application hears of a server that speaks first."""
    return lab["client"].exec(sys.executable, "-c", SAY, uid=APP_UID, check=False).stdout.strip()


def curl(lab: Lab, url: str) -> str:
    """Return the status of a request that the client's application makes."""
    argv = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]
    return lab["client"].exec(*argv, uid=APP_UID, check=False).stdout
