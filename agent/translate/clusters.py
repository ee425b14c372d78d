"""Clusters: one for each service port and subset, one for each local workload port, two for the unknown. Pure."""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from msgspec import structs

from agent.mesh.names import (
    CLUSTER_TYPE,
    ENDPOINT_TYPE,
    SECRET_TYPE,
    TRUST_BUNDLE_SECRET,
    inbound_cluster,
    outbound_cluster,
    server_name,
)
from agent.mesh.routes import Fault, Subset
from agent.mesh.service import Identity, Port, Protocol, Resolution
from agent.mesh.snapshot import Resource
from agent.mesh.traffic_policy import (
    Algorithm,
    ClientTls,
    ConnectionPool,
    Http2Use,
    LoadBalancer,
    TlsMode,
    TrafficPolicy,
)
from agent.translate.balancing import set_load_balancer
from agent.translate.facts import ClientSecurity, ServiceFacts, ServiceSubset
from agent.translate.health_checks import set_active_check
from agent.translate.limits import circuit_breakers, http_options, set_connections, set_outlier_detection, uses_http2
from agent.translate.locality import distribution
from agent.translate.outside import client_tls, set_discovery
from agent.translate.policies import ServiceTraffic
from agent.translate.resource import ADS, any_address, packed, resource, seconds
from agent.translate.tls import (
    client_socket,
    credential_references,
    foreign_socket,
    mode_struct,
    plain_socket,
    with_proxy_protocol,
)

PASSTHROUGH = "PassthroughCluster"
"""Sends to where the connection was going before it was captured."""
BLACK_HOLE = "BlackHoleCluster"
"""Has no endpoint: connections to it are closed."""
CONNECT_TIMEOUT_SECONDS = 10.0

_NO_LIMITS = ConnectionPool()
_CIRCUIT_BREAKERS = circuit_breakers(_NO_LIMITS)
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_Options = http_protocol_options_pb2.HttpProtocolOptions
_HTTP2 = http_options(Protocol.HTTP2, _NO_LIMITS, None)
_AS_DOWNSTREAM = packed(_Options(use_downstream_protocol_config=_Options.UseDownstreamHttpConfig()))


def service_clusters(
    facts: ServiceFacts,
    subsets: tuple[ServiceSubset, ...],
    security: ClientSecurity,
    traffic: ServiceTraffic,
    dns_upstreams: tuple[str, ...] = (),
) -> tuple[Resource, ...]:
    """Return the clusters of a service: each port's own, then those of its subsets."""
    return tuple(
        _service_cluster(facts, port, subset, security, traffic, dns_upstreams)
        for port, subset in _wanted(facts, subsets)
    )


def unusable_policies(
    facts: ServiceFacts, subsets: tuple[ServiceSubset, ...], security: ClientSecurity, traffic: ServiceTraffic
) -> tuple[Fault, ...]:
    """Return a fault for each thing that is ordered of this host's connections and cannot be had."""
    reasons: set[str] = set()
    for port, subset in _wanted(facts, subsets):
        policy = traffic.of(port.number, subset)
        if obstacle := security.obstacle(policy.tls):
            reasons.add(f"a DestinationRule {obstacle}: nothing is sent")
        if _passes(policy) and facts.has_address:
            reasons.add(
                "PASSTHROUGH of a DestinationRule has no effect: callers reach the service at a virtual address,"
                " so no connection is on its way to an instance (wildcards, and addresses with resolution NONE, are)"
            )
        if policy.tunnel and port.protocol.is_http:
            reasons.add(f"the tunnel of a DestinationRule has no effect on port {port.number}: only TCP can have one")
    return tuple(Fault(f"service {facts.key}", reason) for reason in sorted(reasons))


def workload_cluster(port: Port, address: str, target: int, pool: ConnectionPool | None = None) -> Resource:
    """Return the cluster of a local workload's port: the application itself, reached in plain text.

    `address` and the port `target` are where it listens; `address` may be a Unix socket.
    """
    name = inbound_cluster(port.number)
    cluster = _cluster(name, cluster_pb2.Cluster.STATIC)
    cluster.load_assignment.cluster_name = name
    endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.CopyFrom(any_address(address, target))
    if pool is not None:
        set_connections(cluster, pool)
    if port.protocol.may_be_http:
        _set_http(cluster, _inbound_options(port, pool))
    return resource(CLUSTER_TYPE, name, cluster)


def _inbound_options(port: Port, pool: ConnectionPool | None) -> Any:
    """Plain HTTP goes on in the version it came in; gRPC and HTTP/2 applications get HTTP/2 from everybody."""
    if pool is None:
        return _HTTP2 if port.protocol.is_http2 else _AS_DOWNSTREAM
    if not port.protocol.is_http2 and pool.http2 is None:
        pool = structs.replace(pool, http2=Http2Use.AS_CLIENT)
    return http_options(port.protocol, pool, None)


def fallback_clusters() -> tuple[Resource, ...]:
    """Return the clusters for destinations that the mesh doesn't know."""
    passthrough = _cluster(PASSTHROUGH, cluster_pb2.Cluster.ORIGINAL_DST)
    passthrough.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    _set_http(passthrough, _AS_DOWNSTREAM)
    black_hole = _cluster(BLACK_HOLE, cluster_pb2.Cluster.STATIC)
    return tuple(resource(CLUSTER_TYPE, cluster.name, cluster) for cluster in (passthrough, black_hole))


