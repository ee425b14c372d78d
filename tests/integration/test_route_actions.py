"""Route actions on real traffic, in both generations: rendered rules, a real Envoy, applications that remember."""

from __future__ import annotations

import http.client
import math
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.action_rules import route_rules, virtual_service
from tests.integration.recording_application import recording_application
from tests.integration.rendered_mesh import Answer, Client, loopback_network, rendered_envoy
from tests.ports import free_port

REQUESTS = 400
SIGMAS = 5.0
EARLY = 0.02
"""Seconds that a timer of Envoy's may be early (it counts from the beginning of its loop's round)."""


class Site:
    """reviews v1 and v2 and ratings, behind one Envoy that follows every action of a generation."""

    def __init__(self, folder: Path, rules: str, stack: ExitStack) -> None:
        net = loopback_network()
        self.address, self.port = f"{net}.1", free_port(f"{net}.1")
        self.admin = (f"{net}.2", free_port(f"{net}.2"))
        homes = {"v1": f"{net}.11", "v2": f"{net}.12", "ratings": f"{net}.13"}
        applications = {
            name: stack.enter_context(recording_application(name, home, self.port)) for name, home in homes.items()
        }
        self.v1, self.v2, self.ratings = (applications[name] for name in homes)
        catalog = f"""
mesh: {{mtls: disabled}}
nodes: [{{name: page, address: {self.address}}}]
services:
- name: reviews
  ports: [{{name: http, port: {self.port}}}]
  instances:
  - {{node: page, address: {homes["v1"]}, labels: {{version: v1}}}}
  - {{node: page, address: {homes["v2"]}, labels: {{version: v2}}}}
- name: ratings
  ports: [{{name: http, port: {self.port}}}]
  instances: [{{node: page, address: {homes["ratings"]}}}]
"""
        admin = f"{self.admin[0]}:{self.admin[1]}"
        listening = (self.address, self.port)
        stack.enter_context(
            rendered_envoy(folder, "page", catalog, rules, listening, bind_outbound=self.address, admin=admin)
        )
        self.client = Client(self.address, self.port)
        stack.callback(self.client.close)

    def get(self, path: str, **headers: str) -> Answer:
        """Ask reviews; underscores in header names stand for dashes."""
        return self.client.get("reviews", path, **headers)

    def timed(self, path: str, **headers: str) -> tuple[int, float]:
        """Return the status and the seconds that it took."""
        start = time.monotonic()
        return self.get(path, **headers).status, time.monotonic() - start

    def statistic(self, name: str) -> int:
        """Return a counter of Envoy's."""
        connection = http.client.HTTPConnection(*self.admin, timeout=10)
        connection.request("GET", f"/stats?filter={name}$&usedonly")
        text = connection.getresponse().read().decode()
        connection.close()
        return sum(int(line.rsplit(": ", 1)[1]) for line in text.splitlines())

    def forget(self) -> None:
        """Forget the requests until now."""
        for application in (self.v1, self.v2, self.ratings):
            application.take()


