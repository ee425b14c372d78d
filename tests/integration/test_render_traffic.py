"""`hostmesh render` → a real Envoy → real traffic on loopback: routing by RouteRule and VirtualService, TCP."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.rendered_mesh import (
    Client,
    greeting_application,
    http_application,
    loopback_network,
    rendered_envoy,
)
from tests.ports import free_port

REQUESTS = 400
SIGMAS = 5.0


class Site:
    """reviews v1, v2, v3 and a TCP service with two versions, all running; two client nodes with a workload each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.http_port, self.tcp_port = free_port(f"{net}.1"), free_port(f"{net}.1")
        self.instances = {f"v{number}": f"{net}.{10 + number}" for number in (1, 2, 3)}
        self.outbound = {"page": f"{net}.1", "ratings": f"{net}.2"}

    @property
    def catalog(self) -> str:
        def instances(versions: tuple[str, ...]) -> str:
            return "\n".join(
                f"  - {{node: {v}, address: {self.instances[v]}, labels: {{version: {v}}}}}" for v in versions
            )

        nodes = {**self.outbound, **self.instances}
        return f"""
mesh: {{mtls: disabled}}
nodes: [{", ".join(f"{{name: {name}, address: {address}}}" for name, address in nodes.items())}]
services:
- name: productpage
  ports: [{{port: 9999, protocol: http}}]
  instances: [{{node: page, labels: {{version: v1}}}}]
- name: ratings
  ports: [{{port: 9998, protocol: http}}]
  instances: [{{node: ratings, labels: {{version: v1}}}}]
- name: reviews
  ports: [{{name: http, port: {self.http_port}}}]
  instances:
{instances(("v1", "v2", "v3"))}
- name: mysql
  ports: [{{name: mysql, port: {self.tcp_port}}}]
  instances:
{instances(("v1", "v2"))}
"""

    @contextmanager
    def client(self, rules: str, node: str = "page") -> Iterator[Client]:
        """Run the node's Envoy with these rules; yields a client of it."""
        address = self.outbound[node]
        listening = (address, self.http_port)
        with (
            rendered_envoy(self.folder, node, self.catalog, rules, listening, bind_outbound=address),
            closing(Client(address, self.http_port)) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("render"))
    with ExitStack() as stack:
        for version, address in site.instances.items():
            stack.enter_context(http_application(version, address, site.http_port))
            stack.enter_context(greeting_application(version, address, site.tcp_port))
        yield site


def route_rule(name: str, route: str, precedence: int = 1, match: str = "{}", service: str = "reviews") -> str:
    return f"""
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {{name: {name}}}
spec: {{destination: {{name: {service}}}, precedence: {precedence}, match: {match}, route: {route}}}
"""


def only(version: str) -> str:
    return f"[{{labels: {{version: {version}}}}}]"


def headers(text: str) -> str:
    return f"{{request: {{headers: {text}}}}}"


def within(count: int, share: float) -> bool:
    """Tell whether a count out of REQUESTS fits a binomial distribution."""
    return abs(count - REQUESTS * share) <= SIGMAS * math.sqrt(REQUESTS * share * (1 - share))


def test_no_rule_spreads_over_all_instances_and_changes_nothing(site: Site) -> None:
    with site.client("") as client:
        answers = [client.get("reviews") for _ in range(30)]
        assert {answer.name for answer in answers} == {"v1", "v2", "v3"}
        answer = client.get(f"reviews.service.consul:{site.http_port}", "/a//b/../c?d=%2F", x_forwarded_for="1.2.3.4")
        assert answer.document["path"] == "/a//b/../c?d=%2F"
        assert answer.request_headers["host"] == f"reviews.service.consul:{site.http_port}"
        assert answer.request_headers["x-forwarded-for"] == "1.2.3.4"
        assert answer.headers["server"].startswith("the-application")
        assert not [name for name in answer.headers if name.startswith("x-envoy")]
        assert client.get("REVIEWS.default.svc.cluster.local").status == 200
        assert client.get("unknown.example").status == 502


