"""Metrics: what is added to Envoy's statistics becomes series with Istio's labels, nothing twice and nothing lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from agent.adapters.proxy.admin import AdminClient
from agent.api.lowering.lower import lower
from agent.api.validate import find_problems
from agent.errors import HostError
from agent.mesh.metric_plan import ALL_SIZES, SIZES
from agent.mesh.raw_stats import PREFIX, Atom, Measure, Side, read_stat, stat_name
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey, Workload
from agent.mesh.settings import MeshSettings, MtlsMode
from agent.mesh.snapshot import MeshSnapshot
from agent.mesh.trust import TrustBundle
from agent.runtime.telemetry.collector import MetricsCollector
from agent.runtime.telemetry.directory import Directory
from agent.runtime.telemetry.readings import Progress, Readings
from agent.runtime.telemetry.series import MAX_SERIES, OTHERS, Family, Kind, Metric, lines_of, value_of, values_of
from tests.unit.api_samples import one

HTTP = (Port(9080, "http", Protocol.HTTP),)
REVIEWS, RATINGS = ServiceKey("default", "reviews"), ServiceKey("default", "ratings")
SPIFFE = "spiffe://cluster.local/ns/default/sa/"
SIZE_LIMIT = 2_000_000


def instance(key: ServiceKey, address: str, version: str, account: str) -> Instance:
    """Return an instance of a service."""
    labels = (("version", version),)
    return Instance(f"{key}-{address}", key, "node", address, HTTP, labels, proxied=True, service_account=account)


def mesh(*services: Service, **settings: Any) -> MeshSnapshot:
    """Return a mesh in which this host serves ratings-v1."""
    own = Workload(RATINGS, "10.0.0.9", HTTP, (("version", "v1"),), "ratings")
    by_key = {service.key: service for service in services}
    return MeshSnapshot("node", by_key, {}, MeshSettings(**settings), (own,), {}, {}, TrustBundle(b""))


def reviews(*versions: str) -> Service:
    """Return reviews with an instance of each version, 10.0.0.1 and on."""
    instances = [instance(REVIEWS, f"10.0.0.{at}", version, "reviews") for at, version in enumerate(versions, 1)]
    return Service.from_instances(REVIEWS, instances)


def name(side: Side, port: int, measure: Measure, **atoms: str) -> str:
    """Return a statistic's name as Envoy has it."""
    group = SIZES if measure in ALL_SIZES.measures else ""
    return f"{PREFIX}.{stat_name(side, port, measure, group)}" + "".join(
        f".={atom}.{value}" for atom, value in atoms.items()
    )


def called(address: str, caller: str, code: str = "200", measure: Measure = Measure.DURATION) -> str:
    """Return the name of a statistic about requests to this host's ratings."""
    return name(Side.IN, 9080, measure, a=address, u=caller, c=code, f="-")


def envoys(histograms: Mapping[str, Mapping[int, int]], **values: int) -> Readings:
    """Return what Envoy's answer says."""
    details = [
        {"name": one, "totals": [{"lower_bound": at, "width": 1, "count": count} for at, count in bins.items()]}
        for one, bins in histograms.items()
    ]
    stats = [{"name": one, "value": value} for one, value in values.items()]
    return Readings.from_json(json.dumps({"stats": [*stats, {"histograms": {"details": details}}]}))


class Page:
    """A collector that is told what Envoy says."""

    def __init__(self, snapshot: MeshSnapshot) -> None:
        self.collector = MetricsCollector(AdminClient(Path("/nowhere/admin.sock")))
        self.collector.publish(snapshot)

    def take(self, readings: Readings) -> None:
        """Take what Envoy says now."""
        self.collector.take(readings)

    def samples(self, metric: str) -> list[tuple[dict[str, str], float]]:
        """Return a metric's samples, as Prometheus' own parser reads the page (it says `_total` for every counter)."""
        text = "".join(f"{line}\n" for line in self.collector.lines())
        families = text_string_to_metric_families(text)
        return [
            (one.labels, one.value)
            for family in families
            for one in family.samples
            if one.name in (metric, f"{metric}_total")
        ]


