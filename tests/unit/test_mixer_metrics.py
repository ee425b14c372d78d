"""Metrics that Mixer's rules report: what Envoy is asked to count, and what becomes of what it has counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from agent.api.lowering.lower import Lowered, lower
from agent.api.validate import find_problems
from agent.mesh.metric_plan import CONNECTIONS, REQUESTS, plan_metrics
from agent.mesh.mixer_metrics import MetricKind, Outlet, Statsd, metrics_for_workload
from agent.mesh.names import LISTENER_TYPE
from agent.mesh.raw_stats import Measure, Side
from agent.mesh.snapshot import MeshSnapshot
from agent.runtime.telemetry.statsd import MAX_WAITING, StatsdQueue
from agent.translate.counting import Counting, with_counting
from agent.translate.http import inbound_http
from agent.translate.resource import resource
from tests.unit.api_samples import one
from tests.unit.test_metrics import RATINGS, SPIFFE, Page, called, envoys, mesh, name, reviews


def document(kind: str, name: str, **spec: Any) -> Any:
    """Return an object of the namespace default."""
    text = {"apiVersion": "config.istio.io/v1alpha2", "kind": kind, "metadata": {"name": name, "namespace": "default"}}
    return one(json.dumps({**text, "spec": spec}))


def lowered(metric: Mapping[str, Any], shown: Mapping[str, Any], match: str = "", **handler: Any) -> Lowered:
    """Return what a metric, a handler that shows it, and a rule come to."""
    kind = "statsd" if handler else "prometheus"
    spec = (
        {**handler, "metrics": {"m.metric": shown}} if handler else {"metrics": [{"instanceName": "m.metric", **shown}]}
    )
    objects = (
        document("metric", "m", **metric),
        document(kind, "h", **spec),
        document("rule", "r", match=match, actions=[{"handler": f"h.{kind}", "instances": ["m.metric"]}]),
    )
    for each in objects:
        assert find_problems(each) == []
    return lower(objects, ())


def ruled(metric: Mapping[str, Any], shown: Mapping[str, Any], match: str = "") -> MeshSnapshot:
    """Return a mesh with that metric, in which reviews calls this host's ratings."""
    found = lowered(metric, shown, match)
    assert found.faults == ()
    return structs.replace(mesh(reviews("v1", "v2")), security=found.security)


SOURCE = {"source": 'source.labels["version"] | "none"', "code": "response.code | 0"}
COUNTER = {"name": "mine", "kind": "COUNTER", "labelNames": ["code", "source"]}
V2 = called("10.0.0.2", f"{SPIFFE}reviews")


def test_a_counter_of_a_constant_has_the_labels_that_the_handler_names() -> None:
    page = Page(ruled({"value": "2", "dimensions": SOURCE}, COUNTER))
    page.take(envoys({V2: {1: 5}}))
    page.take(envoys({V2: {1: 5, 3: 1}}))
    assert page.samples("istio_mine") == [({"code": "200", "source": "v2"}, 12)]


def test_a_rule_holds_for_what_it_matches_alone() -> None:
    match = 'source.labels["version"] == "v1" && response.code >= 500'
    page = Page(ruled({"value": "1", "dimensions": SOURCE}, COUNTER, match))
    page.take(envoys({V2: {1: 5}, called("10.0.0.1", f"{SPIFFE}reviews", "503"): {1: 4}}))
    assert page.samples("istio_mine") == [({"code": "503", "source": "v1"}, 4)]


def test_durations_are_seconds_in_the_handlers_buckets() -> None:
    shown = {
        "name": "took",
        "kind": "DISTRIBUTION",
        "labelNames": [],
        "buckets": {"explicitBuckets": {"bounds": [0.1, 1]}},
    }
    page = Page(ruled({"value": 'response.duration | "0ms"'}, shown))
    page.take(envoys({V2: {50: 3, 400: 2, 5000: 1}}))
    assert [value for _, value in page.samples("istio_took_bucket")] == [3, 5, 6]
    assert [value for _, value in page.samples("istio_took_sum")] == [pytest.approx(0.15 + 0.8 + 5)]


@pytest.mark.parametrize(
    ("buckets", "bounds"),
    [
        ({}, (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)),
        ({"buckets": {"linear_buckets": {"num_finite_buckets": 2, "width": 10, "offset": 5}}}, (5, 15, 25)),
        ({"buckets": {"exponentialBuckets": {"numFiniteBuckets": 2, "scale": 1, "growthFactor": 10}}}, (1, 10, 100)),
    ],
)
def test_buckets(buckets: Mapping[str, Any], bounds: tuple[float, ...]) -> None:
    found = lowered({"value": "request.size | 0"}, {"name": "x", "kind": "DISTRIBUTION", **buckets})
    ((outlet, _),) = found.security.metrics[0].reports
    assert outlet.bounds == bounds


def test_bytes_of_connections() -> None:
    snapshot = ruled(
        {"value": "connection.sent.bytes | 0", "dimensions": {"source": "source.service"}},
        {"name": "sent", "kind": "COUNTER", "labelNames": ["source"]},
        'context.protocol == "tcp"',
    )
    page = Page(snapshot)
    page.take(envoys({V2: {1: 9}}, **{name(Side.IN, 9080, Measure.SENT, a="10.0.0.2", u=f"{SPIFFE}reviews"): 77}))
    assert page.samples("istio_sent") == [({"source": "reviews.default.svc.cluster.local"}, 77)]


def test_a_dimension_without_a_value_leaves_the_request_out() -> None:
    page = Page(ruled({"value": "1", "dimensions": {"who": "source.user"}}, {**COUNTER, "labelNames": ["who"]}))
    page.take(envoys({V2: {1: 1}, called("10.0.0.2", ""): {1: 5}}))
    assert page.samples("istio_mine") == [({"who": "cluster.local/ns/default/sa/reviews"}, 1)]


