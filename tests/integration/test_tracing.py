"""Traces of real Envoys (`hostmesh render`): who tells which collector what of a request, and what a bad one costs."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.collectors import Collectors, Span
from tests.integration.rendered_mesh import Client, http_application, loopback_network, rendered_envoy
from tests.ports import free_port
from tests.waiting import wait_for

TELEMETRY = "---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {}, namespace: {}}}\nspec: {}\n"
SECONDS = 60.0
"""Envoy reports every five seconds, or when it has five spans."""


class Site:
    """A caller and a service, each with an Envoy; and collectors."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.collectors = folder, Collectors()
        net = loopback_network()
        self.caller, self.server, self.elsewhere = f"{net}.1", f"{net}.2", f"{net}.3"
        self.port, self.zipkin, self.grpc, self.gone = (free_port(self.server) for _ in range(4))

    def catalog(self, tracing: str) -> str:
        http, grpc = f"{{service: {self.elsewhere}, port: {self.zipkin}", f"{{service: otel, port: {self.grpc}}}"
        otlp = f"{http}, http: {{headers: [{{name: x-key, value: 100%}}]}}}}"
        return f"""
mesh:
  mtls: disabled
  {tracing}
  extensionProviders:
  - {{name: by-grpc, opentelemetry: {grpc}}}
  - {{name: by-http, opentelemetry: {otlp}}}
nodes: [{{name: caller, address: {self.caller}}}, {{name: server, address: {self.server}}},
  {{name: elsewhere, address: {self.elsewhere}}}]
services:
- name: productpage
  ports: [{{port: 9999, protocol: http}}]
  instances: [{{node: caller, labels: {{version: v1}}}}]
- name: reviews
  ports: [{{port: {self.port}, protocol: http}}]
  instances: [{{node: server, proxied: true, labels: {{version: v3}}}}]
- name: otel
  ports: [{{port: {self.grpc}, protocol: tcp}}]
  instances: [{{node: elsewhere}}]
"""

    def own(self, more: str = "", port: int = 0) -> str:
        """Return the setting of a Zipkin of the mesh's own."""
        return f"tracing: {{zipkin: {{service: {self.elsewhere}, port: {port or self.zipkin}}}{more}}}"

    @contextmanager
    def serving(self, tracing: str, rules: str = "") -> Iterator[tuple[Client, Callable[[str], int]]]:
        """Run both Envoys; yields a client, and what asks the caller's Envoy for the sum of counters that end so."""
        catalog, admin = self.catalog(tracing), f"{self.caller}:{free_port(self.caller)}"
        inbound, outbound = (self.server, self.port), (self.caller, self.port)

        def count(ending: str) -> int:
            with urllib.request.urlopen(f"http://{admin}/stats?format=json", timeout=10) as answer:
                stats = json.load(answer)["stats"]
            return sum(one["value"] for one in stats if one.get("name", "").endswith(ending))

        with (
            rendered_envoy(self.folder, "server", catalog, rules, inbound, bind_inbound=self.server),
            rendered_envoy(self.folder, "caller", catalog, rules, outbound, bind_outbound=self.caller, admin=admin),
            closing(Client(self.caller, self.port)) as client,
        ):
            yield client, count

    def spans_of(self, trace: str, number: int) -> list[Span]:
        """Wait for the spans of a trace."""

        def there() -> list[Span]:
            found = [one for one in self.collectors.spans if one.trace == trace]
            return found if len(found) >= number else []

        return wait_for(there, f"{number} spans of {trace}", SECONDS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("tracing"))
    with ExitStack() as stack:
        stack.enter_context(http_application("reviews", "127.0.0.1", site.port))
        stack.enter_context(site.collectors.by_http(site.elsewhere, site.zipkin))
        stack.enter_context(site.collectors.by_grpc(site.elsewhere, site.grpc))
        yield site


