"""Collectors of traces for tests: by Zipkin's JSON, by OTLP over gRPC and HTTP; and some that do not work."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # xds-protos has it

from tests.integration.server_thread import serving

_KINDS = {2: "SERVER", 3: "CLIENT"}


class Span(Struct, frozen=True):
    """A span, whoever's protocol it came by."""

    protocol: str
    trace: str
    id: str
    parent: str
    kind: str
    service: str
    name: str
    tags: dict[str, str]


class Collectors:
    """All spans that came."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        """Of reports by HTTP."""
        self.reports = 0
        """That nothing was done with."""

    @contextmanager
    def by_http(self, address: str, port: int) -> Iterator[None]:
        """Take Zipkin's spans at /api/v2/spans and OTLP's at /v1/traces."""
        collectors = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = _body(self)
                collectors.headers.append({name.lower(): value for name, value in self.headers.items()})
                found = {"/api/v2/spans": _of_zipkin, "/v1/traces": _of_otlp}[self.path](body)
                collectors.spans.extend(found)
                self.send_response(202)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        with serving(ThreadingHTTPServer((address, port), Handler)):
            yield

    @contextmanager
    def by_grpc(self, address: str, port: int) -> Iterator[None]:
        """Take OTLP's spans."""

        def export(request: Any, context: object) -> Any:
            self.spans.extend(_spans_of(request, "grpc"))
            return trace_service_pb2.ExportTraceServiceResponse()

        method = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
            response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        with ThreadPoolExecutor(2) as pool:
            server = grpc.server(pool)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
            server.add_insecure_port(f"{address}:{port}")
            server.start()
            try:
                yield
            finally:
                server.stop(None).wait()

    @contextmanager
    def broken(self, address: str, port: int, how: str) -> Iterator[None]:
        """Take reports and hang until the block ends (`slow`), or answer what is no HTTP without an end (`hostile`)."""
        collectors, over = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collectors.reports += 1
                if how == "slow":
                    over.wait()
                    return
                for _ in range(200):
                    self.wfile.write(b"no status line at all " * 1000)

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """Keep quiet about connections that Envoy has closed."""

        with serving(Server((address, port), Handler)):
            try:
                yield
            finally:
                over.set()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """Return the request's body, in chunks or in one piece."""
    if request.headers.get("transfer-encoding") != "chunked":
        return request.rfile.read(int(request.headers["content-length"]))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def _of_zipkin(body: bytes) -> list[Span]:
    return [
        Span(
            "zipkin",
            one["traceId"],
            one["id"],
            one.get("parentId", ""),
            one["kind"],
            one["localEndpoint"].get("serviceName", ""),
            one["name"],
            one["tags"],
        )
        for one in json.loads(body)
    ]


def _of_otlp(body: bytes) -> list[Span]:
    return _spans_of(trace_service_pb2.ExportTraceServiceRequest.FromString(body), "http")


def _spans_of(request: Any, protocol: str) -> list[Span]:
    return [
        Span(
            protocol,
            one.trace_id.hex(),
            one.span_id.hex(),
            one.parent_span_id.hex(),
            _KINDS.get(one.kind, ""),
            {each.key: each.value.string_value for each in resource.resource.attributes}.get("service.name", ""),
            one.name,
            {each.key: each.value.string_value for each in one.attributes},
        )
        for resource in request.resource_spans
        for scope in resource.instrumentation_library_spans  # its older name: xds-protos' messages are of then
        for one in scope.spans
    ]
