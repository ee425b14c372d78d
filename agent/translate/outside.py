"""Services that rules declare: which of them this host can have, and how their clusters find endpoints. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.clusters.common.dns.v3 import dns_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.clusters.dynamic_forward_proxy.v3 import cluster_pb2 as dynamic_cluster_pb2
from envoy.extensions.common.dynamic_forward_proxy.v3 import dns_cache_pb2
from envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3 import (
    sni_dynamic_forward_proxy_pb2 as sni_filter_pb2,
)
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2
from msgspec import structs

from agent.mesh.authentication import PeerModes
from agent.mesh.ports import DNS_PORT, LISTENER_PORTS
from agent.mesh.routes import Fault, Subset
from agent.mesh.service import Instance, Outside, Port, Protocol, Resolution, Service, ServiceKey, selects
from agent.mesh.settings import OutboundTrafficPolicy
from agent.mesh.traffic_policy import ClientTls, TlsMode
from agent.translate.facts import ClientSecurity, ServiceFacts
from agent.translate.options import PlanOptions
from agent.translate.resource import packed, seconds, socket_address
from agent.translate.tls import mesh_metadata

REFRESH_SECONDS = 30.0
"""How often names are looked up again where the answer doesn't say (TTL 0)."""
FAILED_REFRESH_SECONDS = (1.0, 10.0)
"""The first pause after a lookup that failed, and the longest."""
_WEB_PORTS = (80, 443)
_MESH_METADATA = mesh_metadata()
_CAPTURE_ALL = "set interception.outbound to all, or list ranges in interception.includeOutboundCidrs"


def usable_services(
    services: Mapping[ServiceKey, Service], namespace: str, options: PlanOptions
) -> tuple[Mapping[ServiceKey, Service], tuple[Fault, ...]]:
    """Return the services that callers of that namespace see and this host can reach; the others cost a fault."""
    faults: list[Fault] = []
    left_out: set[ServiceKey] = set()
    for key, service in services.items():
        outside = service.outside
        if outside is None:
            continue
        if outside.exported_to and namespace not in outside.exported_to:
            left_out.add(key)
        elif reason := _obstacle(service, outside, options):
            left_out.add(key)
            faults.append(Fault(outside.origin, reason))
    if not left_out:
        return services, ()
    return {key: service for key, service in services.items() if key not in left_out}, tuple(faults)


def policy_faults(policy: OutboundTrafficPolicy, options: PlanOptions) -> tuple[Fault, ...]:
    """Return a fault where the mesh wants unknown destinations blocked and this host doesn't capture them."""
    if policy is not OutboundTrafficPolicy.REGISTRY_ONLY or not options.interception or options.captures_foreign:
        return ()
    reason = f"REGISTRY_ONLY blocks nothing on this host, which captures mesh addresses only ({_CAPTURE_ALL})"
    return (Fault("outboundTrafficPolicy", reason),)


def undeclared(service: Service) -> ServiceFacts | None:
    """Return the ports of an exact host that no rule speaks of but every browser knows; None: there are none.

    The host's name leads to a virtual address whatever the port: a rule for HTTP must not take HTTPS away.
    """
    outside = service.outside
    if outside is None or tuple(e.address for e in outside.endpoints) != (service.key.name,):
        return None
    ports = tuple(Port(number, "tcp", Protocol.TCP) for number in _WEB_PORTS if service.port(number) is None)
    itself = structs.replace(outside.endpoints[0], target_ports=())
    plain = Outside(outside.origin, Resolution.DNS, (itself,))
    return ServiceFacts(service.key, ports, (), plain) if ports else None


def _obstacle(service: Service, outside: Outside, options: PlanOptions) -> str | None:
    """Return why this host can't have the service, or None."""
    if own := [port.number for port in service.ports if port.number in LISTENER_PORTS]:
        return f"{service.key} has no effect: port {own[0]} is Envoy's own on every host"
    if not service.has_address and not options.captures_foreign:
        what = "a range of addresses" if outside.addresses else "a wildcard"
        if options.gateway is not None:
            return (
                f"{service.key} has no effect on this gateway: connections to it were going to itself, not to {what}"
                " (declare the hosts that leave through it by their whole names)"
            )
        return (
            f"{service.key} has no effect on this host, which captures mesh addresses only: {what} needs more"
            f" ({_CAPTURE_ALL})"
        )
    if outside.resolution.asks_dns and options.interception and not options.dns_upstreams:
        return (
            f"{service.key} has no effect on this host: it must be looked up past the host's own DNS cache, and no"
            " other server is known (name some as dns.upstreams in agent.yaml)"
        )
    return None


def client_tls(key: ServiceKey, outside: Outside | None, port: int, ordered: ClientTls | None) -> ClientTls | None:
    """Return a client's TLS: what a policy orders, else what the declaring rule does for that port.

    Servers are believed by the names that the declaring rule lists, where the policy lists none.
    """
    if outside is None:
        return ordered
    if ordered is None and port in outside.tls_ports:
        ordered = ClientTls(TlsMode.SIMPLE, sni=key.name if key.is_one_host else "")
    if ordered and outside.subject_alt_names and not ordered.subject_alt_names:
        return structs.replace(ordered, subject_alt_names=outside.subject_alt_names)
    return ordered


