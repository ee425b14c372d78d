"""A DestinationRule's tunnel on real traffic: TCP connections go through an HTTP proxy to a host behind it."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.integration.rendered_mesh import greeting_application, loopback_network, rendered_envoy
from tests.integration.server_thread import serving
from tests.ports import free_port
from tests.waiting import wait_for

TARGET = "db.example.com:3306"


class Site:
    """A client, a forward proxy, and a server that only the proxy can find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.client, self.proxy, self.server = f"{net}.1", f"{net}.10", f"{net}.20"
        self.port, self.proxy_port = free_port(), free_port()
        self.heads: list[str] = []
        """The requests that the proxy got."""

    @property
    def catalog(self) -> str:
        return f"""
mesh: {{mtls: disabled}}
nodes: [{{name: page, address: {self.client}}}, {{name: proxy, address: {self.proxy}}}]
services:
- name: db
  ports: [{{name: tcp, port: {self.port}}}]
  instances: []
- name: proxy
  ports: [{{name: tcp, port: {self.proxy_port}}}]
  instances: [{{node: proxy}}]
"""

    @contextmanager
    def calling(self, protocol: str) -> Iterator[tuple[str, int]]:
        """Run the client's Envoy, with connections to db routed into a tunnel; yields db's address there."""
        rules = f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: proxy}}
spec:
  host: proxy
  subsets:
  - name: to-db
    trafficPolicy: {{tunnel: {{protocol: {protocol}, targetHost: db.example.com, targetPort: 3306}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: db}}
spec:
  hosts: [db]
  tcp: [{{route: [{{destination: {{host: proxy, subset: to-db, port: {{number: {self.proxy_port}}}}}}}]}}]
"""
        listening = (self.client, self.port)
        with rendered_envoy(self.folder, "page", self.catalog, rules, listening, bind_outbound=self.client) as said:
            assert "left out" not in said, said
            self.heads.clear()
            yield listening


@contextmanager
def forward_proxy(site: Site) -> Iterator[None]:
    """Serve CONNECT for the target; note the head of every request."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = [line.decode().strip() for line in iter(self.rfile.readline, b"\r\n") if line]
            site.heads.append("\n".join(lines))
            if not lines or lines[0] != f"CONNECT {TARGET} HTTP/1.1":
                return
            with socket.create_connection((site.server, site.port), timeout=10) as upstream:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pump, args=(upstream, self.connection), daemon=True)
                back.start()
                pump(self.connection, upstream)
                back.join(10)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with serving(Server((site.proxy, site.proxy_port), Handler)):
        yield


def pump(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one side ends."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("tunnel"))
    with greeting_application("db", site.server, site.port), forward_proxy(site):
        yield site


def test_connections_go_through_the_proxy(site: Site) -> None:
    with site.calling("CONNECT") as address, socket.create_connection(address, timeout=10) as connection:
        stream = connection.makefile("rwb")
        assert stream.readline() == b"db\n"
        stream.write(b"one\n")
        stream.flush()
        assert stream.readline() == b"one\n"
    assert {head.splitlines()[0] for head in site.heads if head} == {f"CONNECT {TARGET} HTTP/1.1"}


def test_a_tunnel_by_post(site: Site) -> None:
    with site.calling("POST") as address, socket.create_connection(address, timeout=10):
        wait_for(lambda: any(site.heads), "the proxy is asked")
    head = next(head for head in site.heads if head)
    assert head.startswith("POST ")
    assert f"host: {TARGET}" in head
