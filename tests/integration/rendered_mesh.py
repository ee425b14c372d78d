"""Rendered Envoys and small applications on loopback addresses, to test what `hostmesh render` makes traffic do."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import socketserver
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from click.testing import CliRunner

from agent.cli.main import cli
from tests.integration.server_thread import serving
from tests.programs import ENVOY

START_SECONDS = 20.0


def loopback_network() -> str:
    """Return the first three octets of a loopback network that nobody else uses, by chance."""
    return f"127.{random.randint(2, 254)}.{random.randint(1, 254)}"


@contextmanager
def rendered_envoy(
    folder: Path, node: str, catalog: str, rules: str = "", wait_for: tuple[str, int] | None = None, **options: str
) -> Iterator[str]:
    """Render a node, run Envoy with it until the block ends; yields what the command said on standard error."""
    name = f"{node}-{random.randint(0, 10**9)}"
    (folder / f"{name}-catalog.yaml").write_text(catalog)
    (folder / f"{name}-rules.yaml").write_text(rules)
    command = ["render", "--catalog", str(folder / f"{name}-catalog.yaml"), "--node", node]
    command += ["-f", str(folder / f"{name}-rules.yaml")] if rules else []
    command += [word for key, value in options.items() for word in ("--" + key.replace("_", "-"), value)]
    result = CliRunner().invoke(cli, [*command, "-o", str(folder / f"{name}.json")])
    assert result.exit_code == 0, result.output
    with _envoy(folder / f"{name}.json", wait_for):
        yield result.output


@contextmanager
def _envoy(config: Path, wait_for: tuple[str, int] | None) -> Iterator[None]:
    log = config.with_suffix(".log")
    command = [str(ENVOY), "-c", str(config), "--disable-hot-restart", "--concurrency", "1", "-l", "warning"]
    command += ["--file-flush-interval-msec", "200"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        if wait_for:
            _wait_until_listening(process, wait_for, log)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], address: tuple[str, int], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            return
        assert process.poll() is None, f"Envoy ended: {log.read_text()}"
        assert time.monotonic() < deadline, f"Envoy does not listen at {address}: {log.read_text()}"
        time.sleep(0.02)


@contextmanager
def http_application(name: str, address: str, port: int) -> Iterator[None]:
    """Serve HTTP: every answer is JSON with the application's name and the request's headers and path."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "the-application"
        sys_version = ""
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            body = json.dumps({"name": name, "path": self.path, "headers": headers}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with serving(ThreadingHTTPServer((address, port), Handler)):
        yield


@contextmanager
def greeting_application(name: str, address: str, port: int) -> Iterator[None]:
    """Serve TCP as MySQL does: the server speaks first (its name), then echoes."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(f"{name}\n".encode())
            for line in self.rfile:
                self.wfile.write(line)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    with serving(Server((address, port), Handler)):
        yield


class Answer:
    """What an HTTP request got."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {key.lower(): value for key, value in response.getheaders()}
        self.body = response.read()

    @property
    def document(self) -> dict[str, object]:
        """Return the application's JSON."""
        document: dict[str, object] = json.loads(self.body)
        return document

    @property
    def name(self) -> str:
        """Return the application that answered."""
        return str(self.document["name"])

    @property
    def request_headers(self) -> dict[str, str]:
        """Return the headers that the application saw."""
        headers = self.document["headers"]
        assert isinstance(headers, dict)
        return headers


class Client:
    """HTTP requests to one address over one connection."""

    def __init__(self, address: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(address, port, timeout=20)

    def get(self, host: str, path: str = "/", **headers: str) -> Answer:
        """Send a GET; underscores in header names stand for dashes."""
        return self.send("GET", host, path, **headers)

    def send(self, method: str, host: str, path: str = "/", **headers: str) -> Answer:
        """Send a request without a body."""
        sent: Mapping[str, str] = {"Host": host, **{key.replace("_", "-"): value for key, value in headers.items()}}
        self._connection.request(method, path, headers=dict(sent))
        return Answer(self._connection.getresponse())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