def _wanted(facts: ServiceFacts, subsets: tuple[ServiceSubset, ...]) -> list[tuple[Port, Subset | None]]:
    wanted: list[tuple[Port, Subset | None]] = [(port, None) for port in facts.ports]
    return wanted + [(port, s.subset) for s in subsets for port in facts.ports if port.number == s.port]


def _service_cluster(
    facts: ServiceFacts,
    port: Port,
    subset: Subset | None,
    security: ClientSecurity,
    traffic: ServiceTraffic,
    dns_upstreams: tuple[str, ...],
) -> Resource:
    name = outbound_cluster(facts.key, port.number, subset)
    policy = traffic.of(port.number, subset)
    if facts.outside and _passes(policy) and not facts.has_address:
        facts = structs.replace(facts, outside=structs.replace(facts.outside, resolution=Resolution.ORIGINAL))
    if facts.outside:
        policy = structs.replace(policy, tls=client_tls(facts.key, facts.outside, port.number, policy.tls))
    pool = policy.connections or _NO_LIMITS
    cluster = _cluster(name, cluster_pb2.Cluster.EDS)
    set_connections(cluster, pool, policy.retry_budget)
    if port.protocol.may_be_http:
        _set_http(cluster, http_options(port.protocol, pool, policy.tls))
    set_load_balancer(cluster, policy.load_balancer or LoadBalancer())
    if distribution(policy, traffic.place.locality):
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()
    if policy.outliers:
        set_outlier_detection(cluster, policy.outliers)
    set_active_check(cluster, facts, uses_http2(port.protocol, pool))
    secrets = _set_transport(cluster, facts, security, policy.tls, uses_http2(port.protocol, pool))
    if policy.proxy_protocol:
        _set_proxy_protocol(cluster, policy.proxy_protocol)
    references = [(SECRET_TYPE, secret) for secret in secrets]
    if facts.outside and not facts.has_endpoints and security.obstacle(policy.tls):
        cluster.type = cluster_pb2.Cluster.STATIC  # without an endpoint: nothing is sent
    elif facts.outside and not facts.has_endpoints:
        set_discovery(cluster, facts.outside, port, subset, dns_upstreams, security)
    else:
        cluster.eds_cluster_config.eds_config.CopyFrom(ADS)
        references.append((ENDPOINT_TYPE, name))
    return resource(CLUSTER_TYPE, name, cluster, references)


def _passes(policy: TrafficPolicy) -> bool:
    """Tell whether connections are to go where they were going."""
    return policy.load_balancer is not None and policy.load_balancer.algorithm is Algorithm.PASSTHROUGH


def _set_transport(
    cluster: Any, facts: ServiceFacts, security: ClientSecurity, tls: ClientTls | None, http2: bool
) -> tuple[str, ...]:
    """Set what secures the connections: what the policy orders, else mutual TLS where it is known to be served.

    Returns the secrets that it needs.
    """
    if security.obstacle(tls):
        return ()
    if tls and tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL):
        held = security.credential(tls.credential)
        has_authorities = held is not None and held.has_authorities
        cluster.transport_socket.CopyFrom(foreign_socket(tls, http2, has_authorities))
        return credential_references(tls, has_authorities)
    if security.certificate and tls and tls.mode is TlsMode.ISTIO_MUTUAL:
        cluster.transport_socket.CopyFrom(_mesh_socket(cluster, facts, security, tls))
        return security.certificate, TRUST_BUNDLE_SECRET
    if tls is None and security.certificate and facts.proxied and not security.peers.excludes(facts.key):
        _set_automatic_mtls(cluster, _mesh_socket(cluster, facts, security, None))
        return security.certificate, TRUST_BUNDLE_SECRET
    return ()


def _mesh_socket(cluster: Any, facts: ServiceFacts, security: ClientSecurity, tls: ClientTls | None) -> Any:
    """Return the mesh's mutual TLS; the servers are those of the service's accounts unless a rule names others.

    A service of which no instance is proxied may serve it by itself: a gateway does.
    """
    identities = facts.proxied or facts.others or (Identity(facts.key.namespace, "default"),)
    own = [identity.spiffe_id(domain) for domain in security.trust_domains for identity in identities]
    own += [name for name in (facts.outside.subject_alt_names if facts.outside else ()) if "://" in name]
    servers = tls.subject_alt_names if tls and tls.subject_alt_names else own
    return client_socket(str(security.certificate), servers, (tls.sni if tls else "") or server_name(cluster.name))


def _set_automatic_mtls(cluster: Any, mesh_socket: Any) -> None:
    """Mutual TLS to the endpoints marked so, plain text to the others."""
    tls = cluster.transport_socket_matches.add(name="hostmesh", transport_socket=mesh_socket)
    tls.match.CopyFrom(mode_struct())
    plain = cluster.transport_socket_matches.add(name="plain", transport_socket=plain_socket())
    plain.match.SetInParent()


def _set_proxy_protocol(cluster: Any, version: int) -> None:
    for match in cluster.transport_socket_matches:
        match.transport_socket.CopyFrom(with_proxy_protocol(match.transport_socket, version))
    if not cluster.transport_socket_matches:
        socket = cluster.transport_socket if cluster.HasField("transport_socket") else plain_socket()
        cluster.transport_socket.CopyFrom(with_proxy_protocol(socket, version))


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
