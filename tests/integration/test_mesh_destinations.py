"""Destination policies through Consul and the agents: applied, honoured on traffic, with Consul's locality."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from agent.lab.lab import Lab
from tests.integration.meshlab import bookinfo, envoy_admin, hostmesh, wait_settled
from tests.waiting import wait_for

CLUSTER = "outbound|9080||reviews.service.consul"
OLD = """
apiVersion: config.istio.io/v1alpha2
kind: DestinationPolicy
metadata: {name: reviews}
spec:
  destination: {name: reviews}
  load_balancing: {name: RANDOM}
  circuit_breaker: {simple_cb: {max_connections: 77}}
"""
NEW = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {consistentHash: {httpHeaderName: x-user}}
    outlierDetection: {consecutive5xxErrors: 3}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(bookinfo("10.79.1.0/24")) as lab:
        yield lab


def apply(lab: Lab, text: str) -> None:
    printed = hostmesh(lab, "apply", stdin=text)
    wait_settled(lab, max(int(line.rsplit(" ", 1)[1]) for line in printed.splitlines() if "revision" in line))


def clusters(lab: Lab) -> str:
    return envoy_admin(lab["productpage"], "/clusters")


def ask(lab: Lab, user: str) -> str:
    host = lab["productpage"]
    address = host.exec("getent", "ahostsv4", "reviews").stdout.split()[0]
    status, body = host.get("/reviews/0", address=address, headers={"Host": "reviews:9080", "x-user": user})
    assert status == 200
    return str(json.loads(body)["podname"])


def test_both_generations_are_applied_and_taken_away(lab: Lab) -> None:
    apply(lab, OLD)
    assert f"{CLUSTER}::default_priority::max_connections::77" in clusters(lab)
    hostmesh(lab, "delete", "destinationpolicy", "reviews")
    wait_for(lambda: f"{CLUSTER}::default_priority::max_connections::77" not in clusters(lab), "the limit is gone")
    apply(lab, NEW)
    chosen = {user: {ask(lab, user) for _ in range(3)} for user in map(str, range(20))}
    assert all(len(names) == 1 for names in chosen.values()), chosen
    assert len({name for names in chosen.values() for name in names}) == 3
    # The region is Consul's datacenter; nothing tells the instances apart, so all are equally near.
    assert f"{lab['reviews-v2'].address}:9080::region::dc1" in clusters(lab)