@pytest.fixture(scope="module", params=["RouteRule", "VirtualService"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the actions of one generation, then of the other."""
    rules = route_rules() if request.param == "RouteRule" else virtual_service()
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("actions"), rules, stack)


@pytest.fixture
def site(either: Site) -> Site:
    either.forget()
    return either


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serve the VirtualService alone, for what only it can say."""
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("modern"), virtual_service(), stack)


def within(count: int, share: float) -> bool:
    """Tell whether a count out of REQUESTS fits a binomial distribution."""
    return abs(count - REQUESTS * share) <= SIGMAS * math.sqrt(REQUESTS * share * (1 - share))


def test_delay_of_all_requests(site: Site) -> None:
    status, seconds = site.timed("/delay-all")
    assert status == 200
    assert seconds >= 0.5 - EARLY


def test_delay_of_a_share(site: Site) -> None:
    before = site.statistic("delays_injected")
    assert {site.get("/delay-some").status for _ in range(REQUESTS)} == {200}
    assert within(site.statistic("delays_injected") - before, 0.3)


def test_abort_of_a_share(site: Site) -> None:
    statuses = [site.get("/abort-some").status for _ in range(REQUESTS)]
    assert set(statuses) == {200, 400}
    assert within(statuses.count(400), 0.3)
    assert len(site.v1.take()) == statuses.count(200)


def test_abort_by_grpc_status(site: Site) -> None:
    answer = site.get("/abort-grpc", content_type="application/grpc")
    assert (answer.status, answer.headers["grpc-status"]) == (200, "14")


def test_delay_and_abort(site: Site) -> None:
    status, seconds = site.timed("/both-faults")
    assert status == 503
    assert seconds >= 0.3 - EARLY
    assert site.v1.take() == []


def test_a_fault_is_for_its_own_route_only(site: Site) -> None:
    before = site.statistic("delays_injected"), site.statistic("aborts_injected")
    assert {site.get("/plain").status for _ in range(50)} == {200}
    assert (site.statistic("delays_injected"), site.statistic("aborts_injected")) == before


def test_timeout(site: Site) -> None:
    status, seconds = site.timed("/timeout?wait=2")
    assert status == 504
    assert 1.0 - EARLY <= seconds < 2.0
    assert site.get("/timeout?wait=0.1").status == 200


def test_timeout_of_one_request(site: Site) -> None:
    for headers in ({}, {"x_forwarded_for": "8.8.8.8"}, {"x_forwarded_for": "8.8.8.8, 10.0.0.1"}):
        status, seconds = site.timed("/plain?wait=2", x_envoy_upstream_rq_timeout_ms="200", **headers)
        assert status == 504
        assert 0.2 - EARLY <= seconds < 2.0
        (seen,) = site.v1.take()
        assert not [name for name in seen.headers if name.startswith(("x-envoy", "x-hostmesh"))]
    assert site.timed("/timeout?wait=1.2", x_envoy_upstream_rq_timeout_ms="5000")[0] == 200


def test_retries_counted_at_the_server(site: Site) -> None:
    assert site.get("/retries?fail=2").status == 200
    assert len(site.v1.take()) == 3
    assert site.get("/retries?status=503").status == 503
    assert len(site.v1.take()) == 4
    assert site.get("/plain?status=503").status == 503
    assert len(site.v1.take()) == 1


def test_retries_of_one_request(site: Site) -> None:
    for count in (0, 1, 5):
        assert site.get("/retries?status=503", x_envoy_max_retries=str(count)).status == 503
        assert len(site.v1.take()) == count + 1


def test_timeout_per_try(site: Site) -> None:
    status, seconds = site.timed("/per-try?wait=1")
    assert status == 504
    assert seconds >= 0.9 - 3 * EARLY
    assert len(site.v1.take()) == 3


def test_mirror(site: Site) -> None:
    answer = site.get("/mirror?a=b", x_kind="copied")
    assert answer.name == "v1"
    (seen,) = site.v1.take()
    (copy,) = site.v2.wait_for(1)
    assert copy.path == seen.path == "/mirror?a=b"
    assert seen.headers["host"] == "reviews"
    assert copy.headers["host"] == "reviews-shadow"
    assert copy.headers["x-kind"] == "copied"
    site.client.get(f"reviews:{site.port}", "/mirror")
    assert site.v2.wait_for(1)[0].headers["host"] == f"reviews-shadow:{site.port}"


def test_redirect(site: Site) -> None:
    answer = site.get("/redirect?a=b")
    assert answer.status == 301
    assert answer.headers["location"] == "http://foo.bar.com/new/path?a=b"
    assert site.v1.take() == []


def test_rewrite(site: Site) -> None:
    assert site.get("/rewrite/x?a=b").document["path"] == "/new/path/x?a=b"
    (seen,) = site.v1.take()
    assert seen.headers["host"] == "foo.bar.com"
    assert not [name for name in seen.headers if name.startswith("x-envoy")]


def test_cors(site: Site) -> None:
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "content-type"}
    preflight = site.client.send("OPTIONS", "reviews", "/cors", origin="http://foo.example", **asked)
    assert preflight.status == 200
    assert site.v1.take() == []
    assert preflight.headers["access-control-allow-origin"] == "http://foo.example"
    assert preflight.headers["access-control-allow-methods"] == "POST,GET"
    assert preflight.headers["access-control-allow-headers"] == "content-type"
    assert preflight.headers["access-control-max-age"] == "5"
    assert preflight.headers["access-control-allow-credentials"] == "true"
    answer = site.get("/cors", origin="http://foo.example")
    assert answer.headers["access-control-allow-origin"] == "http://foo.example"
    assert answer.headers["access-control-expose-headers"] == "x-custom"
    assert "access-control-allow-origin" not in site.get("/cors", origin="http://bar.example").headers
    site.forget()
    other = site.client.send("OPTIONS", "reviews", "/cors", origin="http://bar.example", **asked)
    assert "access-control-allow-origin" not in other.headers
    assert len(site.v1.take()) == 1