def test_a_caller_is_the_instance_at_its_address_with_that_certificate() -> None:
    page = Page(mesh(reviews("v1", "v2")))
    page.take(envoys({called("10.0.0.2", f"{SPIFFE}reviews"): {3: 5}}))
    ((labels, value),) = page.samples("istio_requests_total")
    assert value == 5
    assert labels["source_workload"] == "reviews-v2"
    assert labels["destination_workload"] == "ratings-v1"
    assert labels["destination_service"] == "ratings.default.svc.cluster.local"
    assert (labels["reporter"], labels["connection_security_policy"]) == ("destination", "mutual_tls")
    assert labels["source_principal"] == f"{SPIFFE}reviews"
    ((old, _),) = page.samples("istio_request_count")
    assert old == {
        "source_service": "reviews.default.svc.cluster.local",
        "source_version": "v2",
        "destination_service": "ratings.default.svc.cluster.local",
        "destination_version": "v1",
        "response_code": "200",
        "connection_mtls": "true",
    }


@pytest.mark.parametrize(
    ("address", "caller", "workload", "version"),
    [
        ("10.0.0.2", f"{SPIFFE}another", "unknown", "unknown"),
        ("10.0.0.2", "spiffe://elsewhere/ns/default/sa/reviews", "unknown", "unknown"),
        ("10.0.0.2", "", "unknown", "unknown"),
        ("10.0.0.7", f"{SPIFFE}reviews", "unknown", "unknown"),
        ("10.0.0.3", f"{SPIFFE}reviews", "reviews", "unknown"),
        ("10.1.1.1", f"{SPIFFE}istio-ingressgateway", "istio-ingress", "unknown"),
    ],
)
def test_what_is_not_known_for_certain_is_not_said(address: str, caller: str, workload: str, version: str) -> None:
    two = [instance(REVIEWS, "10.0.0.3", version, "reviews") for version in ("v1", "v2")]
    there = [
        instance(REVIEWS, "10.0.0.2", "v2", "reviews"),
        *(structs.replace(one, id=one.labels[0][1]) for one in two),
    ]
    page = Page(mesh(Service.from_instances(REVIEWS, there)))
    page.take(envoys({called(address, caller): {3: 1}}))
    ((labels, _),) = page.samples("istio_requests_total")
    assert (labels["source_workload"], labels["source_version"]) == (workload, version)


def test_without_mutual_tls_by_configuration_the_address_says_who() -> None:
    page = Page(mesh(reviews("v1"), mtls=MtlsMode.DISABLED))
    page.take(envoys({called("10.0.0.1", ""): {3: 1}}))
    ((labels, _),) = page.samples("istio_requests_total")
    assert (labels["source_workload"], labels["connection_security_policy"]) == ("reviews-v1", "none")


def test_an_instance_that_has_left_is_known_for_a_while() -> None:
    before = Directory.of(mesh(reviews("v1", "v2")), Directory.empty(), 0.0)
    left = Directory.of(mesh(reviews("v1")), before, 1.0)
    assert left.caller("10.0.0.2", f"{SPIFFE}reviews").labels == (("version", "v2"),)
    replaced = Directory.of(mesh(reviews("v1", "v3")), left, 2.0)
    assert replaced.caller("10.0.0.2", f"{SPIFFE}reviews").labels == (("version", "v3"),)
    later = Directory.of(mesh(reviews("v1")), left, 1000.0)
    assert later.caller("10.0.0.2", f"{SPIFFE}reviews").service is None


def test_the_callers_side_names_the_instance_that_was_called() -> None:
    page = Page(mesh(reviews("v1", "v2")))
    cluster = "outbound|9080|v2|reviews.service.consul"
    atoms = {"k": cluster, "h": "10.0.0.2:9080", "s": f"{SPIFFE}reviews", "c": "503", "f": "UF"}
    page.take(envoys({name(Side.OUT, 0, Measure.DURATION, **atoms): {3: 2}}))
    ((labels, value),) = page.samples("istio_requests_total")
    assert (labels["reporter"], labels["source_workload"], value) == ("source", "ratings-v1", 2)
    assert (labels["destination_workload"], labels["destination_service_name"]) == ("reviews-v2", "reviews")
    assert (labels["response_code"], labels["response_flags"]) == ("503", "UF")


