"""`hostmesh render` → real Envoys → traffic: weighted and Unix-socket endpoints of a ServiceEntry, a Sidecar's scope
and its ingress listeners.
"""

from __future__ import annotations

import json
import math
import socket
import socketserver
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.rendered_mesh import Client, http_application, loopback_network, rendered_envoy
from tests.integration.server_thread import serving
from tests.ports import free_port

REQUESTS = 400
SIGMAS = 5.0


class Site:
    """A caller, a host with a service, and places where applications are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.net = loopback_network()
        self.port, self.behind = free_port(f"{self.net}.1"), free_port("127.0.0.1")
        self.socket = folder / "application.sock"

    @property
    def catalog(self) -> str:
        return f"""
mesh: {{mtls: disabled}}
nodes: [{{name: caller, address: {self.net}.1}}, {{name: server, address: {self.net}.2}}]
services:
- name: page
  ports: [{{port: 9999, protocol: http}}]
  instances: [{{node: caller}}]
- name: reviews
  ports: [{{name: http, port: {self.port}}}]
  instances: [{{node: server, proxied: true}}]
- name: ratings
  ports: [{{name: http, port: {self.port}}}]
  instances: [{{node: server, address: {self.net}.12}}]
"""

    @contextmanager
    def caller(self, rules: str) -> Iterator[Client]:
        """Run the caller's Envoy with these rules; yields a client of it."""
        address = f"{self.net}.1"
        listening = (address, self.port)
        with (
            rendered_envoy(self.folder, "caller", self.catalog, rules, listening, bind_outbound=address),
            closing(Client(address, self.port)) as client,
        ):
            yield client

    @contextmanager
    def server(self, rules: str) -> Iterator[None]:
        """Run the server's Envoy with these rules, at the service's own address."""
        address = f"{self.net}.2"
        listening = (address, self.port)
        with rendered_envoy(self.folder, "server", self.catalog, rules, listening, bind_inbound=address):
            yield


@contextmanager
def unix_application(name: str, path: Path) -> Iterator[None]:
    """Serve HTTP on a Unix socket: every answer is JSON with the application's name."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps({"name": name}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_UNIX

        def server_bind(self) -> None:
            socketserver.TCPServer.server_bind(self)

    with serving(Server(str(path), Handler)):  # type: ignore[arg-type]  # a path is a Unix socket's address
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("render"))
    with ExitStack() as stack:
        for name, number in (("first", 11), ("ratings", 12), ("second", 13)):
            stack.enter_context(http_application(name, f"{site.net}.{number}", site.port))
        stack.enter_context(http_application("behind", "127.0.0.1", site.behind))
        stack.enter_context(unix_application("by-socket", site.socket))
        yield site


def entry(site: Site, *endpoints: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: e}}
spec:
  hosts: [entry.corp]
  resolution: STATIC
  ports: [{{number: {site.port}, name: http, protocol: HTTP}}]
  endpoints: [{", ".join(endpoints)}]
"""


def test_endpoints_get_traffic_by_weight(site: Site) -> None:
    light, heavy = f"{{address: {site.net}.11}}", f"{{address: {site.net}.13, weight: 3}}"
    with site.caller(entry(site, light, heavy)) as client:
        counts = Counter(client.get("entry.corp").name for _ in range(REQUESTS))
    assert set(counts) == {"first", "second"}
    assert abs(counts["second"] - REQUESTS * 0.75) < SIGMAS * math.sqrt(REQUESTS * 0.75 * 0.25)


def test_an_endpoint_that_is_a_unix_socket(site: Site) -> None:
    with site.caller(entry(site, f'{{address: "unix://{site.socket}"}}')) as client:
        assert client.get("entry.corp").name == "by-socket"


def sidecar(spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s}}\nspec: {spec}\n"


def test_what_is_out_of_the_scope_cannot_be_called_by_any_name(site: Site) -> None:
    with site.caller("") as client:
        assert client.get("ratings").name == "ratings"
    limited = sidecar("{egress: [{hosts: [./reviews.default.svc.cluster.local]}]}")
    with site.caller(limited) as client:
        for host in ("ratings", "ratings.default.svc.cluster.local", "ratings.service.consul"):
            assert client.get(host).status == 502
        assert client.get("reviews").status == 503, "it is in the scope, and nothing runs there now"


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
@pytest.mark.parametrize("place", ["port", "socket"])
def test_ingress_listeners_lead_to_where_the_application_is(site: Site, protocol: str, place: str) -> None:
    endpoint = f"127.0.0.1:{site.behind}" if place == "port" else f"unix://{site.socket}"
    listener = f'{{port: {{number: {site.port}, protocol: {protocol}, name: x}}, defaultEndpoint: "{endpoint}"}}'
    with site.server(sidecar(f"{{ingress: [{listener}]}}")), site.caller("") as client:
        assert client.get("reviews").name == ("behind" if place == "port" else "by-socket")
