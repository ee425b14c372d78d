"""Outbound listeners: one that gets every captured connection, one for each HTTP port, one for each TCP service port.

Pure. With interception the ports' listeners are not bound: `virtualOutbound` hands a connection on to the one with its
original destination. Without (`hostmesh render --bind-outbound`) they are bound themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from google.protobuf import wrappers_pb2

from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, detected_table, outbound_cluster
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Resource, Vip
from agent.translate.clusters import BLACK_HOLE, PASSTHROUGH
from agent.translate.connections import Way, add_chains, add_tls_inspector, cidr_range, tells_names
from agent.translate.detection import add_detection
from agent.translate.http import outbound_http
from agent.translate.options import PlanOptions
from agent.translate.policies import Approach
from agent.translate.resolve import ALWAYS, ResolvedPort, ResolvedRoute, Target
from agent.translate.resource import packed, resource, socket_address
from agent.translate.tcp import connection_chain, tcp_to

VIRTUAL_OUTBOUND = "virtualOutbound"
_UNBOUND = wrappers_pb2.BoolValue(value=False)


def virtual_outbound(options: PlanOptions, passes_unknown: bool) -> Resource:
    """Return the listener of captured outbound connections; on loopback: no other host shall borrow this identity.

    What no other listener is for goes on to where it was going, or is closed. Two things are always closed: what was
    sent to the capture port itself (it would come back for ever) and to virtual addresses (nothing lives there).
    """
    addresses = ["127.0.0.1", *(["::1"] if options.ipv6 else [])]
    message = listener(VIRTUAL_OUTBOUND, addresses, options.outbound_port)
    message.traffic_direction = base_pb2.OUTBOUND
    message.use_original_dst.value = True
    message.listener_filters.append(original_dst_filter())
    nowhere = [tcp_to(BLACK_HOLE, (Target(BLACK_HOLE, 100),))]
    own_port = message.filter_chains.add(name="capture-port", filters=nowhere)
    own_port.filter_chain_match.destination_port.value = options.outbound_port
    if options.interception:
        ranges = (options.interception.service_cidr_v4, options.interception.service_cidr_v6)
        virtual = message.filter_chains.add(name="virtual-addresses", filters=nowhere)
        virtual.filter_chain_match.prefix_ranges.extend(cidr_range(network) for network in ranges)
    unknown = PASSTHROUGH if passes_unknown else BLACK_HOLE
    message.default_filter_chain.name = "unknown"
    message.default_filter_chain.filters.append(tcp_to(unknown, (Target(unknown, 100),)))
    return resource(LISTENER_TYPE, message.name, message, {(CLUSTER_TYPE, BLACK_HOLE), (CLUSTER_TYPE, unknown)})


def http_listener(port: int, options: PlanOptions) -> Resource:
    """Return the listener of an HTTP port, whatever the address: requests are told apart by their Host."""
    if options.intercepted:
        message = listener(f"0.0.0.0_{port}", ["0.0.0.0", *(["::"] if options.ipv6 else [])], port)
        message.bind_to_port.CopyFrom(_UNBOUND)
    else:
        message = listener(f"{options.bind_outbound}_{port}", [str(options.bind_outbound)], port)
    message.traffic_direction = base_pb2.OUTBOUND
    message.filter_chains.add(filters=[outbound_http(f"outbound_{port}", str(port))])
    return resource(LISTENER_TYPE, message.name, message, [(ROUTE_TYPE, str(port))])


def tcp_listener(
    key: ServiceKey,
    port: int,
    vip: Vip | None,
    resolved: ResolvedPort,
    options: PlanOptions,
    approaches: tuple[tuple[str, Approach], ...] = (),
) -> Resource:
    """Return the listener of a TCP service port: at the service's virtual addresses, or bound where the options say.

    Where HTTP is detected, requests go by the port's own route table.
    """
    if options.intercepted and vip:
        message = listener(f"{vip.v4}_{port}", [str(vip.v4), *([str(vip.v6)] if options.ipv6 else [])], port)
        message.bind_to_port.CopyFrom(_UNBOUND)
    else:
        message = listener(f"{options.bind_outbound}_{port}", [str(options.bind_outbound)], port)
    message.traffic_direction = base_pb2.OUTBOUND
    routes = connection_routes(key, port, resolved)
    add_chains(message, connection_ways(key, port, routes, dict(approaches)))
    if tells_names(message):
        add_tls_inspector(message)
    clusters = {cluster for route in routes for cluster in route.clusters}
    references = [(CLUSTER_TYPE, cluster) for cluster in sorted(clusters)]
    if resolved.requests is not None:
        table = detected_table(key, port)
        add_detection(message, table, any(approach.foreign_tls for _, approach in approaches))
        references.append((ROUTE_TYPE, table))
    return resource(LISTENER_TYPE, message.name, message, references)


def connection_routes(key: ServiceKey, port: int, resolved: ResolvedPort) -> tuple[ResolvedRoute, ...]:
    """Return where connections to a port go, in order; last, where there is a default, to all instances."""
    everything = ResolvedRoute("default", ALWAYS, (Target(outbound_cluster(key, port), 100),))
    return (*resolved.routes, everything) if resolved.default_route else resolved.routes


def connection_ways(
    key: ServiceKey, port: int, routes: Iterable[ResolvedRoute], approaches: Mapping[str, Approach]
) -> list[Way]:
    """Return the filter chains of a port's routes."""
    stat_prefix = outbound_cluster(key, port).replace(".", "_")
    return [
        Way(
            tuple(match.connection for match in route.matches),
            connection_chain(stat_prefix, route.name, route.targets, approaches),
        )
        for route in routes
    ]


def listener(name: str, addresses: Iterable[str], port: int) -> Any:
    """Return a listener at one port of one or more addresses (envoy.config.listener.v3.Listener)."""
    first, *others = addresses
    message = listener_pb2.Listener(name=name, address=socket_address(first, port))
    for address in others:
        message.additional_addresses.add(address=socket_address(address, port))
    return message


def original_dst_filter() -> Any:
    """Return the listener filter that finds out where a redirected connection was going."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=packed(original_dst_pb2.OriginalDst())
    )
