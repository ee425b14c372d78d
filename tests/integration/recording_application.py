"""An HTTP application that remembers what it was asked and misbehaves on request, to see what rules do to traffic."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from msgspec import Struct

from tests.integration.server_thread import serving


class Seen(Struct, frozen=True):
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


class RecordingApplication:
    """Answers with its name; `?wait=SECONDS`, `?status=CODE`, `?fail=TIMES` (the first requests of a path get 503)."""

    def __init__(self, name: str, address: str, port: int) -> None:
        self.name = name
        self._seen: list[Seen] = []
        self._changed = threading.Condition()
        self.server = ThreadingHTTPServer((address, port), _handler(self))
        self.server.daemon_threads = True

    def take(self) -> list[Seen]:
        """Return what was asked since the last time."""
        with self._changed:
            seen, self._seen = self._seen, []
            return seen

    def wait_for(self, count: int, seconds: float = 10.0) -> list[Seen]:
        """Return what was asked since the last time, once there are so many."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self._seen) >= count, seconds)
            assert done, f"{self.name}: {len(self._seen)} of {count} requests"
        return self.take()

    def note(self, seen: Seen) -> int:
        """Remember a request; return how many there were for its path."""
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()
            return sum(each.path == seen.path for each in self._seen)


def _handler(application: RecordingApplication) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            count = application.note(Seen(self.command, self.path, headers))
            if headers.get("upgrade") == "websocket":
                self._echo()
                return
            asked = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
            time.sleep(float(asked.get("wait", 0)))
            status = 503 if count <= int(asked.get("fail", 0)) else int(asked.get("status", 200))
            body = json.dumps({"name": application.name, "path": self.path, "headers": headers}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-application", application.name)
            self.send_header("x-secret", "of the application")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # whoever asked has given up
                self.end_headers()
                self.wfile.write(body)

        do_POST = do_OPTIONS = do_GET

        def _echo(self) -> None:
            """Switch protocols, then send every byte back."""
            self.send_response(101)
            self.send_header("connection", "upgrade")
            self.send_header("upgrade", "websocket")
            self.end_headers()
            self.close_connection = True
            while data := self.connection.recv(4096):
                self.connection.sendall(data)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    return Handler


@contextmanager
def recording_application(name: str, address: str, port: int) -> Iterator[RecordingApplication]:
    """Serve until the block ends."""
    application = RecordingApplication(name, address, port)
    with serving(application.server):
        yield application
