"""External authorizers for tests, by HTTP and by gRPC: who bears `x-let-me: in` may pass."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from envoy.service.auth.v3 import external_auth_pb2, external_auth_pb2_grpc
from google.rpc import status_pb2

from tests.integration.server_thread import serving


class Authorizers:
    """What both have been asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    @contextmanager
    def by_http(self, address: str, port: int) -> Iterator[None]:
        """Answer 200 or 403; what the request's path is stands behind the prefix."""
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                passes = self.headers.get("x-let-me") == "in"
                self.send_response(200 if passes else 403)
                self.send_header("x-decided-by", self.headers.get("x-mesh", "nobody"))
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        with serving(ThreadingHTTPServer((address, port), Handler)):
            yield

    @contextmanager
    def by_grpc(self, address: str, port: int) -> Iterator[None]:
        """Answer OK or PERMISSION_DENIED; connections pass by the caller's identity."""
        asked = self.asked

        class Service(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
            def Check(self, request: object, context: object) -> object:
                attributes = request.attributes  # type: ignore[attr-defined]
                asked.append(attributes.request.http.path or attributes.source.principal)
                let_in = attributes.request.http.headers.get("x-let-me") == "in"
                passes = let_in or "reviews" in attributes.source.principal
                return external_auth_pb2.CheckResponse(status=status_pb2.Status(code=0 if passes else 7))

        with ThreadPoolExecutor(2) as pool:
            server = grpc.server(pool)
            external_auth_pb2_grpc.add_AuthorizationServicer_to_server(Service(), server)
            server.add_insecure_port(f"{address}:{port}")
            server.start()
            try:
                yield
            finally:
                server.stop(None).wait()