def test_websocket_outlives_the_timeout(site: Site) -> None:
    with socket.create_connection((site.address, site.port), timeout=10) as connection:
        connection.sendall(
            b"GET /websocket HTTP/1.1\r\nHost: reviews\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):  # longer than the route's timeout: nothing comes, it is not closed either
            connection.recv(1)
        connection.sendall(b"hello")
        assert connection.recv(5) == b"hello"


def test_headers_are_added(site: Site) -> None:
    site.get("/headers", x_there="first")
    (seen,) = site.v1.take()
    assert seen.headers["x-added"] == "100%"
    # Twice in the request; the application keeps the last.
    assert seen.headers["x-there"] in ("more", "first,more")


def test_another_service_as_destination(site: Site) -> None:
    assert site.get("/elsewhere").name == "ratings"


def test_direct_response(modern: Site) -> None:
    answer = modern.get("/answer")
    assert (answer.status, answer.body) == (418, b"short and stout")


def test_redirects_by_port(modern: Site) -> None:
    answer = modern.get("/target-port/x")
    assert (answer.status, answer.headers["location"]) == (308, "https://other:8443/target-port/x")
    answer = modern.get("/same-port/x")
    assert (answer.status, answer.headers["location"]) == (301, f"http://other:{modern.port}/q/x")


def test_rewrite_by_regular_expression(modern: Site) -> None:
    assert modern.get("/regex/a/b?c=d").document["path"] == "/b/of/a?c=d"


def test_two_mirrors_and_a_share(modern: Site) -> None:
    modern.forget()
    for _ in range(REQUESTS):
        assert modern.get("/two-mirrors").name == "v1"
    modern.ratings.wait_for(REQUESTS, 20)
    assert within(len(modern.v2.take()), 0.3)  # the last one may still be on its way


def test_retries_turned_off(modern: Site) -> None:
    modern.forget()
    assert modern.get("/no-retries?status=503").status == 503
    assert len(modern.v1.take()) == 1


def test_headers_set_and_removed(modern: Site) -> None:
    modern.forget()
    answer = modern.get("/change", x_there="old", x_bad="x")
    (seen,) = modern.v1.take()
    assert (seen.headers["x-there"], seen.headers["x-proto"]) == ("new", "HTTP/1.1")
    assert "x-bad" not in seen.headers
    assert (answer.headers["x-application"], answer.headers["x-more"]) == ("hidden", "a")
    assert "x-secret" not in answer.headers


def test_headers_of_a_destination(modern: Site) -> None:
    modern.forget()
    answer = modern.get("/per-target")
    assert (answer.name, answer.headers["x-which"]) == ("v2", "two")
    assert modern.v2.take()[0].headers["host"] == "changed"


def test_origins_by_regular_expression(modern: Site) -> None:
    modern.forget()
    asked = {"access_control_request_method": "GET"}
    fine = modern.client.send("OPTIONS", "reviews", "/origins", origin="https://abc.org", **asked)
    assert fine.headers["access-control-allow-origin"] == "https://abc.org"
    other = modern.client.send("OPTIONS", "reviews", "/origins", origin="https://abc.com", **asked)
    assert "access-control-allow-origin" not in other.headers
    assert modern.v1.take() == []
