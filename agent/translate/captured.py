"""Listeners where every outbound connection is captured: one for each port number that the mesh has something on. Pure.

Such a port carries foreign traffic too. HTTP is told from other bytes by looking at the first ones, TLS by its server
name, TCP by the address it was going to; what is nothing of the mesh's goes on, or is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from msgspec import Struct, structs

from agent.mesh.gateway import common_host
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, outbound_cluster
from agent.mesh.routes import ConnectionMatch, Fault
from agent.mesh.service import Port, Protocol, Resolution, Service, ServiceKey
from agent.mesh.snapshot import Resource
from agent.translate.clusters import BLACK_HOLE, PASSTHROUGH
from agent.translate.connections import Way, add_chains, add_tls_inspector, network_of, tells_names
from agent.translate.http import outbound_http
from agent.translate.listeners import connection_routes, connection_ways, listener
from agent.translate.options import PlanOptions
from agent.translate.outside import lookup_of_server_name
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute, Target
from agent.translate.resource import packed, resource, seconds
from agent.translate.tcp import tcp_to

INSPECTION_SECONDS = 1.0
"""How long the first bytes are waited for: a server that speaks first is silent for so long, on such ports only."""
_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What Envoy's HTTP inspector calls what it finds."""


class Lookup(Struct, frozen=True):
    """How a server name is looked up, and the port to connect to there."""

    port: int
    upstreams: tuple[str, ...]


class Chain(Struct, frozen=True):
    """Connections of a service port, known by the server name or range of addresses, and where they go, in order."""

    service: ServiceKey
    origin: str
    port: int
    within: ConnectionMatch
    routes: tuple[ResolvedRoute, ...]
    approaches: tuple[tuple[str, Approach], ...]
    lookup: Lookup | None = None
    """Where the server name says where the service's own cluster leads."""


class PortListener(Struct, frozen=True):
    """A port number's listener, and what could not be told apart on it."""

    resource: Resource
    faults: tuple[Fault, ...]


def chains_of(
    service: Service,
    port: Port,
    resolved: ResolvedPort,
    approaches: tuple[tuple[str, Approach], ...],
    upstreams: tuple[str, ...] = (),
) -> tuple[Chain, ...] | Fault:
    """Return how connections to a port of a service are known; none: by the virtual address alone."""
    outside, name = service.outside, service.key.name
    if outside is None or port.protocol.is_http:
        return ()
    routes = connection_routes(service.key, port.number, resolved)
    whole = Chain(service.key, outside.origin, port.number, ConnectionMatch(), routes, approaches)
    if port.protocol in (Protocol.HTTPS, Protocol.TLS) and "/" not in name:
        if "*" in name and not name.startswith("*."):
            reason = "the wildcard of a TLS host must be its whole first label"
            return Fault(outside.origin, f"port {port.number} of {service.key} has no effect: {reason}")
        named = structs.replace(whole, within=ConnectionMatch(server_names=(name,)))
        if outside.resolution is not Resolution.DYNAMIC:
            return (named,)
        target = dict(outside.target_ports).get(port.number, port.number)
        return (structs.replace(named, lookup=Lookup(target, upstreams)),)
    if outside.addresses:
        ranges = sorted({str(network_of(address)) for address in outside.addresses})
        return tuple(structs.replace(whole, within=ConnectionMatch(destinations=(each,))) for each in ranges)
    if service.has_address:
        return ()
    reason = f"a {port.protocol} connection doesn't say which host it is for (give addresses)"
    return Fault(outside.origin, f"port {port.number} of {service.key} has no effect: {reason}")


def port_listener(
    port: int, has_http: bool, chains: tuple[Chain, ...], options: PlanOptions, passes_unknown: bool
) -> PortListener:
    """Return the listener of a port number, whatever the address."""
    message = listener(f"0.0.0.0_{port}", ["0.0.0.0", *(["::"] if options.ipv6 else [])], port)
    message.bind_to_port.value = False
    message.traffic_direction = base_pb2.OUTBOUND
    kept, faults = _distinct(port, chains, _virtual(options))
    http = _http_ways(port, options) if has_http else []
    references = [(ROUTE_TYPE, str(port))] if has_http else []
    # What goes to virtual addresses first, and whatever else turns out to be HTTP last.
    add_chains(message, [*http[:1], *(way for chain in sorted(kept, key=_width) for way in _ways(chain)), *http[1:]])
    _inspect(message, has_http)
    references += [(CLUSTER_TYPE, name) for chain in kept for route in chain.routes for name in route.clusters]
    unknown = PASSTHROUGH if passes_unknown else BLACK_HOLE
    message.default_filter_chain.name = "unknown"
    message.default_filter_chain.filters.append(tcp_to(unknown, (Target(unknown, 100),)))
    references.append((CLUSTER_TYPE, unknown))
    return PortListener(resource(LISTENER_TYPE, message.name, message, dict.fromkeys(references)), faults)


