"""Traces: what connection managers say of requests, to which collector, and by which name. Pure.

Off, nothing is added: a request costs nothing. Envoy gathers spans and sends them by itself, from a bounded buffer; a
collector that is gone, slow or says nonsense costs spans (docs/tasks/tracing.md says where they are counted).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import http_service_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.trace.v3 import opentelemetry_pb2, zipkin_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.tracing.v3 import custom_tag_pb2
from google.protobuf import wrappers_pb2
from msgspec import Struct

from agent.mesh.collector import Collector, OpenTelemetry, SpanTag, TagSource, TraceContext, Zipkin
from agent.mesh.names import (
    CLUSTER_TYPE,
    ENDPOINT_TYPE,
    LISTENER_TYPE,
    SECRET_TYPE,
    full_host,
    host_of_cluster,
    process_name,
)
from agent.mesh.service import Labels, ServiceKey
from agent.mesh.snapshot import Resource
from agent.translate.resource import packed, resource, seconds

_HCM = http_connection_manager_pb2.HttpConnectionManager
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_EVERY = 100.0
_MAX_CONNECTIONS, _MAX_REPORTS = 32, 256
"""Reports under way to a collector, at most: a slow one costs spans, not memory."""
_GRPC_SECONDS = 3.0
_LATEST = "latest"


class Tracer(Struct, frozen=True):
    """How requests at one end are traced."""

    collector: Zipkin | OpenTelemetry
    sampling: float
    """Percent."""
    tags: tuple[tuple[str, SpanTag], ...]
    max_path: int
    service: ServiceKey
    """Whose spans they are."""
    by_request_id: bool = True
    upstream_span: bool = False
    """A span of its own for each request that is passed on: a gateway's, which is no workload's end."""

    @property
    def cluster(self) -> str:
        """Return the collector's cluster."""
        return collector_cluster_name(self.collector)


def collector_cluster_name(collector: Collector) -> str:
    """Return the name of a collector's cluster: the same whether there is such a service now or not."""
    kind = type(collector).__name__.lower()
    how = "http" if isinstance(collector, OpenTelemetry) and collector.http is not None else ""
    return f"tracing|{collector.port}|{kind}{how}|{collector.host.lower()}"


def workload_tags(service: ServiceKey, labels: Labels, mesh: str) -> tuple[tuple[str, SpanTag], ...]:
    """Return the tags that Istio gives every span of a workload."""
    said = {
        "istio.canonical_revision": dict(labels).get("version", _LATEST),
        "istio.canonical_service": service.name,
        "istio.mesh_id": mesh,
        "istio.namespace": service.namespace,
    }
    return tuple((name, SpanTag(TagSource.LITERAL, value)) for name, value in said.items() if value)


def with_tracing(resources: Iterable[Resource], tracer_of: Callable[[str], Tracer | None]) -> tuple[Resource, ...]:
    """Return the resources, listeners with connection managers that trace; `tracer_of` knows them by stat_prefix."""
    return tuple(_tracing(each, tracer_of) if each.type_url == LISTENER_TYPE else each for each in resources)


def _tracing(made: Resource, tracer_of: Callable[[str], Tracer | None]) -> Resource:
    message, clusters = listener_pb2.Listener.FromString(made.value), set[str]()
    chains = [*message.filter_chains, *([message.default_filter_chain] * message.HasField("default_filter_chain"))]
    for network_filter in (one for chain in chains for one in chain.filters):
        if not network_filter.typed_config.Is(_HCM.DESCRIPTOR):
            continue
        manager = _HCM.FromString(network_filter.typed_config.value)
        tracer = tracer_of(manager.stat_prefix)
        if tracer is not None:
            _add(manager, tracer)
            network_filter.typed_config.CopyFrom(packed(manager))
            clusters.add(tracer.cluster)
    if not clusters:
        return made
    return resource(LISTENER_TYPE, made.name, message, {*made.references, *((CLUSTER_TYPE, one) for one in clusters)})


def _add(manager: Any, tracer: Tracer) -> None:
    tracing = manager.tracing
    tracing.client_sampling.value = tracing.overall_sampling.value = _EVERY
    tracing.random_sampling.value = tracer.sampling
    tracing.max_path_tag_length.value = tracer.max_path
    tracing.custom_tags.extend(_tag(name, tag) for name, tag in tracer.tags)
    if tracer.upstream_span:
        tracing.spawn_upstream_span.value = True
    provider, name = _provider(tracer)
    tracing.provider.name = f"envoy.tracers.{name}"
    tracing.provider.typed_config.CopyFrom(packed(provider))
    if not tracer.by_request_id:
        extension = uuid_pb2.UuidRequestIdConfig(
            pack_trace_reason=wrappers_pb2.BoolValue(value=False),
            use_request_id_for_trace_sampling=wrappers_pb2.BoolValue(value=False),
        )
        manager.request_id_extension.typed_config.CopyFrom(packed(extension))
    if manager.HasField("route_config"):  # inbound: it is all one service's
        for host in manager.route_config.virtual_hosts:
            name_spans(host.routes, f"{full_host(tracer.service)}:{manager.stat_prefix.rpartition('_')[2]}")


