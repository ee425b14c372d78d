"""`hostmesh render` with certificates: two real Envoys, mutual TLS, secure naming, strict and permissive."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
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
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port

DOMAIN = "mesh.test"
SERVER_ID = f"spiffe://{DOMAIN}/ns/default/sa/bookinfo-ratings"
CLIENT_ID = f"spiffe://{DOMAIN}/ns/default/sa/bookinfo-reviews"


class Pair:
    """A server host with an HTTP and a server-first TCP application behind its Envoy, and a client host's address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.server, self.client = f"{net}.10", f"{net}.1"
        self.http_port, self.tcp_port = free_port(), free_port()
        self.authority = TestAuthority()
        self._certificates = 0

    def certificates(self, spiffe_id: str, authority: TestAuthority | None = None) -> str:
        """Write a folder of certificates."""
        self._certificates += 1
        return str((authority or self.authority).write(self.folder / f"certs-{self._certificates}", spiffe_id))

    def catalog(self, mode: str) -> str:
        return f"""
mesh: {{mtls: {mode}, trustDomain: {DOMAIN}}}
nodes: [{{name: server, address: {self.server}}}, {{name: client, address: {self.client}}}]
services:
- name: ratings
  serviceAccount: bookinfo-ratings
  ports: [{{name: http, port: {self.http_port}}}]
  instances: [{{node: server, proxied: true}}]
- name: mysql
  serviceAccount: bookinfo-ratings
  ports: [{{name: mysql, port: {self.tcp_port}}}]
  instances: [{{node: server, proxied: true}}]
- name: reviews
  serviceAccount: bookinfo-reviews
  ports: [{{name: http, port: 9997}}]
  instances: [{{node: client, proxied: true}}]
"""

    @contextmanager
    def serving(self, mode: str, certs: str) -> Iterator[None]:
        """Run the server's Envoy."""
        listening, catalog = (self.server, self.http_port), self.catalog(mode)
        with rendered_envoy(self.folder, "server", catalog, "", listening, bind_inbound=self.server, certs=certs):
            yield

    @contextmanager
    def calling(self, mode: str, certs: str) -> Iterator[Client]:
        """Run the client's Envoy; yields a client of it."""
        listening, catalog = (self.client, self.http_port), self.catalog(mode)
        with (
            rendered_envoy(self.folder, "client", catalog, "", listening, bind_outbound=self.client, certs=certs),
            closing(Client(self.client, self.http_port)) as client,
        ):
            yield client


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(tmp_path_factory.mktemp("mtls"))
    with ExitStack() as stack:
        stack.enter_context(http_application("ratings", "127.0.0.1", pair.http_port))
        stack.enter_context(greeting_application("mysql", "127.0.0.1", pair.tcp_port))
        yield pair


def test_strict_takes_the_mesh_s_own_clients_only(pair: Pair) -> None:
    certs = pair.certificates(CLIENT_ID)
    with pair.serving("strict", pair.certificates(SERVER_ID)), pair.calling("strict", certs) as client:
        answer = client.get("ratings", x_forwarded_client_cert="URI=spiffe://mesh.test/ns/evil/sa/evil")
        assert answer.name == "ratings"
        assert f"URI={CLIENT_ID}" in answer.request_headers["x-forwarded-client-cert"]
        assert "evil" not in answer.request_headers["x-forwarded-client-cert"]
        assert _greet((pair.client, pair.tcp_port)) == "mysql"
        with pytest.raises(OSError):  # noqa: PT011  # reset or closed, as the kernel's timing has it
            _get_plain(pair)
        assert not _handshake(pair, None)
        assert not _handshake(pair, pair.certificates("spiffe://other.test/ns/default/sa/bookinfo-reviews"))
        assert not _handshake(pair, pair.certificates(CLIENT_ID, TestAuthority()))
        assert _handshake(pair, pair.certificates(CLIENT_ID))


def test_server_with_another_service_s_identity_is_refused(pair: Pair) -> None:
    # The same root and a valid certificate: only its name is another service's (with the right one it works, above).
    certs = pair.certificates(CLIENT_ID)
    with pair.serving("strict", certs), pair.calling("strict", certs) as client:
        answer = client.get("ratings")
        assert answer.status == 503
        assert b"connection failure" in answer.body


def test_server_with_another_root_is_refused(pair: Pair) -> None:
    foreign = pair.certificates(SERVER_ID, TestAuthority())
    with pair.serving("strict", foreign), pair.calling("strict", pair.certificates(CLIENT_ID)) as client:
        assert client.get("ratings").status == 503


def test_permissive_takes_both(pair: Pair) -> None:
    certs = pair.certificates(CLIENT_ID)
    with pair.serving("permissive", pair.certificates(SERVER_ID)), pair.calling("permissive", certs) as client:
        assert f"URI={CLIENT_ID}" in client.get("ratings").request_headers["x-forwarded-client-cert"]
        answer = _get_plain(pair)
        assert b'"ratings"' in answer
        assert b"x-forwarded-client-cert" not in answer
        started = time.monotonic()
        assert _greet((pair.client, pair.tcp_port)) == "mysql"
        mesh_seconds = time.monotonic() - started
        assert _greet((pair.server, pair.tcp_port)) == "mysql"
        plain_seconds = time.monotonic() - started - mesh_seconds
        assert plain_seconds < 2, "a plain-text client of a server-first protocol waits too long"


def test_permissive_leaves_the_application_s_own_tls_alone(pair: Pair) -> None:
    hello = _client_hello() + b"\n"
    with (
        pair.serving("permissive", pair.certificates(SERVER_ID)),
        socket.create_connection((pair.server, pair.tcp_port), timeout=10) as connection,
    ):
        connection.sendall(hello)
        received = b""
        while not received.endswith(hello):
            part = connection.recv(65536)
            assert part, f"closed after {received!r}"
            received += part
        assert received.startswith(b"mysql\n")


def _client_hello() -> bytes:
    """Return the first bytes of an ordinary TLS client (without our ALPN)."""
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def _get_plain(pair: Pair) -> bytes:
    connection = http.client.HTTPConnection(pair.server, pair.http_port, timeout=10)
    try:
        connection.request("GET", "/", headers={"x-forwarded-client-cert": "URI=spiffe://mesh.test/forged"})
        return connection.getresponse().read()
    finally:
        connection.close()


def _handshake(pair: Pair, certs: str | None) -> bool:
    """Tell whether the server's Envoy takes a TLS client with this certificate and answers its request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certs:
        context.load_cert_chain(f"{certs}/cert-chain.pem", f"{certs}/key.pem")
    try:
        with (
            socket.create_connection((pair.server, pair.http_port), timeout=10) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(b"GET / HTTP/1.1\r\nhost: ratings\r\n\r\n")
            return connection.recv(4096).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _greet(address: tuple[str, int]) -> str:
    with socket.create_connection(address, timeout=10) as connection, connection.makefile("rwb") as stream:
        name = stream.readline().decode().strip()
        stream.write(b"hello\n")
        stream.flush()
        assert stream.readline() == b"hello\n"
        return name
