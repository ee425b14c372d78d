"""One host behind a rendered Envoy, called directly as anybody: to see who may call what under rules of security."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.integration.rendered_mesh import (
    Answer,
    greeting_application,
    http_application,
    loopback_network,
    rendered_envoy,
)
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port

DOMAIN = "mesh.test"
SERVER = "ns/default/sa/bookinfo-ratings"
REVIEWS = "ns/default/sa/bookinfo-reviews"
PLAIN = ""
"""Calls without a certificate."""


class Guarded:
    """A host that serves `ratings` (HTTP) and `mysql` (TCP, the server speaks first), both with labels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.server, self.client = f"{net}.10", f"{net}.1"
        self.http_port, self.tcp_port, self.admin_port = free_port(), free_port(), free_port()
        self.authority = TestAuthority()
        self._folders: dict[str, str] = {}
        self.settings = ""
        self.services = ""
        self.nodes = ""
        """More of the catalog (nodes: `, {…}`)."""
        self.source = ""
        """The address that callers call from; empty: any."""
        self.said = ""
        """What rendering warned of."""

    def certificates(self, identity: str, domain: str = DOMAIN) -> str:
        """Return a folder of certificates of an identity."""
        spiffe = f"spiffe://{domain}/{identity}"
        if spiffe not in self._folders:
            place = self.folder / f"certs-{len(self._folders)}"
            self._folders[spiffe] = str(self.authority.write(place, spiffe))
        return self._folders[spiffe]

    def catalog(self, mode: str = "PERMISSIVE", annotations: str = "{}") -> str:
        return f"""
mesh: {{authPolicy: {mode}, trustDomain: {DOMAIN}{self.settings}}}
nodes: [{{name: server, address: {self.server}}}, {{name: client, address: {self.client}}}{self.nodes}]
services:
- name: ratings
  serviceAccount: bookinfo-ratings
  annotations: {annotations}
  ports: [{{name: http, port: {self.http_port}}}]
  instances: [{{node: server, proxied: true, labels: {{app: ratings, version: v1}}}}]
- name: mysql
  serviceAccount: bookinfo-ratings
  ports: [{{name: mysql, port: {self.tcp_port}}}]
  instances: [{{node: server, proxied: true, labels: {{app: mysql}}}}]
- name: reviews
  serviceAccount: bookinfo-reviews
  ports: [{{name: http, port: 9997}}]
  instances: [{{node: client, proxied: true, labels: {{app: reviews}}}}]
{self.services}"""

    @contextmanager
    def applications(self) -> Iterator[None]:
        """Run what is behind the Envoy."""
        with ExitStack() as stack:
            stack.enter_context(http_application("ratings", "127.0.0.1", self.http_port))
            stack.enter_context(greeting_application("mysql", "127.0.0.1", self.tcp_port))
            yield

    @contextmanager
    def serving(self, rules: str = "", mode: str = "PERMISSIVE", annotations: str = "{}") -> Iterator[None]:
        """Run the server's Envoy."""
        listening, catalog = (self.server, self.http_port), self.catalog(mode, annotations)
        certs, admin = self.certificates(SERVER), f"127.0.0.1:{self.admin_port}"
        with rendered_envoy(
            self.folder, "server", catalog, rules, listening, bind_inbound=self.server, certs=certs, admin=admin
        ) as self.said:
            yield

    @contextmanager
    def calling(self, rules: str = "", mode: str = "PERMISSIVE", annotations: str = "{}") -> Iterator[None]:
        """Run the client host's Envoy, which listens for calls of its applications."""
        listening, catalog = (self.client, self.http_port), self.catalog(mode, annotations)
        certs = self.certificates(REVIEWS)
        with rendered_envoy(self.folder, "client", catalog, rules, listening, bind_outbound=self.client, certs=certs):
            yield

    def ask(
        self, path: str = "/", caller: str = REVIEWS, method: str = "GET", host: str = "ratings", **headers: str
    ) -> Answer:
        """Send one request to the server's Envoy as an identity (PLAIN: in plain text); OSError: no connection."""
        with self._connection(self.http_port, caller) as connection:
            asking = http.client.HTTPConnection(self.server, self.http_port, timeout=20)
            asking.sock = connection
            sent = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
            try:
                asking.request(method, path, headers=sent)
                return Answer(asking.getresponse())
            except http.client.HTTPException as error:
                raise ConnectionError(str(error)) from error

    def status(self, path: str = "/", caller: str = REVIEWS, method: str = "GET", **headers: str) -> int:
        """Return the status of one request; 0: there is no connection."""
        try:
            return self.ask(path, caller, method, **headers).status
        except OSError:
            return 0

    def greets(self, caller: str = REVIEWS) -> bool:
        """Tell whether such a caller can talk to the TCP service: Envoy decides when its first bytes come."""
        try:
            with self._connection(self.tcp_port, caller) as connection, connection.makefile("rb") as stream:
                connection.sendall(b"hello\n")
                return [stream.readline(), stream.readline()] == [b"mysql\n", b"hello\n"]
        except OSError:
            return False

    def stats(self, word: str) -> dict[str, int]:
        """Return Envoy's counters with a word in their names."""
        asking = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=10)
        asking.request("GET", f"/stats?filter={word}")
        lines = asking.getresponse().read().decode().splitlines()
        asking.close()
        return {name: int(value) for name, _, value in (line.partition(": ") for line in lines) if value.isdigit()}

    @contextmanager
    def _connection(self, port: int, caller: str) -> Iterator[socket.socket]:
        own = (self.source, 0) if self.source else None
        with socket.create_connection((self.server, port), timeout=20, source_address=own) as plain:
            if caller == PLAIN:
                yield plain
                return
            folder = caller if caller.startswith("/") else self.certificates(caller)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["hostmesh"])
            context.load_cert_chain(f"{folder}/cert-chain.pem", f"{folder}/key.pem")
            with context.wrap_socket(plain, server_hostname="ratings.default") as connection:
                yield connection