def _tag(name: str, tag: SpanTag) -> Any:
    message = custom_tag_pb2.CustomTag(tag=name)
    match tag.source:
        case TagSource.LITERAL:
            message.literal.value = tag.value
        case TagSource.ENVIRONMENT:
            message.environment.name, message.environment.default_value = tag.value, tag.default
        case TagSource.HEADER:
            message.request_header.name, message.request_header.default_value = tag.value, tag.default
        case TagSource.FORMATTER:
            message.value = tag.value
    return message


def _provider(tracer: Tracer) -> tuple[Any, str]:
    collector = tracer.collector
    if isinstance(collector, Zipkin):
        return _zipkin(collector, tracer.cluster), "zipkin"
    return _opentelemetry(collector, tracer), "opentelemetry"


def _zipkin(collector: Zipkin, cluster: str) -> Any:
    """Return Zipkin's driver; caller and callee have a span each, as with Istio."""
    message = zipkin_pb2.ZipkinConfig(
        collector_cluster=cluster,
        collector_endpoint=collector.path,
        collector_hostname=_authority(collector),
        collector_endpoint_version=zipkin_pb2.ZipkinConfig.HTTP_JSON,
        trace_id_128bit=not collector.enable_64bit_trace_id,
        shared_span_context=wrappers_pb2.BoolValue(value=False),
    )
    if collector.trace_context_option is TraceContext.B3_AND_W3C:
        message.trace_context_option = zipkin_pb2.ZipkinConfig.USE_B3_WITH_W3C_PROPAGATION
    return message


def _opentelemetry(collector: OpenTelemetry, tracer: Tracer) -> Any:
    message = opentelemetry_pb2.OpenTelemetryConfig(service_name=process_name(tracer.service))
    if collector.http is None:
        grpc = message.grpc_service
        grpc.envoy_grpc.cluster_name, grpc.envoy_grpc.authority = tracer.cluster, _authority(collector)
        grpc.timeout.CopyFrom(seconds(_GRPC_SECONDS))
        return message
    service = http_service_pb2.HttpService()
    service.http_uri.uri = f"http://{_authority(collector)}{collector.http.path}"
    service.http_uri.cluster = tracer.cluster
    service.http_uri.timeout.CopyFrom(seconds(collector.http.seconds))
    for one in collector.http.headers:
        header = service.request_headers_to_add.add().header
        header.key, header.value = one.name, one.value.replace("%", "%%")
    message.http_service.CopyFrom(service)
    return message


def _authority(collector: Collector) -> str:
    host = f"[{collector.host}]" if ":" in collector.host else collector.host
    return f"{host}:{collector.port}"


def collector_cluster(collector: Collector, there: Resource | None) -> Resource:
    """Return a collector's cluster: like the one that leads `there`, but with limits; None: it leads nowhere."""
    cluster: Any = cluster_pb2.Cluster.FromString(there.value) if there else cluster_pb2.Cluster()
    before, cluster.name = cluster.name, collector_cluster_name(collector)
    cluster.alt_stat_name = cluster.name.replace(".", "_")
    references: list[tuple[str, str]] = []
    if there is not None:
        references += [one for one in there.references if one[0] == SECRET_TYPE]
    if there is not None and cluster.type == cluster_pb2.Cluster.EDS:
        cluster.eds_cluster_config.service_name = cluster.eds_cluster_config.service_name or before
        references.append((ENDPOINT_TYPE, cluster.eds_cluster_config.service_name))
    if cluster.HasField("load_assignment"):
        cluster.load_assignment.cluster_name = cluster.name
    limits = circuit_breaker_pb2.CircuitBreakers.Thresholds()
    limits.max_connections.value = _MAX_CONNECTIONS
    limits.max_pending_requests.value = limits.max_requests.value = _MAX_REPORTS
    cluster.circuit_breakers.CopyFrom(circuit_breaker_pb2.CircuitBreakers(thresholds=[limits]))
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if isinstance(collector, OpenTelemetry) and collector.http is None:
        options.explicit_http_config.http2_protocol_options.CopyFrom(protocol_pb2.Http2ProtocolOptions())
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(packed(options))
    return resource(CLUSTER_TYPE, cluster.name, cluster, references)


def name_spans(routes: Iterable[Any], otherwise: str) -> None:
    """Name the spans of routes (envoy.config.route.v3.Route) as Istio does: `HOST:PORT/*`, less what a rule matches.

    `otherwise`: HOST:PORT of routes that don't lead to one service's cluster.
    """
    for route in routes:
        found = host_of_cluster(route.route.cluster) if route.HasField("route") else None
        route.decorator.operation = (f"{found[0]}:{found[1]}" if found else otherwise) + _path(route.match)
        route.decorator.propagate.value = False  # the other end names its own


def _path(match: Any) -> str:
    match match.WhichOneof("path_specifier"):
        case "prefix":
            return f"{match.prefix}*"
        case "path":
            return str(match.path)
        case "path_separated_prefix":
            return f"{match.path_separated_prefix}*"
        case "safe_regex":
            return str(match.safe_regex.regex)
        case _:
            return "/*"