def test_a_metric_named_as_a_default_one_replaces_it() -> None:
    page = Page(ruled({"value": "1", "dimensions": SOURCE}, {**COUNTER, "name": "request_count"}))
    page.take(envoys({V2: {1: 5}}))
    assert page.samples("istio_request_count") == [({"code": "200", "source": "v2"}, 5)]


def test_what_clients_say_is_counted_in_statistics_of_its_own() -> None:
    dimensions = {"path": "request.path", "x": 'request.headers["X-Tenant"] | "none"', "code": "response.code"}
    snapshot = ruled({"value": "1", "dimensions": dimensions}, {**COUNTER, "labelNames": ["path", "x", "code"]})
    rules = metrics_for_workload(snapshot.security.metrics, RATINGS, (), "istio-system")
    (group,) = plan_metrics(rules, REQUESTS).groups
    assert group.asked == (("request.headers", "X-Tenant"), ("request.path", ""))
    assert plan_metrics(rules, CONNECTIONS).groups == ()
    message = listener_pb2.Listener(name="in")
    message.filter_chains.add(filters=[inbound_http("inbound_9080", "inbound|9080||")])
    made = (resource(LISTENER_TYPE, "in", message),)
    counted = {
        wanted: _logs(with_counting(made, Counting(wanted, {9080: (group,)}))[0].value) for wanted in (True, False)
    }
    assert counted[True].count("%REQ(X-Tenant):200%") == counted[False].count("%REQ(X-Tenant):200%") == 1
    assert counted[True].count("%RESPONSE_CODE%") == 2
    assert counted[False].count("%RESPONSE_CODE%") == 1
    page = Page(snapshot)
    atoms = f".=a.10.0.0.2.=u.{SPIFFE}reviews.=c.200.=f.-.=x0.gold.=x1./a.b"
    page.take(envoys({f"hm.in|9080|ms|{group.key}{atoms}": {1: 3}, V2: {1: 50}}))
    assert page.samples("istio_mine") == [({"path": "/a.b", "x": "gold", "code": "200"}, 3)]


def _logs(listener: bytes) -> str:
    (chain,) = listener_pb2.Listener.FromString(listener).filter_chains
    manager = http_connection_manager_pb2.HttpConnectionManager()
    chain.filters[0].typed_config.Unpack(manager)
    return "".join(json_format.MessageToJson(log) for log in manager.access_log)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"value": "request.size + response.size"}, "cannot be computed with"),
        ({"value": '"text"'}, "is a STRING"),
        ({"value": "1", "dimensions": {"a": "response.duration"}}, "differs for each request"),
        ({"value": "1", "dimensions": {"a": "request.auth.principal"}}, "is not known of requests that are counted"),
        ({"value": "1", "dimensions": {"a": "request.headers[request.path]"}}, "must be written down"),
    ],
)
def test_what_cannot_be_counted_is_refused_by_name(spec: Mapping[str, Any], words: str) -> None:
    assert any(words in problem.reason for problem in find_problems(document("metric", "m", **spec)))


def test_what_is_never_there_has_its_default() -> None:
    spec = {"value": "1", "dimensions": {"a": 'request.auth.principal | source.uid | "nobody"'}}
    page = Page(ruled(spec, {**COUNTER, "labelNames": ["a"]}))
    page.take(envoys({V2: {1: 1}}))
    assert page.samples("istio_mine") == [({"a": "nobody"}, 1)]


@pytest.mark.parametrize(
    ("shown", "words"),
    [({**COUNTER, "labelNames": ["nothing"]}, "has no dimension nothing"), ({"name": "x"}, "says nothing of it")],
)
def test_a_handler_that_cannot_show_an_instance_is_a_fault(shown: Mapping[str, Any], words: str) -> None:
    found = lowered({"value": "1", "dimensions": SOURCE}, shown)
    assert [words in fault.reason for fault in found.faults] == [True]
    assert found.security.metrics == ()


def test_statsd_has_the_names_that_its_template_makes() -> None:
    shown = {"type": "COUNTER", "nameTemplate": "by.{{.source}}-{{ .code }}"}
    found = lowered({"value": "1", "dimensions": SOURCE}, shown, address="statsd:8125", prefix="mesh.")
    ((outlet, _),) = found.security.metrics[0].reports
    assert outlet.server == Statsd("statsd", 8125, "mesh.")
    queue = StatsdQueue(outlet.server)
    queue.add(outlet, {"source": "v 2", "code": "200"}, [(1.0, 5)], is_duration=False)
    assert list(queue.waiting()) == [b"mesh.by.v_2-200:5|c"]


@given(st.lists(st.integers(0, 10**6), max_size=30), st.integers(20, 200))
def test_datagrams_hold_all_lines_and_no_more_than_they_may(values: list[int], limit: int) -> None:
    queue = StatsdQueue(Statsd("s", 1, flush_bytes=limit))
    outlet = Outlet("h", "took", MetricKind.DISTRIBUTION)
    for value in values:
        queue.add(outlet, {}, [(value / 1000, 1)], is_duration=True)
    datagrams = list(queue.waiting())
    assert all(len(datagram) <= limit for datagram in datagrams)
    lines = b"\n".join(datagrams).decode().split() if datagrams else []
    assert lines == [f"took:{value}|ms" for value in values]


def test_a_statsd_queue_is_bounded() -> None:
    queue = StatsdQueue(Statsd("s", 1))
    for _ in range(MAX_WAITING + 7):
        queue.add(Outlet("h", "n", MetricKind.GAUGE), {}, [(1.0, 1)], is_duration=False)
    assert queue.lost == 7
