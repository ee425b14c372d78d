"""The seeds' tasks of request routing, shifting and fault injection with their own figures, in both generations: shares
within binomial bounds, a caller's cookie and labels, a delay of seven seconds.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.rendered_mesh import (
    Client,
    http_application,
    loopback_network,
    rendered_envoy,
)
from tests.ports import free_port

REQUESTS = 1000
SIGMAS = 5.0
EARLY = 0.02
"""Seconds that a timer of Envoy's may be early (it counts from the beginning of its loop's round)."""
BOTH = pytest.mark.parametrize("generation", ["v1alpha2", "v1"])
COOKIE = '{cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}}'


class Site:
    """reviews v1, v2, v3; page v1 and page v2 call them from hosts of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.port = free_port(f"{net}.1")
        self.callers = {"v1": f"{net}.1", "v2": f"{net}.2"}
        self.instances = {version: f"{net}.{10 + n}" for n, version in enumerate(("v1", "v2", "v3"))}

    @property
    def catalog(self) -> str:
        callers = ", ".join(f"{{name: {name}, address: {at}}}" for name, at in self.callers.items())
        pages = ", ".join(f"{{node: {name}, labels: {{version: {name}}}}}" for name in self.callers)
        instances = ", ".join(
            f"{{node: v1, address: {at}, labels: {{version: {name}}}}}" for name, at in self.instances.items()
        )
        return f"""
mesh: {{mtls: disabled}}
nodes: [{callers}]
services:
- {{name: page, ports: [{{port: 9999, protocol: http}}], instances: [{pages}]}}
- {{name: reviews, ports: [{{name: http, port: {self.port}}}], instances: [{instances}]}}
"""

    @contextmanager
    def client(self, rules: str, caller: str = "v1") -> Iterator[Client]:
        """Run a caller's Envoy with these rules; yields a client of it."""
        address = self.callers[caller]
        listening = (address, self.port)
        with (
            rendered_envoy(self.folder, caller, self.catalog, rules, listening, bind_outbound=address) as said,
            closing(Client(address, self.port)) as client,
        ):
            assert "left out" not in said, said
            yield client


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("tasks"))
    with ExitStack() as stack:
        for version, address in site.instances.items():
            stack.enter_context(http_application(version, address, site.port))
        yield site


def route_rule(name: str, fields: str, precedence: int = 1) -> str:
    return f"""
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {{name: {name}}}
spec: {{destination: {{name: reviews}}, precedence: {precedence}, {fields}}}
"""


def virtual_service(*routes: str) -> str:
    lines = "\n".join(f"  - {{{route}}}" for route in routes)
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec:
  host: reviews
  subsets: [{", ".join(f"{{name: {v}, labels: {{version: {v}}}}}" for v in ("v1", "v2", "v3"))}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
{lines}
"""


def to(**shares: int) -> str:
    """Return the route of a VirtualService with these weights."""
    targets = (f"{{destination: {{host: reviews, subset: {name}}}, weight: {share}}}" for name, share in shares.items())
    return f"route: [{', '.join(targets)}]"


def old_to(**shares: int) -> str:
    """Return the route of a RouteRule with these weights."""
    return f"route: [{', '.join(f'{{labels: {{version: {v}}}, weight: {w}}}' for v, w in shares.items())}]"


@BOTH
@pytest.mark.parametrize("share", [50, 90])
def test_shares_of_requests(site: Site, generation: str, share: int) -> None:
    shares = {"v1": share, "v3": 100 - share}
    rules = route_rule("w", old_to(**shares)) if generation == "v1alpha2" else virtual_service(to(**shares))
    with site.client(rules) as client:
        counts = Counter(client.get("reviews").name for _ in range(REQUESTS))
    wanted = REQUESTS * share / 100
    assert abs(counts["v1"] - wanted) <= SIGMAS * math.sqrt(wanted * (1 - share / 100)), counts
    assert counts["v2"] == 0


@BOTH
def test_a_user_by_the_cookie(site: Site, generation: str) -> None:
    rules = (
        route_rule("all", old_to(v1=100))
        + route_rule("jason", f"match: {{request: {{headers: {COOKIE}}}}}, {old_to(v2=100)}", precedence=2)
        if generation == "v1alpha2"
        else virtual_service(f"match: [{{headers: {COOKIE}}}], {to(v2=100)}", to(v1=100))
    )
    with site.client(rules) as client:
        for cookie in ("user=jason", "a=b;user=jason", "user=jason;a=b"):
            assert {client.get("reviews", cookie=cookie).name for _ in range(3)} == {"v2"}
        for other in ({}, {"cookie": "user=jasons"}, {"cookie": "xuser=jason"}, {"x_cookie": "user=jason"}):
            assert {client.get("reviews", "/", **other).name for _ in range(3)} == {"v1"}


@BOTH
def test_callers_by_their_labels(site: Site, generation: str) -> None:
    rules = (
        route_rule("all", old_to(v1=100))
        + route_rule(
            "new", f"match: {{source: {{name: page, labels: {{version: v2}}}}}}, {old_to(v3=100)}", precedence=2
        )
        if generation == "v1alpha2"
        else virtual_service(f"match: [{{sourceLabels: {{version: v2}}}}], {to(v3=100)}", to(v1=100))
    )
    for caller, served in (("v1", "v1"), ("v2", "v3")):
        with site.client(rules, caller) as client:
            assert {client.get("reviews").name for _ in range(10)} == {served}


def test_seven_seconds_for_one_user(site: Site) -> None:
    """Both generations at once, on a host each: it takes what it says."""
    cookie = f"match: {{request: {{headers: {COOKIE}}}}}"
    old = route_rule("slow", f"{cookie}, {old_to(v1=100)}, httpFault: {{delay: {{fixedDelay: 7s, percent: 100}}}}")
    fault = "fault: {delay: {fixedDelay: 7s, percentage: {value: 100}}}"
    new = virtual_service(f"match: [{{headers: {COOKIE}}}], {fault}, {to(v1=100)}", to(v1=100))

    def seconds(client: Client, cookie: str) -> float:
        start = time.monotonic()
        assert client.get("reviews", cookie=cookie).status == 200
        return time.monotonic() - start

    with site.client(old, "v1") as first, site.client(new, "v2") as second, ThreadPoolExecutor() as pool:
        for quick in pool.map(seconds, (first, second), ("user=other",) * 2):
            assert quick < 3
        for slow in pool.map(seconds, (first, second), ("user=jason",) * 2):
            assert 7 - EARLY <= slow < 12
