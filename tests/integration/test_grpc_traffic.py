"""gRPC through the mesh, by mutual TLS, in both generations: routing, weights, streams, trailers, status, gRPC-Web."""

from __future__ import annotations

import http.client
import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.integration.grpc_application import SERVICE, GrpcClient, grpc_application
from tests.integration.rendered_mesh import loopback_network, rendered_envoy
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port

DOMAIN = "mesh.test"
CALLS = 200
Code = grpc.StatusCode


class Shop:
    """cart v1 and v2, each behind its Envoy under strict mutual TLS; a client's host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.client = f"{net}.1"
        self.hosts = {"v1": f"{net}.11", "v2": f"{net}.12"}
        self.applications = {"v1": f"{net}.21", "v2": f"{net}.22"}
        self.port, self.web_port, self.idle_port = free_port(), free_port(), free_port()
        self.authority = TestAuthority()
        self.certs = {
            account: str(self.authority.write(folder / account, f"spiffe://{DOMAIN}/ns/default/sa/{account}"))
            for account in ("cart", "page")
        }

    def catalog(self, addresses: dict[str, str]) -> str:
        """Return the mesh with the instances there: callers know their Envoys' addresses, Envoys the applications'."""
        nodes = "".join(f", {{name: {version}, address: {address}}}" for version, address in addresses.items())
        instances = ", ".join(f"{{node: {v}, labels: {{version: {v}}}, proxied: true}}" for v in self.hosts)
        return f"""
mesh: {{mtls: strict, trustDomain: {DOMAIN}}}
nodes: [{{name: page, address: {self.client}}}{nodes}]
services:
- name: cart
  serviceAccount: cart
  ports: [{{name: grpc, port: {self.port}}}, {{name: grpc-web, port: {self.web_port}}}]
  instances: [{instances}]
- name: idle
  ports: [{{name: grpc-idle, port: {self.idle_port}}}]
- name: page
  serviceAccount: page
  ports: [{{name: http, port: 9998}}]
  instances: [{{node: page, proxied: true}}]
"""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run both instances and their Envoys."""
        catalog = self.catalog(self.applications)
        with ExitStack() as stack:
            for version, bound in self.hosts.items():
                for port in (self.port, self.web_port):
                    stack.enter_context(grpc_application(version, self.applications[version], port))
                envoy = rendered_envoy(
                    self.folder, version, catalog, "", (bound, self.port), bind_inbound=bound, certs=self.certs["cart"]
                )
                stack.enter_context(envoy)
            yield

    @contextmanager
    def calling(self, rules: str = "", service: str = "cart") -> Iterator[GrpcClient]:
        """Run the client's Envoy; yields a client of a service."""
        port = self.idle_port if service == "idle" else self.port
        listening, certs, catalog = (self.client, port), self.certs["page"], self.catalog(self.hosts)
        with rendered_envoy(
            self.folder, "page", catalog, rules, listening, bind_outbound=self.client, certs=certs
        ) as said:
            assert "left out" not in said, said
            with closing(GrpcClient(self.client, port, service)) as client:
                yield client


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    shop = Shop(tmp_path_factory.mktemp("grpc"))
    with shop.serving():
        yield shop


def old(name: str, spec: str, precedence: int) -> str:
    return f"""
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {{name: {name}}}
spec: {{destination: {{name: cart}}, precedence: {precedence}, {spec}}}
---"""


def new(http: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: cart}}
spec: {{host: cart, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: cart}}
spec:
  hosts: [cart]
  http: {http}
