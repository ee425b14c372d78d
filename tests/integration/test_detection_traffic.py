"""Ports of the protocol `auto` on real traffic, at callers and in front of instances, in every mode of mutual TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from agent.translate.detection import DETECTION_SECONDS
from agent.translate.inbound import SERVER_FIRST_SECONDS
from tests.integration.grpc_application import GrpcClient, grpc_application
from tests.integration.moody_application import moody_application, server_tls
from tests.integration.rendered_mesh import (
    Client,
    greeting_application,
    http_application,
    loopback_network,
    rendered_envoy,
)
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port

DOMAIN = "mesh.test"
NAMES = ("web", "cart", "db", "secret")
"""What they speak: HTTP/1, gRPC, server-first TCP, TLS of their own."""
BUSY_SECONDS = 1.0
"""What a busy machine may add to a wait."""
MODES = ("strict", "permissive", "disabled")

OLD_RULES = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: abort}
spec:
  destination: {name: web}
  match: {request: {headers: {x-abort: {exact: "yes"}}}}
  httpFault: {abort: {percent: 100, httpStatus: 418}}
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: page}
spec: {destination: {name: page}, route: [{destination: {name: web}}]}
"""
NEW_RULES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - match: [{headers: {x-abort: {exact: "yes"}}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: web}}]
  - route: [{destination: {host: web}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: page}
spec: {hosts: [page], http: [{route: [{destination: {host: web}}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec: {hosts: [db], http: [{route: [{destination: {host: db}}]}], tcp: [{route: [{destination: {host: db}}]}]}
"""


class Pair:
    """A host with four applications behind its Envoy, all of the protocol `auto`, and a client's host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.server, self.client = f"{net}.10", f"{net}.1"
        self.ports = {name: free_port() for name in NAMES}
        self.page_port = free_port()
        self.authority = TestAuthority()
        self.certs = {
            node: str(self.authority.write(folder / node, f"spiffe://{DOMAIN}/ns/default/sa/{node}"))
            for node in ("server", "client")
        }

    def catalog(self, mode: str) -> str:
        services = "".join(
            f"- {{name: {name}, serviceAccount: server, ports: [{{port: {port}, protocol: auto}}],"
            " instances: [{node: server, proxied: true}]}\n"
            for name, port in self.ports.items()
        )
        return f"""
mesh: {{mtls: {mode}, trustDomain: {DOMAIN}}}
nodes: [{{name: server, address: {self.server}}}, {{name: client, address: {self.client}}}]
services:
{services}- name: page
  serviceAccount: client
  ports: [{{name: http, port: {self.page_port}}}]
  instances: [{{node: client, proxied: true}}]
"""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Run the applications."""
        tls = server_tls(str(self.authority.write_for_host(self.folder / "tls", "secret.example.com")))
        with (
            http_application("web", "127.0.0.1", self.ports["web"]),
            grpc_application("cart", "127.0.0.1", self.ports["cart"]),
            greeting_application("db", "127.0.0.1", self.ports["db"]),
            moody_application("secret", "127.0.0.1", self.ports["secret"], tls),
        ):
            yield

    @contextmanager
    def meshed(self, mode: str, rules: str) -> Iterator[None]:
        """Run both Envoys."""
        catalog, certs = self.catalog(mode), {} if mode == "disabled" else self.certs
        with ExitStack() as stack:
            for node, bound in (("server", {"bind_inbound": self.server}), ("client", {"bind_outbound": self.client})):
                options = {**bound, **({"certs": certs[node]} if certs else {})}
                listening = (getattr(self, node), self.ports["web"])
                said = stack.enter_context(rendered_envoy(self.folder, node, catalog, rules, listening, **options))
                assert "left out" not in said, said
            yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("detection"))
    with pair.serving():
        yield pair


@pytest.fixture(scope="module", params=[(mode, rules) for mode in MODES for rules in ("old", "new")], ids="-".join)
def mode(pair: Pair, request: pytest.FixtureRequest) -> Iterator[str]:
    mode, generation = request.param
    with pair.meshed(mode, OLD_RULES if generation == "old" else NEW_RULES):
        yield mode


def test_http_is_found_and_follows_rules_about_requests(pair: Pair, mode: str) -> None:
    with closing(Client(pair.client, pair.ports["web"])) as client:
        answer = client.get("any.name.at.all")
        assert answer.name == "web"
        by = answer.request_headers.get("x-forwarded-client-cert", "")
        # The instance's Envoy, which sees no bytes before the handshake, knows it for HTTP too.
        assert ("sa/client" in by) is (mode != "disabled")
        assert client.get("web", x_abort="yes").status == 418


def test_routes_of_another_service_lead_there_too(pair: Pair, mode: str) -> None:
    with closing(Client(pair.client, pair.page_port)) as client:
        assert client.get("page").name == "web"


def test_http_2_is_found(pair: Pair, mode: str) -> None:
    with closing(GrpcClient(pair.client, pair.ports["cart"], "cart")) as client:
        answer = client.get("x")
        assert answer["name"] == "cart"
        assert ("x-forwarded-client-cert" in answer["headers"]) is (mode != "disabled")
        assert client.count(2) == ["cart-0", "cart-1"]


def test_a_server_that_speaks_first_waits_shortly(pair: Pair, mode: str) -> None:
    started = time.monotonic()
    with socket.create_connection((pair.client, pair.ports["db"]), timeout=20) as connection:
        stream = connection.makefile("rwb")
        assert stream.readline() == b"db\n"
        assert time.monotonic() - started < DETECTION_SECONDS + SERVER_FIRST_SECONDS + BUSY_SECONDS
        stream.write(b"GET is a word\n")
        stream.flush()
        assert stream.readline() == b"GET is a word\n"


def test_other_bytes_pass_whole_and_at_once(pair: Pair, mode: str) -> None:
    context = ssl.create_default_context(cafile=str(pair.folder / "tls" / "root-cert.pem"))
    context.set_alpn_protocols(["http/1.1"])
    with (
        socket.create_connection((pair.client, pair.ports["secret"]), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="secret.example.com") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: secret.example.com\r\nConnection: close\r\n\r\n")
        assert b'"name": "secret"' in connection.makefile("rb").read()


def test_in_front_of_the_instance_plain_text_is_told_apart_too(pair: Pair, mode: str) -> None:
    if mode == "strict":
        with pytest.raises(OSError), closing(Client(pair.server, pair.ports["web"])) as client:  # noqa: PT011  # closed
            client.get("web")
        return
    with closing(Client(pair.server, pair.ports["web"])) as client:
        forged = client.get("web", x_forwarded_client_cert="URI=spiffe://mesh.test/ns/evil/sa/evil")
        assert "x-forwarded-client-cert" not in forged.request_headers  # taken out, so it was seen as HTTP
    with socket.create_connection((pair.server, pair.ports["db"]), timeout=20) as connection:
        assert connection.makefile("rb").readline() == b"db\n"