def test_connections_and_their_bytes() -> None:
    page = Page(mesh(reviews("v1")))
    peer = {"a": "10.0.0.1", "u": f"{SPIFFE}reviews"}
    sent, opened = name(Side.IN, 9080, Measure.SENT, **peer), name(Side.IN, 9080, Measure.OPENED, **peer)
    page.take(envoys({}, **{sent: 100, opened: 2}))
    page.take(envoys({}, **{sent: 250, opened: 2}))
    ((labels, value),) = page.samples("istio_tcp_sent_bytes_total")
    assert (labels["source_workload"], labels["request_protocol"], value) == ("reviews-v1", "tcp", 250)
    assert [value for _, value in page.samples("istio_tcp_connections_opened_total")] == [2]


def test_a_client_cannot_speak_for_envoy() -> None:
    forged = read_stat(called("10.0.0.1", "") + ".=x.anything.=c.500.=u.somebody")
    assert forged is not None
    assert (forged.atom(Atom.CODE), forged.atom(Atom.CALLER)) == ("200", "")
    assert read_stat("server.uptime") is None
    assert read_stat(f"{PREFIX}.in|x|ms|") is None


@given(st.lists(st.tuples(st.booleans(), st.dictionaries(st.integers(0, 5), st.integers(1, 50), max_size=4))))
def test_sums_are_kept_whenever_envoy_begins_anew(rounds: list[tuple[bool, dict[int, int]]]) -> None:
    """What comes between two readings is counted once, also where all that was before has gone from Envoy."""
    progress, now, expected = Progress(), dict[int, int](), 0
    found = counted = total = 0
    for begins_anew, more in rounds:
        if begins_anew and sum(more.values()) < total and all(more.get(int(at), 0) < n for at, n in now.items()):
            now, total = {}, 0
        for at, count in more.items():
            now[at] = now.get(at, 0) + count
        total += sum(more.values())
        expected += sum(more.values())
        histograms = {"hm.in|1|ms|.=a.x": dict(now)} if now else {}
        added = list(progress.advance(envoys(histograms, **({"hm.in|1|sent|.=a.x": total} if total else {}))))
        assert all(one.amount > 0 for one in added)
        assert all(count > 0 for one in added for count in one.bins.values())
        found += sum(one.amount for one in added if one.bins)
        counted += sum(one.amount for one in added if not one.bins)
    assert found == counted == expected


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 1000)), st.lists(st.integers(1, 200), unique=True))
def test_buckets_hold_everything_once(bins: dict[int, int], bounds: list[int]) -> None:
    family = Family(Metric("x", "", Kind.HISTOGRAM, ("a",), tuple(sorted(bounds))))
    family.observe(("b",), values_of({(at, 1.0): count for at, count in bins.items()}))
    ((_, series),) = family.series()
    assert series.count == sum(series.buckets) == sum(bins.values())
    assert series.total == sum(at * count for at, count in bins.items())
    for place, bound in enumerate(sorted(bounds)):
        assert sum(series.buckets[: place + 1]) == sum(count for at, count in bins.items() if at <= bound)


def test_a_bin_of_several_numbers_counts_as_their_middle() -> None:
    assert value_of((120, 10)) == 124.5
    assert value_of((0, 0)) == 0


def test_series_are_bounded() -> None:
    family = Family(Metric("x", "", Kind.COUNTER, ("a",)))
    for number in range(MAX_SERIES + 50):
        family.add((str(number),), 1)
    assert len(family) == MAX_SERIES + 1
    assert [series.total for labels, series in family.series() if labels["a"] == OTHERS] == [50]


