"""Clusters: one for each service port and subset, one for each local workload port, two for the unknown. Pure."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import wrappers_pb2

from agent.mesh.names import (
    CLUSTER_TYPE,
    ENDPOINT_TYPE,
    SECRET_TYPE,
    TRUST_BUNDLE_SECRET,
    inbound_cluster,
    outbound_cluster,
)
from agent.mesh.routes import Subset
from agent.mesh.service import Identity, Port
from agent.mesh.settings import MtlsMode
from agent.mesh.snapshot import Resource
from agent.translate.facts import ClientSecurity, ServiceFacts, ServiceSubset
from agent.translate.resource import ADS, packed, resource, seconds, socket_address
from agent.translate.tls import client_socket, mode_struct, plain_socket

PASSTHROUGH = "PassthroughCluster"
"""Sends to where the connection was going before it was captured."""
BLACK_HOLE = "BlackHoleCluster"
"""Has no endpoint: connections to it are closed."""
CONNECT_TIMEOUT_SECONDS = 10.0

_UNLIMITED = wrappers_pb2.UInt32Value(value=2**32 - 1)
_CIRCUIT_BREAKERS = circuit_breaker_pb2.CircuitBreakers(
    # Envoy's defaults (1024, and 3 retries) would refuse load that the instances can take; limits are rules' business.
    thresholds=[
        circuit_breaker_pb2.CircuitBreakers.Thresholds(
            max_connections=_UNLIMITED, max_pending_requests=_UNLIMITED, max_requests=_UNLIMITED, max_retries=_UNLIMITED
        )
    ]
)
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_Options = http_protocol_options_pb2.HttpProtocolOptions
_HTTP1 = packed(
    _Options(
        explicit_http_config=_Options.ExplicitHttpConfig(http_protocol_options=protocol_pb2.Http1ProtocolOptions())
    )
)
_HTTP2 = packed(
    _Options(
        explicit_http_config=_Options.ExplicitHttpConfig(http2_protocol_options=protocol_pb2.Http2ProtocolOptions())
    )
)
_AS_DOWNSTREAM = packed(_Options(use_downstream_protocol_config=_Options.UseDownstreamHttpConfig()))


def service_clusters(
    facts: ServiceFacts, subsets: tuple[ServiceSubset, ...], security: ClientSecurity
) -> tuple[Resource, ...]:
    """Return the clusters of a service: each port's own, then those of its subsets."""
    wanted: list[tuple[Port, Subset | None]] = [(port, None) for port in facts.ports]
    wanted += [(port, s.subset) for s in subsets for port in facts.ports if port.number == s.port]
    return tuple(_service_cluster(facts, port, subset, security) for port, subset in wanted)


def workload_cluster(port: Port, address: str) -> Resource:
    """Return the cluster of a local workload's port: the application itself, reached at that address in plain text."""
    name = inbound_cluster(port.number)
    cluster = _cluster(name, cluster_pb2.Cluster.STATIC)
    cluster.load_assignment.cluster_name = name
    endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.CopyFrom(socket_address(address, port.number))
    if port.protocol.is_http:
        # Plain HTTP goes on in the version it came in; gRPC and HTTP/2 applications get HTTP/2 from everybody.
        _set_http(cluster, _HTTP2 if port.protocol.is_http2 else _AS_DOWNSTREAM)
    return resource(CLUSTER_TYPE, name, cluster)


def fallback_clusters() -> tuple[Resource, ...]:
    """Return the clusters for destinations that the mesh doesn't know."""
    passthrough = _cluster(PASSTHROUGH, cluster_pb2.Cluster.ORIGINAL_DST)
    passthrough.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    _set_http(passthrough, _AS_DOWNSTREAM)
    black_hole = _cluster(BLACK_HOLE, cluster_pb2.Cluster.STATIC)
    return tuple(resource(CLUSTER_TYPE, cluster.name, cluster) for cluster in (passthrough, black_hole))


def _service_cluster(facts: ServiceFacts, port: Port, subset: Subset | None, security: ClientSecurity) -> Resource:
    name = outbound_cluster(facts.key, port.number, subset)
    cluster = _cluster(name, cluster_pb2.Cluster.EDS)
    cluster.eds_cluster_config.eds_config.CopyFrom(ADS)
    if port.protocol.is_http:
        _set_http(cluster, _HTTP2 if port.protocol.is_http2 else _HTTP1)
    references = [(ENDPOINT_TYPE, name)]
    if security.certificate and security.mode is not MtlsMode.DISABLED and facts.proxied_accounts:
        _set_automatic_mtls(cluster, facts, security.certificate, security.trust_domain)
        references += [(SECRET_TYPE, security.certificate), (SECRET_TYPE, TRUST_BUNDLE_SECRET)]
    return resource(CLUSTER_TYPE, name, cluster, references)


def _set_automatic_mtls(cluster: Any, facts: ServiceFacts, certificate: str, trust_domain: str) -> None:
    """Mutual TLS to the endpoints marked so, plain text to the others."""
    server_ids = [Identity(facts.key.namespace, account).spiffe_id(trust_domain) for account in facts.proxied_accounts]
    socket = client_socket(certificate, server_ids, _sni(cluster.name))
    tls = cluster.transport_socket_matches.add(name="hostmesh", transport_socket=socket)
    tls.match.CopyFrom(mode_struct())
    plain = cluster.transport_socket_matches.add(name="plain", transport_socket=plain_socket())
    plain.match.SetInParent()


def _sni(cluster_name: str) -> str:
    """Return the server name of a cluster as Istio writes it: `outbound_.9080_.v1_.reviews.service.consul`."""
    return cluster_name.replace("|", "_.")


def _cluster(name: str, kind: int) -> Any:
    cluster = cluster_pb2.Cluster(
        name=name, type=kind, connect_timeout=seconds(CONNECT_TIMEOUT_SECONDS), circuit_breakers=_CIRCUIT_BREAKERS
    )
    if "." in name:
        # Envoy takes a cluster's name in a statistic to end at the first dot.
        cluster.alt_stat_name = name.replace(".", "_")
    return cluster


def _set_http(cluster: Any, options: Any) -> None:
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(options)
