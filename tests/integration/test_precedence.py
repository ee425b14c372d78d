"""Random rule sets of both generations against a plain reading of the documents, on a real Envoy: each request ends
where the documents say. PRECEDENCE_EXAMPLES=5000 searches for longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.rendered_mesh import loopback_network
from tests.integration.routed_envoy import EventLoop, RoutedEnvoy, routed_envoy
from tests.integration.routing_reference import Instance, Request, Service, World
from tests.integration.routing_rules import CALLER_LABELS, requests, rule_sets
from tests.ports import free_ports

EXAMPLES = int(os.environ.get("PRECEDENCE_EXAMPLES", "150"))
NET = loopback_network()
PORTS = tuple(sorted(free_ports(2, f"{NET}.1")))


def service(name: str, first: int, *labels: dict[str, str], namespace: str = "default", ports: Any = PORTS) -> Service:
    instances = tuple(Instance(f"{NET}.{first + number}", each) for number, each in enumerate(labels))
    return Service(name, namespace, ports, instances)


SERVICES = (
    service(
        "reviews",
        10,
        {"version": "v1", "track": "stable"},
        {"version": "v2", "track": "stable"},
        {"version": "v2", "track": "canary"},
        {"version": "v3", "track": "canary"},
    ),
    service("ratings", 20, {"version": "v1"}, {"version": "v2"}, ports=PORTS[:1]),
    service("ratings", 30, {"version": "v1"}, namespace="other"),
    service("details", 40, {"version": "v1"}, ports=PORTS[1:]),
)


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoutedEnvoy]:
    loop = EventLoop()
    try:
        with routed_envoy(f"{NET}.1", SERVICES, loop, tmp_path_factory.mktemp("precedence")) as running:
            yield running
    finally:
        loop.close()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
@given(rule_sets(PORTS), CALLER_LABELS, requests(PORTS))
def test_requests_go_where_the_documents_say(
    envoy: RoutedEnvoy, documents: list[dict[str, Any]], caller: dict[str, str], asked: list[Request]
) -> None:
    envoy.follow(documents, caller)
    world = World(SERVICES, "page", caller, tuple(documents))
    for request in asked:
        wanted, got = world.outcome(request), envoy.send(request)
        assert got.status == wanted.status, f"{request}: {got}, not {wanted}"
        assert not wanted.instances or got.instance in wanted.instances, f"{request}: {got}, not {wanted}"
        assert got.location == wanted.location, f"{request}: {got}, not {wanted}"