def test_header_matches_and_precedence(site: Site) -> None:
    rules = (
        route_rule("base", only("v1"))
        + route_rule("jason", only("v2"), 2, headers('{cookie: {regex: "^(.*?;)?(user=jason)(;.*)?$"}}'))
        + route_rule("exact", only("v3"), 3, headers("{x-kind: {exact: gold}, x-region: {prefix: eu-}}"))
        + route_rule("path", only("v3"), 2, headers("{uri: {prefix: /special}}"))
    )
    with site.client(rules) as client:
        assert client.get("reviews").name == "v1"
        assert client.get("reviews", cookie="user=jason").name == "v2"
        assert client.get("reviews", cookie="a=b;user=jason;c=d").name == "v2"
        assert client.get("reviews", cookie="user=jasons").name == "v1"
        assert client.get("reviews", cookie="xuser=jason").name == "v1"
        assert client.get("reviews", x_kind="gold", x_region="eu-west", cookie="user=jason").name == "v3"
        assert client.get("reviews", x_kind="gold").name == "v1"
        assert client.get("reviews", x_kind="golden", x_region="eu-west").name == "v1"
        assert client.get("reviews", "/special/1").name == "v3"


def test_virtual_service_alone_decides(site: Site) -> None:
    rules = """
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: two, labels: {version: v2}}, {name: three, labels: {version: v3}}]}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews.default.svc.cluster.local]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: two}}]
  - match: [{uri: {regex: "/r[0-9]+"}}, {queryParams: {q: {exact: x}}}]
    route:
    - {destination: {host: reviews, subset: two}, weight: 20}
    - {destination: {host: reviews, subset: three}, weight: 80}
"""
    with site.client(rules) as client:
        assert client.get("reviews", end_user="jason").name == "v2"
        assert client.get("reviews").status == 404
        assert client.get("reviews", "/r1x").status == 404
        assert client.get("reviews", "/y?q=x").name in ("v2", "v3")
        counts = Counter(client.get("reviews", "/r12").name for _ in range(REQUESTS))
    assert counts["v1"] == 0
    assert within(counts["v2"], 0.2), counts


DELEGATED = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /team}}]
    delegate: {name: team, namespace: books}
  - match: [{uri: {prefix: /gone}}]
    delegate: {name: gone}
  - route: [{destination: {host: reviews, subset: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team, namespace: books}
spec:
  http:
  - match: [{uri: {prefix: /team/two}}]
    rewrite: {uri: /rewritten}
    route: [{destination: {host: reviews.default.svc.cluster.local, subset: v2}}]
  - match: [{uri: {prefix: /other}}]
    route: [{destination: {host: reviews.default.svc.cluster.local, subset: v2}}]
  - match: [{headers: {x-kind: {exact: gold}}}]
    route: [{destination: {host: reviews.default.svc.cluster.local, subset: v2}}]
"""


def test_a_delegate_routes_what_its_root_gives_it(site: Site) -> None:
    with site.client(DELEGATED) as client:
        assert (client.get("reviews", "/team/two/x").name, client.get("reviews", "/other").name) == ("v2", "v1")
        assert client.get("reviews", "/team/two/x").document["path"] == "/rewritten/x"
        assert client.get("reviews", "/team/three", x_kind="gold").name == "v2"
        assert client.get("reviews", "/else", x_kind="gold").name == "v1"
        assert client.get("reviews", "/gone").name == "v1", "as if the route were not there"


def test_tcp_service_where_the_server_speaks_first(site: Site) -> None:
    address = (site.outbound["page"], site.tcp_port)
    with site.client(""):
        assert {_greet(address) for _ in range(6)} == {"v1", "v2"}
    with site.client(route_rule("tcp", only("v2"), service="mysql")):
        assert {_greet(address) for _ in range(6)} == {"v2"}


def _greet(address: tuple[str, int]) -> str:
    with socket.create_connection(address, timeout=10) as connection, connection.makefile("rwb") as stream:
        name = stream.readline().decode().strip()
        stream.write(b"hello\n")
        stream.flush()
        assert stream.readline() == b"hello\n"
        return name