def _virtual(options: PlanOptions) -> tuple[IPv4Network | IPv6Network, ...]:
    interception = options.interception
    return (interception.service_cidr_v4, interception.service_cidr_v6) if interception else ()


def _inspect(message: Any, has_http: bool) -> None:
    """Look at the first bytes of connections, where that makes a difference."""
    if tells_names(message):
        add_tls_inspector(message)
    if has_http:
        inspector = packed(http_inspector_pb2.HttpInspector())
        message.listener_filters.append(
            listener_components_pb2.ListenerFilter(name="envoy.filters.listener.http_inspector", typed_config=inspector)
        )
    if message.listener_filters:
        message.listener_filters_timeout.CopyFrom(seconds(INSPECTION_SECONDS))
        message.continue_on_listener_filters_timeout = True


def _distinct(
    port: int, chains: Iterable[Chain], virtual: Iterable[IPv4Network | IPv6Network]
) -> tuple[list[Chain], tuple[Fault, ...]]:
    """Return the chains without those for what an earlier service has."""
    owners = {str(network): "the range of virtual addresses" for network in virtual}
    kept, faults = [], []
    for chain in chains:
        what = (*chain.within.server_names, *chain.within.destinations)[0]
        if owners.setdefault(what, str(chain.service)) == str(chain.service):
            kept.append(chain)
        else:
            reason = f"{what} on port {port} is not {chain.service}'s: {owners[what]} has it"
            faults.append(Fault(chain.origin, reason))
    return kept, tuple(faults)


def _width(chain: Chain) -> tuple[bool, int, int]:
    """Sort ranges of addresses before server names, and narrow ones before those that they lie in."""
    for name in chain.within.server_names:
        return True, name.startswith("*"), -len(name)
    return False, 0, -network_of(chain.within.destinations[0]).prefixlen


def _ways(chain: Chain) -> Iterable[Way]:
    """Yield where a chain's connections go, less what its routes say of other services' names and addresses."""
    ways = connection_ways(chain.service, chain.port, chain.routes, dict(chain.approaches))
    for way, route in zip(ways, chain.routes, strict=True):
        within = tuple(both for match in way.matches if (both := _both(match, chain.within)) is not None)
        if within:
            _look_up(way.chain, route, chain)
            way.chain.name = f"{chain.service}:{chain.port} {way.chain.name}".removesuffix(" default")
            yield Way(within, way.chain)


def _look_up(message: Any, route: ResolvedRoute, chain: Chain) -> None:
    """Put the lookup of the server name before what sends connections to the service's own cluster."""
    cluster, lookup = outbound_cluster(chain.service, chain.port), chain.lookup
    if lookup is not None and cluster in route.clusters:
        filters = [lookup_of_server_name(cluster, lookup.port, lookup.upstreams), *message.filters]
        del message.filters[:]
        message.filters.extend(filters)


def _both(match: ConnectionMatch, within: ConnectionMatch) -> ConnectionMatch | None:
    """Return the condition that both hold; `within` has one server name or one range."""
    for name in within.server_names:
        names = {both for own in match.server_names or (name,) if (both := common_host(own, name)) is not None}
        return structs.replace(match, server_names=tuple(sorted(names))) if names else None
    (outer,) = within.destinations
    inner = [both for own in match.destinations or (outer,) if (both := _common_range(own, outer)) is not None]
    return structs.replace(match, destinations=tuple(inner)) if inner else None


def _common_range(one: str, other: str) -> str | None:
    """Return the addresses that lie in both ranges: one of the two, or none."""
    networks = sorted((network_of(one), network_of(other)), key=lambda network: network.prefixlen)
    wide, narrow = networks
    return str(narrow) if wide.version == narrow.version and narrow.network_address in wide else None


def _http_ways(port: int, options: PlanOptions) -> list[Way]:
    """Return what goes to virtual addresses, and whatever else turns out to be HTTP."""
    filters = [outbound_http(f"outbound_{port}", str(port))]
    virtual = listener_components_pb2.FilterChain(name="virtual-addresses", filters=filters)
    found = listener_components_pb2.FilterChain(name="http", filters=filters)
    found.filter_chain_match.application_protocols.extend(_HTTP)
    ranges = tuple(str(network) for network in _virtual(options))
    return [Way((ConnectionMatch(destinations=ranges),), virtual), Way((ConnectionMatch(),), found)]
