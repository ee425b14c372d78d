"""The four applications as processes on loopback: contract, timeouts, degraded answers, draining."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Answer, Application, Request, Server, json_answer

from tests.ports import free_port

APPS = Path(__file__).parents[2] / "vagrant" / "bookinfo"
Start = Callable[..., int]


def fetch(port: int, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=body,
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def processes() -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Processes by port; all are ended at the end."""
    running: dict[int, subprocess.Popen[bytes]] = {}
    yield running
    for process in running.values():
        process.kill()
        process.wait()


@pytest.fixture
def start(processes: dict[int, subprocess.Popen[bytes]]) -> Start:
    """Start an application with these backends (name → port) and environment; return its port once it serves."""

    def _start(name: str, backends: dict[str, int] | None = None, **environment: str) -> int:
        port = free_port()
        for backend, number in (backends or {}).items():
            environment[f"{backend.upper()}_HOSTNAME"] = "127.0.0.1"
            environment[f"{backend.upper()}_SERVICE_PORT"] = str(number)
        processes[port] = subprocess.Popen(
            [sys.executable, str(APPS / f"{name}.py"), str(port)],
            env={"PATH": os.environ["PATH"], **environment},
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert fetch(port, "/health")[0] == 200
                return port
            except urllib.error.URLError:
                time.sleep(0.01)
        raise AssertionError(f"{name} does not serve")

    return _start


@pytest.fixture
def stub() -> Iterator[Callable[[str, Callable[[Request], Answer]], int]]:
    """Serve one path prefix by a handler; return the port."""
    servers: list[Server] = []

    def _stub(pattern: str, handler: Callable[[Request], Answer]) -> int:
        app = Application("stub")
        app.route("GET", pattern, handler)
        server = Server(("127.0.0.1", 0), app)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        return server.server_port

    yield _stub
    for server in servers:
        server.shutdown()
        server.server_close()


def test_whole_chain_with_red_stars(start: Start) -> None:
    ratings = start("ratings")
    reviews = start("reviews", {"ratings": ratings}, ENABLE_RATINGS="true", STAR_COLOR="red", HOSTNAME="reviews-v3")
    page = start("productpage", {"details": start("details"), "reviews": reviews, "ratings": ratings})
    status, html = fetch(page, "/productpage")
    assert status == 200
    assert 'data-stars="5" data-color="red"' in html
    assert "William Shakespeare" in html
    assert json.loads(fetch(page, "/api/v1/products/0/reviews")[1])["podname"] == "reviews-v3"
    assert json.loads(fetch(page, "/api/v1/products/0/ratings")[1])["ratings"]["Reviewer2"] == 4
    assert 'request_result_total{destination_app="reviews",response_code="200"} 2.0' in fetch(page, "/metrics")[1]


def test_identity_and_tracing_headers_reach_the_last_hop(start: Start, stub: Callable[..., int]) -> None:
    seen: list[Any] = []

    def record(request: Request) -> Answer:
        seen.append(request.headers)
        return json_answer({"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})

    reviews = start("reviews", {"ratings": stub(r"/ratings/0", record)}, ENABLE_RATINGS="true")
    page = start("productpage", {"details": start("details"), "reviews": reviews})
    assert fetch(page, "/productpage", Cookie="a=b; user=jason", x_request_id="r1", traceparent="t")[0] == 200
    headers = seen[0]
    assert headers["cookie"] == "user=jason; a=b"
    assert (headers["end-user"], headers["x-request-id"], headers["traceparent"]) == ("jason", "r1", "t")
    assert headers["connection"] == "close"
    assert headers["host"].startswith("127.0.0.1:")


def test_backends_down(start: Start) -> None:
    page = start("productpage", {"details": free_port(), "reviews": free_port(), "ratings": free_port()})
    status, html = fetch(page, "/productpage")
    assert status == 200
    assert "Sorry, product details are currently unavailable for this book." in html
    assert "Sorry, product reviews are currently unavailable for this book." in html
    sentence = {"error": "Sorry, product ratings are currently unavailable for this book."}
    status, text = fetch(page, "/api/v1/products/0/ratings")
    assert (status, json.loads(text)) == (500, sentence)


def test_status_of_a_failing_backend_is_passed_on(start: Start, stub: Callable[..., int]) -> None:
    details = stub(r"/details/0", lambda _: json_answer({}, 418))
    page = start("productpage", {"details": details, "reviews": free_port()})
    assert fetch(page, "/api/v1/products/0")[0] == 418


def test_slow_ratings_black_times_out_in_productpage_red_answers_with_the_error(
    start: Start, stub: Callable[..., int]
) -> None:
    """The fault injection task: 7 s on ratings."""
    hang = threading.Event()

    def slow(_: Request) -> Answer:
        hang.wait(7)
        return json_answer({"id": 0, "ratings": {}})

    ratings = stub(r"/ratings/0", slow)
    black = start("reviews", {"ratings": ratings}, ENABLE_RATINGS="true", STAR_COLOR="black")
    red = start("reviews", {"ratings": ratings}, ENABLE_RATINGS="true", STAR_COLOR="red")
    details = start("details")
    results: dict[str, tuple[float, str]] = {}

    def measure(name: str, reviews: int) -> None:
        page = start("productpage", {"details": details, "reviews": reviews})
        began = time.monotonic()
        html = fetch(page, "/productpage")[1]
        results[name] = (time.monotonic() - began, html)

    threads = [threading.Thread(target=measure, args=args) for args in (("black", black), ("red", red))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hang.set()
    seconds, html = results["black"]
    assert 6.0 <= seconds < 6.9
    assert "Sorry, product reviews are currently unavailable for this book." in html
    seconds, html = results["red"]
    assert 2.5 <= seconds < 3.0
    assert html.count("Ratings service is currently unavailable") == 2


def test_oversized_and_chunked_bodies_are_refused(start: Start) -> None:
    ratings = start("ratings")
    with socket.create_connection(("127.0.0.1", ratings), timeout=5) as client:
        client.sendall(b"POST /ratings/0 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


def test_sigterm_lets_the_request_under_way_finish(
    start: Start, stub: Callable[..., int], processes: dict[int, subprocess.Popen[bytes]]
) -> None:
    asked, go = threading.Event(), threading.Event()

    def held(_: Request) -> Answer:
        asked.set()
        go.wait(5)
        return json_answer({"id": 0, "ratings": {"Reviewer1": 5, "Reviewer2": 4}})

    reviews = start("reviews", {"ratings": stub(r"/ratings/0", held)}, ENABLE_RATINGS="true")
    answers: list[int] = []
    client = threading.Thread(target=lambda: answers.append(fetch(reviews, "/reviews/0")[0]))
    client.start()
    assert asked.wait(5)
    processes[reviews].send_signal(signal.SIGTERM)
    go.set()
    client.join()
    assert answers == [200]
    assert processes[reviews].wait(5) == 0