def traced(client: Client, path: str = "/", **headers: str) -> str:
    """Send a request that belongs to a new trace; return which."""
    trace = secrets.token_hex(16)
    context = {"x_b3_traceid": trace, "x_b3_spanid": secrets.token_hex(8), "x_b3_sampled": "1"}
    assert client.get("reviews", path, **context, **headers).status == 200
    return trace


def test_both_ends_report_a_request_under_istios_names(site: Site) -> None:
    tags = ", sampling: 0, customTags: {region: {literal: {value: north}}}"
    rules = TELEMETRY.format(
        "reviews",
        "default",
        "{selector: {matchLabels: {version: v3}}, tracing: [{customTags: {user: {header: {name: end-user}}}}]}",
    )
    with site.serving(site.own(tags), rules) as (client, _):
        trace = traced(client, "/page?q=1", end_user="jason")
        found = {one.kind: one for one in site.spans_of(trace, 2)}
        answer = client.get("reviews")  # nobody has decided about it, and sampling is 0
    caller, server = found["CLIENT"], found["SERVER"]
    name = f"reviews.default.svc.cluster.local:{site.port}/*"
    assert (caller.name, server.name) == (name, name)
    assert (caller.service, server.service) == ("productpage.default", "reviews.default")
    assert server.parent == caller.id
    assert (caller.tags["istio.canonical_service"], caller.tags["istio.canonical_revision"]) == ("productpage", "v1")
    assert (caller.tags["region"], "user" in caller.tags) == ("north", False)
    assert (server.tags["user"], "region" in server.tags) == ("jason", False)  # a narrower list replaces it
    assert server.tags["http.status_code"] == "200"
    assert answer.request_headers["x-b3-sampled"] == "0"
    assert "x-envoy-decorator-operation" not in answer.request_headers


def test_a_share_of_the_requests_that_nobody_has_decided_about(site: Site) -> None:
    with site.serving(site.own(", sampling: 50")) as (client, _):
        sampled = [client.get("reviews").request_headers["x-b3-sampled"] for _ in range(100)]
    assert set(sampled) == {"0", "1"}


def test_opentelemetry_by_grpc_and_by_http(site: Site) -> None:
    rules = TELEMETRY.format(
        "mesh", "istio-system", "{tracing: [{providers: [{name: by-grpc}], randomSamplingPercentage: 100}]}"
    ) + TELEMETRY.format("here", "default", "{tracing: [{match: {mode: SERVER}, providers: [{name: by-http}]}]}")
    with site.serving("tracing: {}", rules) as (client, _):
        trace = secrets.token_hex(16)
        sent = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
        assert client.get("reviews", **sent).status == 200
        found = {one.kind: one for one in site.spans_of(trace, 2)}
    assert (found["CLIENT"].protocol, found["SERVER"].protocol) == ("grpc", "http")
    assert (found["CLIENT"].service, found["SERVER"].service) == ("productpage.default", "reviews.default")
    assert found["SERVER"].parent == found["CLIENT"].id
    assert any(one.get("x-key") == "100%" for one in site.collectors.headers)


@pytest.mark.parametrize("how", ["gone", "slow", "hostile"])
def test_a_bad_collector_costs_spans_and_nothing_else(site: Site, how: str) -> None:
    with ExitStack() as stack:
        if how != "gone":
            stack.enter_context(site.collectors.broken(site.elsewhere, site.gone, how))
        client, count = stack.enter_context(site.serving(site.own(", sampling: 100", site.gone)))
        for _ in range(300):
            assert client.get("reviews").status == 200
        lost = wait_for(lambda: count("tracing.zipkin.reports_dropped"), "loss", SECONDS)
        assert lost > 0
        assert client.get("reviews").status == 200


def test_off_there_is_not_a_header_more(site: Site) -> None:
    with site.serving("tracing: {}") as (client, _):
        headers = client.get("reviews").request_headers
    assert not [name for name in headers if name.startswith(("x-b3", "trace"))]
