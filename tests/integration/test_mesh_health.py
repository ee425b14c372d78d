"""Health in a whole mesh, by mutual TLS: active checks beside Consul's, maintenance, warnings; under load."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import msgspec
import pytest

from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from tests.integration.meshlab import bookinfo, envoy_admin, hostmesh, load
from tests.waiting import wait_for

CLUSTER = "outbound|9080||details.service.consul"
DETAILS = "http://details:9080/details/0"
SERVICE = """
name: details
serviceAccount: default
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
