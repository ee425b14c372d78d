"""An HTTP application (over TLS too) that answers as the test tells it to, instance by instance."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.integration.server_thread import serving


class MoodyApplication:
    """Answers JSON with its name and the request's headers, after `delay` seconds, with `status`."""

    def __init__(self, name: str, address: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.name = name
        self.status = 200
        self.health: int | None = None
        """The status of /healthz, if another."""
        self.delay = 0.0
        self.requests = 0
        self.server = _Server((address, port), _handler(self))
        self.server.daemon_threads = True
        self.server.tls = tls

    def count(self) -> int:
        """Return how many requests came since the last time."""
        self.requests, counted = 0, self.requests
        return counted


@contextmanager
def moody_application(
    name: str, address: str, port: int, tls: ssl.SSLContext | None = None
) -> Iterator[MoodyApplication]:
    """Serve until the block ends."""
    application = MoodyApplication(name, address, port, tls)
    with serving(application.server):
        yield application


def server_tls(folder: str, *, clients_from: str = "") -> ssl.SSLContext:
    """Return the context of a TLS server; with `clients_from` (a file of roots) clients need a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/cert-chain.pem", f"{folder}/key.pem")
    if clients_from:
        context.load_verify_locations(clients_from)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Server(ThreadingHTTPServer):
    tls: ssl.SSLContext | None = None

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close every connection too, as a program that ends does: its threads would go on answering."""
        super().server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: a handshake that fails is what some tests are about."""


def _handler(application: MoodyApplication) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            # The handshake belongs into the connection's own thread: a client that fails it must not stop the others.
            if application.server.tls is not None:
                self.request = application.server.tls.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_GET(self) -> None:
            application.requests += 1
            time.sleep(application.delay)
            headers = {key.lower(): value for key, value in self.headers.items()}
            tls = self.connection if isinstance(self.connection, ssl.SSLSocket) else None
            peer = (tls.getpeercert() or {}).get("subjectAltName", ()) if tls else ()
            body = json.dumps(
                {"name": application.name, "headers": headers, "client": [list(p) for p in peer]}
            ).encode()
            health = application.health if self.path == "/healthz" else None
            self.send_response(health or application.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    return Handler
