"""Serving HTTP: what the lab's applications share. Standard library only; knows nothing of any mesh.

One thread for each connection. Every answer names the instance that gave it in the header `x-served-by`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any
from urllib.parse import parse_qs, urlsplit

MAX_BODY = 1 << 20
DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Request:
    """One HTTP request; `parameters` are the groups of the route's pattern."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = field(default=())
    upgraded: Callable[[BufferedIOBase, BufferedIOBase], None] | None = None
    """What the connection is for from then on (status 101): called with both directions, ends when that returns."""


Handler = Callable[[Request], Answer]


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return the value as a JSON answer."""
    return Answer(json.dumps(value).encode(), status)


def text_answer(text: str, content_type: str = "text/plain; charset=utf-8", status: int = 200) -> Answer:
    """Return the text as an answer."""
    return Answer(text.encode(), status, content_type)


def redirect(location: str, *headers: tuple[str, str]) -> Answer:
    """Return a 302 to the location."""
    return Answer(b"", HTTPStatus.FOUND, "text/plain; charset=utf-8", (("Location", location), *headers))


class Application:
    """The routes of one application: method, path pattern (a regular expression that matches all of it), handler."""

    def __init__(self, name: str, version: str = "", access_log: bool = False) -> None:
        self.name = name
        self.access_log = access_log
        self.served_by = " ".join(filter(None, (instance_name(), version)))
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []

    def route(self, method: str, pattern: str, handler: Handler) -> None:
        """Answer these requests by the handler; the first route that matches wins."""
        self._routes.append((method, re.compile(pattern), handler))

    def answer(self, request: Request) -> Answer:
        """Return the handler's answer, 404 for an unknown path, 405 for a known one with another method."""
        method = "GET" if request.method == "HEAD" else request.method
        allowed = set()
        for route_method, pattern, handler in self._routes:
            found = pattern.fullmatch(request.path)
            if found and route_method == method:
                return handler(Request(**{**vars(request), "parameters": found.groups()}))
            if found:
                allowed.add(route_method)
        if allowed:
            answer = json_answer({"error": "method not allowed"}, HTTPStatus.METHOD_NOT_ALLOWED)
            return Answer(answer.body, answer.status, answer.content_type, (("Allow", ", ".join(sorted(allowed))),))
        return json_answer({"error": "not found"}, HTTPStatus.NOT_FOUND)


def instance_name() -> str:
    """Return this instance's name: HOSTNAME from the environment, or the machine's."""
    return os.environ.get("HOSTNAME") or socket.gethostname()


def run(application: Application, arguments: list[str], tls: ssl.SSLContext | None = None) -> None:
    """Serve on 0.0.0.0 and the port in the arguments (9080) until SIGTERM; requests under way finish."""
    try:
        (text,) = arguments or ["9080"]
        server = Server(("0.0.0.0", int(text)), application, tls)
    except (ValueError, OverflowError):
        sys.exit(f"{application.name}: usage: {application.name}.py [PORT]")
    except OSError as error:
        sys.exit(f"{application.name}: cannot listen on port {text}: {error.strerror}")
    for number in (signal.SIGTERM, signal.SIGINT):
        # shutdown() waits for serve_forever, which runs in this very thread: so from another one.
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.log(f"serving on port {server.server_port}")
    server.serve_forever(poll_interval=0.2)
    server.server_close()
    server.drain(DRAIN_SECONDS)


class Server(ThreadingHTTPServer):
    """The listener, which counts the requests under way so that it can drain."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], application: Application, tls: ssl.SSLContext | None = None) -> None:
        self.application = application
        self._active = 0
        self._idle = threading.Condition()
        super().__init__(address, ConnectionHandler)
        if tls is not None:
            # The handshake happens in the connection's own thread, not where connections are accepted.
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def answer(self, request: Request) -> Answer:
        """Return the application's answer; a fault of its own is a 500 and a line in the log."""
        try:
            return self.application.answer(request)
        except Exception as error:  # noqa: BLE001 - outermost frame: one bad request must not cost the connection
            self.log(f"{request.path}: {error!r}")
            return json_answer({"error": "internal error"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count a request as under way, until its answer is written."""
        with self._idle:
            self._active += 1
        try:
            yield
        finally:
            with self._idle:
                self._active -= 1
                self._idle.notify_all()

    def drain(self, seconds: float) -> None:
        """Wait until no request is under way, at most so many seconds."""
        with self._idle:
            self._idle.wait_for(lambda: self._active == 0, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line that a connection broke (clients may go away at any time)."""
        self.log(f"{client_address[0]}: {sys.exc_info()[1]!r}")

    def log(self, text: str) -> None:
        """Write one line to stderr."""
        sys.stderr.write(f"{self.application.name}: {text}\n")
        sys.stderr.flush()


class ConnectionHandler(BaseHTTPRequestHandler):
    """One connection: reads requests, writes answers."""

    protocol_version = "HTTP/1.1"
    server: Server
    timeout = 300
    wbufsize = -1  # headers and body in one segment
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer one request."""
        length = self._body_length()
        if length is None:
            self.close_connection = True
            self._send(json_answer({"error": "request body refused"}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE))
            return
        url = urlsplit(self.path)
        body = self.rfile.read(length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.under_way():
            request = Request(self.command, url.path, parse_qs(url.query, keep_blank_values=True), headers, body)
            answer = self.server.answer(request)
            self._send(answer)
        self._log_access(request, answer)
        if answer.upgraded is not None:
            self.close_connection = True
            answer.upgraded(self.rfile, self.wfile)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET

    def _body_length(self) -> int | None:
        """Return how long the body is, None where it is chunked, nonsense or too long."""
        text = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not text.isdecimal() or int(text) > MAX_BODY:
            return None
        return int(text)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.upgraded is None:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("x-served-by", self.server.application.served_by)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def _log_access(self, request: Request, answer: Answer) -> None:
        """Write a line of what was asked, where the application keeps an access log; health checks are left out."""
        if self.server.application.access_log and request.path != "/health":
            host, agent = (request.headers.get(name, "-") for name in ("host", "user-agent"))
            self.server.log(f'"{request.method} {request.path}" {answer.status} host={host} agent={agent}')

    def version_string(self) -> str:
        """Return what stands in the header Server."""
        return self.server.application.name

    def log_message(self, *_: Any) -> None:
        """Keep no access log: the proxies have one."""
