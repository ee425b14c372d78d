"""Listeners where every outbound connection is captured: one for each port number that the mesh has something on. Pure.

Such a port carries foreign traffic too. HTTP is told from other bytes by looking at the first ones, TLS by its server
name, TCP by the address it was going to; what is nothing of the mesh's goes on, or is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from msgspec import Struct

from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE
from agent.mesh.routes import Fault
from agent.mesh.service import Port, Protocol, Service
from agent.mesh.snapshot import Resource
from agent.translate.clusters import BLACK_HOLE, PASSTHROUGH
from agent.translate.http import outbound_http
from agent.translate.listeners import cidr_range, connection_targets, listener
from agent.translate.options import PlanOptions
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, Target
from agent.translate.resource import packed, resource, seconds
from agent.translate.tcp import tcp_to

INSPECTION_SECONDS = 1.0
"""How long the first bytes are waited for: a server that speaks first is silent for so long, on such ports only."""
_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What Envoy's HTTP inspector calls what it finds."""


class Chain(Struct, frozen=True):
    """Connections of a service port that are known by their server name or by their address."""

    service: str
    origin: str
    targets: tuple[Target, ...]
    approach: Approach
    server_names: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()


class PortListener(Struct, frozen=True):
    """A port number's listener, and what could not be told apart on it."""

    resource: Resource
    faults: tuple[Fault, ...]


def chain_of(
    service: Service, port: Port, resolved: ResolvedPort, approaches: tuple[tuple[str, Approach], ...]
) -> Chain | Fault | None:
    """Return how connections to a port of a service are known; None: by the virtual address alone."""
    outside = service.outside
    if outside is None or port.protocol.is_http:
        return None
    targets = connection_targets(service.key, port.number, resolved)
    approach = dict(approaches).get(targets[0].cluster, Approach.empty())
    chain = Chain(str(service.key), outside.origin, targets, approach)
    if port.protocol in (Protocol.HTTPS, Protocol.TLS) and "/" not in service.key.name:
        if "*" in service.key.name and not service.key.name.startswith("*."):
            reason = "the wildcard of a TLS host must be its whole first label"
            return Fault(outside.origin, f"port {port.number} of {service.key} has no effect: {reason}")
        return _named(chain, service.key.name)
    if outside.addresses:
        return Chain(chain.service, chain.origin, targets, approach, ranges=_normal(outside.addresses))
    if service.has_address:
        return None
    reason = f"a {port.protocol} connection doesn't say which host it is for (give addresses)"
    return Fault(outside.origin, f"port {port.number} of {service.key} has no effect: {reason}")


def port_listener(
    port: int, has_http: bool, chains: tuple[Chain, ...], options: PlanOptions, passes_unknown: bool
) -> PortListener:
    """Return the listener of a port number, whatever the address."""
    message = listener(f"0.0.0.0_{port}", ["0.0.0.0", *(["::"] if options.ipv6 else [])], port)
    message.bind_to_port.value = False
    message.traffic_direction = base_pb2.OUTBOUND
    references = []
    distinct, faults = _distinct(port, chains, _virtual(options))
    if any(chain.server_names for chain in distinct):
        _add_inspector(message, "tls_inspector", tls_inspector_pb2.TlsInspector())
    if has_http:
        _add_inspector(message, "http_inspector", http_inspector_pb2.HttpInspector())
        _add_http(message, port, options)
        references.append((ROUTE_TYPE, str(port)))
    for chain in distinct:
        _add_chain(message, port, chain)
        references += [(CLUSTER_TYPE, target.cluster) for target in chain.targets]
    unknown = PASSTHROUGH if passes_unknown else BLACK_HOLE
    message.default_filter_chain.name = "unknown"
    message.default_filter_chain.filters.append(tcp_to(unknown, (Target(unknown, 100),)))
    references.append((CLUSTER_TYPE, unknown))
    return PortListener(resource(LISTENER_TYPE, message.name, message, references), faults)


def _named(chain: Chain, name: str) -> Chain:
    return Chain(chain.service, chain.origin, chain.targets, chain.approach, server_names=(name,))


def _normal(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({str(ip_network(address, strict=False)) for address in addresses}))


def _virtual(options: PlanOptions) -> tuple[IPv4Network | IPv6Network, ...]:
    interception = options.interception
    return (interception.service_cidr_v4, interception.service_cidr_v6) if interception else ()


def _distinct(
    port: int, chains: Iterable[Chain], virtual: Iterable[IPv4Network | IPv6Network]
) -> tuple[list[Chain], tuple[Fault, ...]]:
    """Return the chains without what an earlier one has: Envoy refuses a listener with two chains for one thing."""
    owners = {str(network): "the range of virtual addresses" for network in virtual}
    kept, faults = [], []
    for chain in chains:
        wanted = chain.server_names or chain.ranges
        for what in wanted:
            if owners.setdefault(what, chain.service) != chain.service:
                reason = f"{what} on port {port} is not {chain.service}'s: {owners[what]} has it"
                faults.append(Fault(chain.origin, reason))
        free = tuple(what for what in wanted if owners[what] == chain.service)
        names = free if chain.server_names else ()
        if free:
            ranges = () if chain.server_names else free
            kept.append(Chain(chain.service, chain.origin, chain.targets, chain.approach, names, ranges))
    return kept, tuple(faults)


def _add_inspector(message: Any, name: str, config: Any) -> None:
    message.listener_filters.append(
        listener_components_pb2.ListenerFilter(name=f"envoy.filters.listener.{name}", typed_config=packed(config))
    )
    message.listener_filters_timeout.CopyFrom(seconds(INSPECTION_SECONDS))
    message.continue_on_listener_filters_timeout = True


def _add_http(message: Any, port: int, options: PlanOptions) -> None:
    """Take what goes to virtual addresses, and whatever else turns out to be HTTP."""
    filters = [outbound_http(f"outbound_{port}", str(port))]
    virtual = message.filter_chains.add(name="virtual-addresses", filters=filters)
    virtual.filter_chain_match.prefix_ranges.extend(cidr_range(network) for network in _virtual(options))
    found = message.filter_chains.add(name="http", filters=filters)
    found.filter_chain_match.application_protocols.extend(_HTTP)


def _add_chain(message: Any, port: int, chain: Chain) -> None:
    stat_prefix = chain.targets[0].cluster.replace(".", "_")
    added = message.filter_chains.add(name=f"{chain.service}:{port}")
    added.filters.append(tcp_to(stat_prefix, chain.targets, chain.approach))
    added.filter_chain_match.server_names.extend(chain.server_names)
    added.filter_chain_match.prefix_ranges.extend(cidr_range(ip_network(network)) for network in chain.ranges)