def set_discovery(
    cluster: Any,
    outside: Outside,
    port: Port,
    subset: Subset | None,
    upstreams: tuple[str, ...],
    security: ClientSecurity,
) -> None:
    """Say where a cluster's endpoints come from, unless EDS says it (STATIC)."""
    if outside.resolution is Resolution.ORIGINAL:
        cluster.type = cluster_pb2.Cluster.ORIGINAL_DST
        _leave_balancing(cluster)
        return
    if outside.resolution is Resolution.DYNAMIC:
        cluster.cluster_type.name = "envoy.clusters.dynamic_forward_proxy"
        cluster.cluster_type.typed_config.CopyFrom(packed(_dynamic(cluster.name, upstreams)))
        _leave_balancing(cluster)
        return
    chosen = [e for e in outside.endpoints if subset is None or selects(subset.labels, e.labels)]
    chosen = [endpoint for endpoint in chosen if not security.withholds(endpoint, _target(endpoint, port.number))]
    # Envoy takes one endpoint only for this; a selector may have found several.
    single = outside.resolution is Resolution.DNS_ROUND_ROBIN and len(chosen) == 1
    cluster.cluster_type.name = "envoy.clusters.dns"
    cluster.cluster_type.typed_config.CopyFrom(packed(dns_discovery(single, upstreams)))
    # A name that can't be looked up must not keep everything else waiting.
    cluster.wait_for_warm_on_init.value = False
    cluster.load_assignment.cluster_name = cluster.name
    _add_endpoints(cluster.load_assignment, chosen, port.number, security.peers)


def _leave_balancing(cluster: Any) -> None:
    """Leave it to the cluster where a request goes."""
    cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    for chosen in (cluster.WhichOneof("lb_config"), "load_balancing_policy"):
        if chosen:
            cluster.ClearField(chosen)


def lookup_of_server_name(cluster: str, port: int, upstreams: tuple[str, ...]) -> Any:
    """Return the network filter that looks up the name a TLS client asks for, for a cluster of such (DYNAMIC).

    The cluster itself looks up what HTTP requests are for; a connection it would fail once, and not know the port.
    """
    config = sni_filter_pb2.FilterConfig(port_value=port, dns_cache_config=_cache(cluster, upstreams))
    return listener_components_pb2.Filter(
        name="envoy.filters.network.sni_dynamic_forward_proxy", typed_config=packed(config)
    )


def _dynamic(name: str, upstreams: tuple[str, ...]) -> Any:
    """Return a cluster whose endpoints are the hosts that requests are for."""
    # Envoy wants to see names verified; what a policy says about that stands in the cluster's TLS.
    return dynamic_cluster_pb2.ClusterConfig(
        allow_insecure_cluster_options=True, dns_cache_config=_cache(name, upstreams)
    )


def _cache(name: str, upstreams: tuple[str, ...]) -> Any:
    cache = dns_cache_pb2.DnsCacheConfig(name=name, dns_lookup_family=cluster_pb2.Cluster.V4_PREFERRED)
    cache.dns_refresh_rate.CopyFrom(seconds(REFRESH_SECONDS))
    if upstreams:
        cache.typed_dns_resolver_config.CopyFrom(_resolver(upstreams))
    return cache


def _resolver(upstreams: tuple[str, ...]) -> Any:
    resolver = cares_dns_resolver_pb2.CaresDnsResolverConfig(resolvers=[_server(server) for server in upstreams])
    resolver.dns_resolver_options.no_default_search_domain = True
    return extension_pb2.TypedExtensionConfig(name="envoy.network.dns_resolver.cares", typed_config=packed(resolver))


def dns_discovery(single: bool, upstreams: tuple[str, ...]) -> Any:
    """Return what makes a cluster look names up; `single`: it has one endpoint, whichever addresses there are."""
    first, longest = FAILED_REFRESH_SECONDS
    dns = dns_cluster_pb2.DnsCluster(
        dns_refresh_rate=seconds(REFRESH_SECONDS),
        respect_dns_ttl=True,
        # IPv6 addresses only where there is no other: many hosts have IPv6 and no way out by it.
        dns_lookup_family=dns_pb2.V4_PREFERRED,
        all_addresses_in_single_endpoint=single,
    )
    dns.dns_failure_refresh_rate.base_interval.CopyFrom(seconds(first))
    dns.dns_failure_refresh_rate.max_interval.CopyFrom(seconds(longest))
    if upstreams:
        dns.typed_dns_resolver_config.CopyFrom(_resolver(upstreams))
    return dns


def _add_endpoints(assignment: Any, endpoints: Iterable[Instance], port: int, peers: PeerModes) -> None:
    by_locality: dict[Any, Any] = {}
    for endpoint in endpoints:
        if endpoint.locality not in by_locality:
            group = by_locality[endpoint.locality] = assignment.endpoints.add()
            if str(endpoint.locality):
                group.locality.region, group.locality.zone = endpoint.locality.region, endpoint.locality.zone
                group.locality.sub_zone = endpoint.locality.subzone
        target = _target(endpoint, port)
        added = by_locality[endpoint.locality].lb_endpoints.add()
        added.endpoint.address.CopyFrom(socket_address(endpoint.address, target))
        if endpoint.weight != 1:
            added.load_balancing_weight.value = endpoint.weight
        if peers.takes_tls(endpoint, target):
            added.metadata.CopyFrom(_MESH_METADATA)


def _target(endpoint: Instance, port: int) -> int:
    return dict(endpoint.target_ports).get(port, port)


def _server(text: str) -> Any:
    """Return a DNS server's address: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    try:
        return socket_address(str(ip_address(text)), DNS_PORT)
    except ValueError:
        address, _, port = text.rpartition(":")
        return socket_address(address.strip("[]"), int(port))