"""


OLD_ROUTES = (
    old("default", "route: [{labels: {version: v1}}]", 1)
    + old("user", "match: {request: {headers: {x-user: {exact: jason}}}}, route: [{labels: {version: v2}}]", 2)
    + old("count", "match: {request: {headers: {uri: {exact: /shop.Cart/Count}}}}, route: [{labels: {version: v2}}]", 3)
)
NEW_ROUTES = new(
    """
  - match: [{uri: {exact: /shop.Cart/Count}}, {headers: {x-user: {exact: jason}}}]
    route: [{destination: {host: cart, subset: v2}}]
  - route: [{destination: {host: cart, subset: v1}}]"""
)
BOTH = pytest.mark.parametrize("generation", ["v1alpha2", "v1"])


@BOTH
def test_calls_are_routed_by_method_and_metadata(shop: Shop, generation: str) -> None:
    with shop.calling(OLD_ROUTES if generation == "v1alpha2" else NEW_ROUTES) as client:
        answers = [client.get("x") for _ in range(6)]
        assert {answer["name"] for answer in answers} == {"v1"}
        assert answers[0]["request"] == "x"
        assert {client.get(x_user="jason")["name"] for _ in range(6)} == {"v2"}
        assert client.count(3) == ["v2-0", "v2-1", "v2-2"]
        assert client.ping_pong(4) == ["v1:0", "v1:1", "v1:2", "v1:3"]


@BOTH
def test_weights_split_calls_of_one_channel(shop: Shop, generation: str) -> None:
    shares = {"v1": "route: [{labels: {version: v1}, weight: 70}, {labels: {version: v2}, weight: 30}]"}
    rules = old("split", shares["v1"], 1)
    if generation == "v1":
        rules = new(
            "[{route: [{destination: {host: cart, subset: v1}, weight: 70},"
            " {destination: {host: cart, subset: v2}, weight: 30}]}]"
        )
    with shop.calling(rules) as client:
        counts = Counter(client.get()["name"] for _ in range(CALLS))
    assert abs(counts["v2"] - 0.3 * CALLS) <= 5 * math.sqrt(CALLS * 0.3 * 0.7), counts


def test_status_and_trailers_come_through(shop: Shop) -> None:
    with shop.calling(new("[{route: [{destination: {host: cart, subset: v1}}]}]")) as client:
        assert client.trailers()["x-trailer"] == "v1"
        error = client.error("Fail", "spoon")
        assert (error.code(), error.details()) == (Code.NOT_FOUND, "no spoon here")
        assert {pair.key: pair.value for pair in error.trailing_metadata()}["x-trailer"] == "v1"
        assert client.error("Missing").code() is Code.UNIMPLEMENTED


def test_without_a_route_the_status_is_grpc_s(shop: Shop) -> None:
    route = "[{match: [{uri: {exact: /shop.Cart/Count}}], route: [{destination: {host: cart}}]}]"
    with shop.calling(new(route)) as client:
        assert client.error("Get").code() is Code.UNIMPLEMENTED  # 404


def test_without_an_instance_the_status_is_unavailable(shop: Shop) -> None:
    with shop.calling(service="idle") as client:
        assert client.error("Get").code() is Code.UNAVAILABLE


@BOTH
def test_an_abort_has_the_status_that_the_rule_names(shop: Shop, generation: str) -> None:
    abort = "abort: {percent: 100, grpcStatus: RESOURCE_EXHAUSTED}"
    rules = old("abort", f"httpFault: {{{abort}}}", 1)
    if generation == "v1":
        abort = "abort: {percentage: {value: 100}, grpcStatus: RESOURCE_EXHAUSTED}"
        rules = new(f"[{{fault: {{{abort}}}, route: [{{destination: {{host: cart}}}}]}}]")
    with shop.calling(rules) as client:
        assert client.error("Get").code() is Code.RESOURCE_EXHAUSTED


def test_grpc_web_becomes_grpc_in_front_of_the_instance(shop: Shop) -> None:
    with shop.calling():
        status, headers, frames = _grpc_web((shop.client, shop.web_port), "Get", b"hello")
        assert (status, headers["content-type"]) == (200, "application/grpc-web+proto")
        (kind, message), (last, trailers) = frames
        assert (kind, last) == (0, 0x80)
        assert json.loads(message)["request"] == "hello"
        assert b"grpc-status:0" in trailers
        _, headers, frames = _grpc_web((shop.client, shop.web_port), "Fail", b"x")
        assert "grpc-status:5" in (b"".join(body for _, body in frames).decode() + _joined(headers))
        with closing(GrpcClient(shop.client, shop.web_port, "cart")) as client:  # plain gRPC passes as it is
            assert client.get("plain")["request"] == "plain"


def _grpc_web(
    address: tuple[str, int], method: str, message: bytes
) -> tuple[int, dict[str, str], list[tuple[int, bytes]]]:
    """Call by gRPC-Web over HTTP/1.1; returns status, headers and the frames (flags, body) of the answer."""
    with closing(http.client.HTTPConnection(*address, timeout=20)) as connection:
        headers = {"Host": "cart", "Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"}
        connection.request("POST", f"/{SERVICE}/{method}", b"\0" + len(message).to_bytes(4, "big") + message, headers)
        answer = connection.getresponse()
        body, frames = answer.read(), []
        while body:
            end = 5 + int.from_bytes(body[1:5], "big")
            frames.append((body[0], body[5:end]))
            body = body[end:]
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, frames


def _joined(headers: dict[str, str]) -> str:
    return "".join(f"{key}:{value}\n" for key, value in headers.items())