def test_labels_are_escaped() -> None:
    family = Family(Metric("x", 'a "help"', Kind.COUNTER, ("a",)))
    family.add(('quote " back\\slash new\nline',), 1)
    ((found,),) = [one.samples for one in text_string_to_metric_families("\n".join(lines_of([family])) + "\n")]
    assert found.labels == {"a": 'quote " back\\slash new\nline'}


def test_an_envoy_that_is_away_or_talks_nonsense_leaves_what_is_known() -> None:
    page = Page(mesh(reviews("v1")))
    page.take(envoys({called("10.0.0.1", f"{SPIFFE}reviews"): {3: 5}}))
    asyncio.run(page.collector.collect())
    assert page.collector.failures == 1
    assert [value for _, value in page.samples("istio_requests_total")] == [5]
    with pytest.raises(HostError):
        Readings.from_json('{"stats": [{"value": {}}]}')


def test_a_page_of_200_services_with_three_instances_each_is_small() -> None:
    services = []
    histograms = {}
    for number in range(200):
        key, account = ServiceKey("default", f"service-{number}"), f"service-{number}"
        addresses = [f"10.1.{number}.{at}" for at in range(3)]
        services.append(Service.from_instances(key, [instance(key, one, "v1", account) for one in addresses]))
        for address in addresses:
            atoms = {"k": f"outbound|9080||service-{number}.service.consul", "h": f"{address}:9080"}
            atoms |= {"s": f"{SPIFFE}{account}", "c": "200", "f": "-"}
            for measure in (Measure.DURATION, Measure.REQUEST_BYTES, Measure.RESPONSE_BYTES):
                histograms[name(Side.OUT, 0, measure, **atoms)] = dict.fromkeys(range(20), 1000)
    page = Page(mesh(*services))
    page.take(envoys(histograms))
    assert len(page.samples("istio_requests_total")) == 200
    assert sum(len(line) + 1 for line in page.collector.lines()) < SIZE_LIMIT


TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT, mode: SERVER}
      tagOverrides: {source_principal: {operation: REMOVE}, response_flags: {value: "'none'"}, team: {value: '"a b"'}}
    - match: {metric: REQUEST_SIZE}
      disabled: true
    - match: {mode: CLIENT}
      disabled: true
"""


def test_telemetry_objects_end_metrics_and_change_labels() -> None:
    document = one(TELEMETRY)
    assert find_problems(document) == []
    snapshot = mesh(reviews("v1"))
    page = Page(structs.replace(snapshot, telemetry=lower([document], ()).telemetry))
    caller = f"{SPIFFE}reviews"
    outgoing = {"k": "outbound|9080||reviews.service.consul", "h": "10.0.0.1:9080", "s": caller, "c": "200", "f": "-"}
    page.take(
        envoys(
            {
                called("10.0.0.1", caller): {3: 5},
                called("10.0.0.1", caller, measure=Measure.REQUEST_BYTES): {3: 5},
                called("10.0.0.1", caller, measure=Measure.RESPONSE_BYTES): {3: 5},
                name(Side.OUT, 0, Measure.DURATION, **outgoing): {1: 1},
            }
        )
    )
    ((labels, value),) = page.samples("istio_requests_total")
    assert (labels["response_flags"], labels["team"], value) == ("none", "a b", 5)
    assert "source_principal" not in labels
    assert labels["source_workload"] == "reviews-v1"
    assert page.samples("istio_request_bytes_count") == []
    assert [value for _, value in page.samples("istio_response_bytes_count")] == [5]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("overrides: [{tagOverrides: {a: {value: request.host}}}]", "only a text in quotes"),
        ("providers: [{name: stackdriver}]", "prometheus alone"),
        ("reportingInterval: 5s", "when a connection ends"),
    ],
)
def test_what_telemetry_says_of_metrics_and_nobody_does_is_refused_by_name(wrong: str, words: str) -> None:
    text = TELEMETRY[: TELEMETRY.index("  - providers")] + f"  - {wrong}\n"
    assert any(words in problem.reason for problem in find_problems(one(text)))
