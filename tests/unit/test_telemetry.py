"""Telemetry objects: which of them say what to a workload, and what becomes of traces then."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import json_format
from msgspec import structs

from agent.api.document import read_documents
from agent.api.lowering.lower import lower
from agent.api.lowering.telemetry import lower_telemetry
from agent.api.settings import parse_settings
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE
from agent.mesh.service import Port, Protocol, labels_of
from agent.mesh.settings import MeshSettings
from agent.mesh.snapshot import Desired
from agent.mesh.telemetry_settings import Side, TelemetryRules, Tracing, WorkloadTelemetry
from agent.translate.plan import Planner
from tests.unit.mesh_samples import HTTP, OPTIONS, key, mesh, service, workload

ROOT = "istio-system"
COLLECTOR = "tracing: {zipkin: {service: zipkin, port: 9411}, sampling: 10}"
_HCM = http_connection_manager_pb2.HttpConnectionManager


def telemetry(name: str, namespace: str, spec: str) -> str:
    return (
        f"---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {spec}\n"
    )


def rules(*texts: str) -> TelemetryRules:
    documents, problems = read_documents("".join(texts), "rules.yaml", "default")
    assert not problems
    lowered = lower(documents, [])
    assert not lowered.faults
    return lowered.telemetry


def of_reviews(*texts: str, version: str = "v1") -> WorkloadTelemetry:
    return rules(*texts).of_workload(key("reviews"), labels_of({"app": "reviews", "version": version}), ROOT)


def tracing(spec: str) -> str:
    return f"{{tracing: [{spec}]}}"


def test_the_narrowest_that_says_something_counts_field_by_field() -> None:
    said = (
        telemetry("mesh", ROOT, tracing("{providers: [{name: a}], randomSamplingPercentage: 1, customTags: {t: {}}}")),
        telemetry("wide", "default", tracing("{randomSamplingPercentage: 0, enableIstioTags: false}")),
        telemetry(
            "narrow",
            "default",
            "{selector: {matchLabels: {version: v1}}, "
            "tracing: [{providers: [{name: b}, {name: c}], match: {mode: CLIENT}}]}",
        ),
        telemetry("other", "shop", tracing("{providers: [{name: lost}]}")),
    )
    found = of_reviews(*said)
    assert found.tracing(Side.SERVER) == Tracing("a", 0, tags=(), istio_tags=False)
    assert found.tracing(Side.CLIENT) == Tracing("b", 0, tags=(), istio_tags=False)
    assert of_reviews(*said, version="v2").tracing(Side.CLIENT).provider == "a"


def test_a_namespace_can_trace_again_what_the_mesh_does_not() -> None:
    off = telemetry("mesh", ROOT, tracing("{disableSpanReporting: true}"))
    on = telemetry("wide", "default", tracing("{match: {mode: SERVER}, disableSpanReporting: false}"))
    found = of_reviews(off, on)
    assert (found.tracing(Side.SERVER).disabled, found.tracing(Side.CLIENT).disabled) == (False, True)


def test_of_two_for_the_same_workloads_the_first_counts_and_the_other_is_told() -> None:
    found = rules(
        telemetry("a", "default", tracing("{randomSamplingPercentage: 1}")),
        telemetry("b", "default", tracing("{randomSamplingPercentage: 2}")),
        telemetry("b", "shop", tracing("{randomSamplingPercentage: 2}")),
    )
    assert found.of_workload(key("reviews"), (), ROOT).tracing(Side.CLIENT).sampling == 1
    (fault,) = found.faults()
    assert (fault.subject, fault.reason) == (
        "Telemetry/b.default",
        "has no effect: Telemetry/a.default is for the same workloads",
    )


def test_a_selector_in_the_root_namespace_is_for_all_namespaces_after_their_own() -> None:
    spec = "{{selector: {{matchLabels: {{istio: ingressgateway}}}}, tracing: [{{randomSamplingPercentage: {}}}]}}"
    edge, labels = key("istio-ingress"), labels_of({"istio": "ingressgateway"})
    found = rules(telemetry("edge", ROOT, spec.format(3)))
    assert found.of_workload(edge, labels, ROOT).tracing(Side.CLIENT).sampling == 3
    assert found.of_workload(key("reviews"), (), ROOT).objects == ()
    both = rules(telemetry("edge", ROOT, spec.format(3)), telemetry("own", "default", spec.format(4)))
    assert both.of_workload(edge, labels, ROOT).tracing(Side.CLIENT).sampling == 4


def test_a_service_can_be_named() -> None:
    spec = "{targetRef: {kind: Service, name: reviews}, tracing: [{randomSamplingPercentage: 7}]}"
    found = rules(telemetry("named", "default", spec))
    assert found.of_workload(key("reviews"), (), ROOT).tracing(Side.CLIENT).sampling == 7
    assert found.of_workload(key("ratings"), (), ROOT).tracing(Side.CLIENT).sampling is None


def planned(settings: str, *texts: str, uid: int | None = None) -> Desired:
    ratings = structs.replace(workload("ratings", Port(9090, "http", Protocol.HTTP), account="ratings"), uid=uid)
    made = mesh(
        [service("reviews"), service("zipkin", 1, port=Port(9411, "http", Protocol.HTTP), proxied=False)],
        workloads=(workload("reviews", HTTP), ratings),
    )
    told = parse_settings(settings, "mesh") if settings else MeshSettings()
    return Planner().plan(structs.replace(made, settings=told, telemetry=rules(*texts)), OPTIONS)


def managers(desired: Desired) -> dict[str, Any]:
    """Return the connection managers by their stat_prefix."""
    listeners = [listener_pb2.Listener.FromString(made.value) for made in desired.resources.of(LISTENER_TYPE).values()]
    filters = [one for listener in listeners for chain in listener.filter_chains for one in chain.filters]
    found = [_HCM.FromString(one.typed_config.value) for one in filters if one.typed_config.Is(_HCM.DESCRIPTOR)]
    return {one.stat_prefix: one for one in found}


def test_without_a_collector_nothing_is_traced() -> None:
    for texts in ((), (telemetry("mesh", ROOT, tracing("{randomSamplingPercentage: 100}")),)):
        found = managers(planned("", *texts))
        assert found
        assert not any(one.HasField("tracing") for one in found.values())


def test_every_connection_manager_traces_as_its_workload_wants() -> None:
    off = "{targetRef: {kind: Service, name: ratings}, tracing: [{disableSpanReporting: true}]}"
    desired = planned(COLLECTOR, telemetry("ratings", "default", off))
    found = managers(desired)
    assert found["outbound_9080"].tracing.random_sampling.value == 10
    assert found["inbound_9080"].tracing.provider.name == "envoy.tracers.zipkin"
    assert not found["inbound_9090"].HasField("tracing")
    assert desired.dangling == ()
    assert not desired.faults
    (route,) = found["inbound_9080"].route_config.virtual_hosts[0].routes
    assert route.decorator.operation == "reviews.default.svc.cluster.local:9080/*"
    tags = {tag.tag: tag.literal.value for tag in found["inbound_9080"].tracing.custom_tags}
    assert tags["istio.canonical_service"] == "reviews"


@pytest.mark.parametrize(
    ("collector", "leads", "fault"),
    [
        ("{service: zipkin, port: 9411}", "outbound|9411||zipkin.service.consul", ""),
        ("{service: default/zipkin.default.svc.cluster.local, port: 9411}", "outbound|9411||zipkin.service.consul", ""),
        ("{service: zipkin, port: 9412}", "", "is no service that this host can call"),
        ("{service: gone.shop.svc.cluster.local, port: 9411}", "", "is no service that this host can call"),
        ("{service: 192.0.2.1, port: 9411}", "", ""),
        ("{service: zipkin.example.com, port: 9411}", "", ""),
    ],
)
def test_where_the_collector_is(collector: str, leads: str, fault: str) -> None:
    desired = planned(f"tracing: {{zipkin: {collector}}}")
    ((name, made),) = [pair for pair in desired.resources.of(CLUSTER_TYPE).items() if pair[0].startswith("tracing|")]
    cluster = cluster_pb2.Cluster.FromString(made.value)
    assert cluster.eds_cluster_config.service_name == leads
    assert any(fault in one.reason for one in desired.faults) if fault else not desired.faults
    assert desired.dangling == ()
    # The listeners are the same whatever has become of the collector: no connection ends because it comes or goes.
    assert (
        json_format.MessageToDict(managers(desired)["outbound_9080"].tracing)["provider"]["typedConfig"][
            "collectorCluster"
        ]
        == name
    )


def test_a_collector_that_the_settings_do_not_name_is_told() -> None:
    desired = planned(COLLECTOR, telemetry("mesh", ROOT, tracing("{providers: [{name: otel}]}")))
    assert not any(one.HasField("tracing") for one in managers(desired).values())
    (fault,) = desired.faults
    assert fault.subject == "Telemetry/mesh.istio-system"
    assert fault.reason == "the mesh has no collector 'otel' (extensionProviders)"


def test_each_user_of_a_host_traces_as_its_own_workload_wants() -> None:
    spec = "{targetRef: {kind: Service, name: ratings}, tracing: [{randomSamplingPercentage: 30}]}"
    desired = planned(COLLECTOR, telemetry("ratings", "default", spec), uid=7)
    assert desired.dangling == ()
    found = {
        one.tracing.provider.typed_config.value: one.tracing.random_sampling.value
        for listener in desired.resources.of(LISTENER_TYPE).values()
        for chain in listener_pb2.Listener.FromString(listener.value).filter_chains
        for one in (_HCM.FromString(each.typed_config.value) for each in chain.filters)
        if one.stat_prefix == "outbound_9080"
    }
    assert {b"tracing|9411|zipkin|zipkin~7" in provider: share for provider, share in found.items()} == {
        False: 10,
        True: 30,
    }


def test_metrics_are_changed_one_after_the_other() -> None:
    root = (
        "{metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: REQUEST_COUNT}, disabled: true}]}]}"
    )
    wide = "{metrics: [{overrides: [{match: {mode: SERVER}, tagOverrides: {a: {value: b}, c: {operation: REMOVE}}}]}]}"
    found = _lowered(telemetry("mesh", ROOT, root), telemetry("wide", "default", wide))
    (first, second) = found.metrics(Side.SERVER, ())["prometheus"]
    assert (first.metric, first.disabled, first.tags) == ("REQUEST_COUNT", True, ())
    assert (second.metric, second.disabled, second.tags) == ("ALL_METRICS", None, (("a", "b"), ("c", None)))
    assert len(found.metrics(Side.CLIENT, ())["prometheus"]) == 1
    assert found.metrics(Side.CLIENT, ("x",)).keys() == {"prometheus"}
    assert _lowered().metrics(Side.CLIENT, ("x",)) == {"x": ()}


def test_logs_are_where_the_narrowest_says() -> None:
    root = "{accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >= 400'}}]}"
    off = "{accessLogging: [{match: {mode: CLIENT}, disabled: true}]}"
    found = _lowered(telemetry("mesh", ROOT, root), telemetry("wide", "default", off))
    assert found.logging(Side.SERVER, ()) == {"envoy": "response.code >= 400"}
    assert found.logging(Side.CLIENT, ()) == {}
    assert _lowered().logging(Side.CLIENT, ("envoy",)) == {"envoy": ""}
    other = "{accessLogging: [{providers: [{name: otel}]}]}"
    moved = _lowered(telemetry("mesh", ROOT, root), telemetry("wide", "default", other))
    assert moved.logging(Side.SERVER, ("envoy",)) == {"otel": ""}


def _lowered(*texts: str) -> WorkloadTelemetry:
    """Return what objects say of metrics and logs, whether or not something is made of it yet."""
    documents, problems = read_documents("".join(texts), "rules.yaml", "default") if texts else ([], [])
    assert not problems
    return TelemetryRules(tuple(map(lower_telemetry, documents))).of_workload(key("reviews"), (), ROOT)
