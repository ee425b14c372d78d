"""The operator's tools against a whole mesh: --wait, what cannot be enforced, analysis, and looks into Envoy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec
import pytest

from agent.lab.lab import Lab
from tests.integration.meshlab import APP_UID, HOSTMESH, bookinfo, hostmesh, wait_settled
from tests.ports import free_port

V1 = """apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: reviews}
spec: {destination: {name: reviews}, route: [{labels: {version: VERSION}}]}
"""
PARTLY = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ratings}
spec:
  hosts: [ratings]
  http:
  - redirect: {uri: /elsewhere, redirectCode: 305}
  - route: [{destination: {host: ratings}}]
"""
CLIENT = "productpage"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    plan = bookinfo("10.79.3.0/24")
    hosts = tuple(host for host in plan.hosts if host.name in ("consul", CLIENT, "ratings", "reviews-v1"))
    consul = free_port()
    with Lab(msgspec.structs.replace(plan, hosts=hosts, page_host="", consul_port=consul)) as lab:
        wait_settled(lab)
        yield lab


def look(lab: Lab, *arguments: str) -> str:
    return hostmesh(lab, *arguments, "--lab", lab.plan.name)


def test_wait_returns_when_every_proxy_follows(lab: Lab) -> None:
    printed = hostmesh(lab, "apply", "--wait", "--timeout", "20", stdin=V1.replace("VERSION", "v1"))
    found = re.search(r"Acknowledged by (\d+) nodes, the slowest (\S+) after (\d+\.\d+) s", printed)
    assert found, printed
    assert int(found[1]) == 3
    assert float(found[3]) < 10
    routes = look(lab, "proxy-config", "routes", CLIENT, "--name", "reviews")
    assert "outbound|9080|version=v1|reviews.service.consul" in routes


def test_what_cannot_be_enforced_is_refused_or_enforced_in_part(lab: Lab) -> None:
    assert "1 object valid, not all of it enforceable here" in hostmesh(lab, "validate", stdin=PARTLY)
    assert "--allow-unsupported" in hostmesh(lab, "apply", stdin=PARTLY, check=False)
    assert "VirtualService" not in hostmesh(lab, "get", "all")
    hostmesh(lab, "apply", "--allow-unsupported", "--wait", stdin=PARTLY)
    status = json.loads(hostmesh(lab, "proxy-status", CLIENT, "-o", "json"))[0]
    reasons = [fault["reason"] for fault in status["faults"]]
    assert any("spec.http[0].redirect" in each and "the rest of it is in force" in each for each in reasons), reasons
    described = hostmesh(lab, "describe", "service", "ratings")
    assert "VirtualService/ratings.default" in described
    assert "otherwise: 404" in described


def test_a_look_into_envoy_shows_no_key(lab: Lab) -> None:
    secrets = look(lab, "proxy-config", "secret", CLIENT)
    assert re.search(r"spiffe://cluster\.local/ns/default/sa/\S*productpage +certificate +[0-9a-f]+ +20", secrets)
    assert "trust bundle" in secrets
    for view in ("listeners", "routes", "clusters", "endpoints", "secret", "bootstrap"):
        text = look(lab, "proxy-config", view, CLIENT, "-o", "json")
        assert json.loads(text)
        assert "PRIVATE KEY" not in text
    assert "LISTENER" in look(lab, "pc", "listeners", CLIENT)
    endpoints = look(lab, "proxy-config", "endpoints", CLIENT, "--name", "outbound|9080||ratings.service.consul")
    assert re.search(r":9080\s+healthy\s+outbound\|9080\|\|ratings", endpoints), endpoints
    assert "server.live: 1" in look(lab, "proxy-stats", CLIENT, "--filter", r"^server\.live$")
    assert "envoy_server_live" in look(lab, "proxy-stats", CLIENT, "-o", "prometheus")


def test_an_unknown_node_and_a_missing_agent_say_so(lab: Lab) -> None:
    said = hostmesh(lab, "proxy-config", "routes", "nobody", "--lab", lab.plan.name, check=False)
    assert "no host 'nobody' in the lab" in said
    said = hostmesh(lab, "proxy-config", "routes", "--run-dir", str(lab.folder / "none"), check=False)
    assert "no agent answers there" in said


def test_any_host_is_asked_from_any_other(lab: Lab) -> None:
    """With a Consul on that host, and no socket of another host's agent."""

    def remote(*arguments: str, check: bool = True) -> str:
        done = lab[CLIENT].exec(str(HOSTMESH), *arguments, uid=APP_UID, check=check)
        return done.stdout if check else done.stderr

    for view in ("listeners", "routes", "clusters", "endpoints", "secret", "bootstrap"):
        there = json.loads(remote("proxy-config", view, "reviews-v1", "-o", "json"))
        here = json.loads(look(lab, "proxy-config", view, "reviews-v1", "-o", "json"))
        if view == "endpoints":  # their counters move
            there, here = (sorted(one["name"] for one in found) for found in (there, here))
        assert there == here
    assert "ns/default/sa/bookinfo-reviews" in remote("proxy-config", "secret", "reviews-v1")
    assert "server.live: 1" in remote("proxy-stats", "ratings", "--filter", r"^server\.live$")
    assert "did you mean reviews-v1?" in remote("proxy-stats", "reviews-v2", check=False)
    own = {"HOSTMESH_RUN_DIR": str(lab[CLIENT].path("run"))}
    done = lab[CLIENT].exec(
        str(HOSTMESH), "proxy-stats", CLIENT, environment={**own, "CONSUL_HTTP_ADDR": "127.0.0.1:1"}
    )
    assert "server.live: 1" in done.stdout, "the own host needs no Consul"
    log = lab["reviews-v1"].path("log/agent.log").read_text()
    assert f"operator port: {lab[CLIENT].address} reads routes (ticket " in log
    keys = lab[CLIENT].get("/v1/kv/hostmesh/tickets/?keys", 8500)
    assert keys[0] == 404, keys


def test_describe_shows_what_the_envoys_really_have(lab: Lab) -> None:
    described = lab[CLIENT].exec(str(HOSTMESH), "describe", "instance", "reviews-v1", uid=APP_UID).stdout
    assert re.search(r"Envoy:     9080: mutual TLS, plain text; \d+ requests, 0 answered 5xx", described), described
    assert re.search(
        r"Holds:     spiffe://cluster\.local/ns/default/sa/bookinfo-reviews, serial [0-9a-f]+, until 20", described
    )
    described = lab[CLIENT].exec(str(HOSTMESH), "describe", "instance", "reviews-v1", "-o", "json").stdout
    assert json.loads(described)[0]["envoy"]["ports"][0]["takes"] == ["mutual TLS", "plain text"]
    described = lab["ratings"].exec(str(HOSTMESH), "describe", "service", "reviews", "--from", CLIENT).stdout
    assert f"Envoy of {CLIENT}:" in described
    assert re.search(r"  endpoint \S+:9080 healthy \(outbound", described), described


def test_the_mesh_is_analysed_as_it_is(lab: Lab) -> None:
    hostmesh(lab, "apply", "--wait", stdin=V1.replace("VERSION", "v9"))
    found = json.loads(hostmesh(lab, "analyze", "-o", "json", "--failure-threshold", "Error"))
    assert ("HM0102", "hostmesh/config/default/routerule/reviews") in [(one["code"], one["place"]) for one in found]
    instance = hostmesh(lab, "describe", "instance", "reviews-v1")
    assert "Health:    passing" in instance
    assert "Proxy:     SYNCED" in instance
