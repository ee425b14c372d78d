"""The listeners and route tables of a gateway host: what Gateway objects that select it ask for. Pure.

A port has one listener. Its plain HTTP servers share one route table; each HTTPS server is a filter chain, known by the
server name that the client asks for, with a table of its own. What no route is for gets 404. TLS that is passed on, and
TCP, has a chain for each route; what none is for is closed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from msgspec import Struct, structs

from agent.mesh.gateway import ServerKind, common_host
from agent.mesh.names import (
    CLUSTER_TYPE,
    LISTENER_TYPE,
    ROUTE_TYPE,
    SECRET_TYPE,
    TRUST_BUNDLE_SECRET,
    credential_secrets,
)
from agent.mesh.routes import ConnectionMatch, Fault, ObjectRef
from agent.mesh.snapshot import Resource
from agent.translate.actions import MAX_DIRECT_RESPONSE_BYTES
from agent.translate.connections import Way, add_chains, add_tls_inspector
from agent.translate.guard import Guard
from agent.translate.http import INTERNAL_HEADERS, gateway_http
from agent.translate.listeners import listener
from agent.translate.open_ports import OpenPort, OpenServer, hosts_for, server_names
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute
from agent.translate.resource import resource, seconds
from agent.translate.routes import VirtualHost, routed_host
from agent.translate.service_passing import passing_chains
from agent.translate.tcp import connection_chain, tunnel_faults
from agent.translate.tls import gateway_socket

HANDSHAKE_SECONDS = 15.0
_UNIX = "unix://"
_TLS_ONLY = route_components_pb2.VirtualHost.ALL


_Order = tuple[bool, ObjectRef, ObjectRef, tuple[str, ...]]


class Guards(Struct, frozen=True):
    """What stands before everything else at a gateway."""

    requests: Guard = Guard()
    connections: Guard = Guard()


def gateway_port(
    port: OpenPort,
    ipv6: bool,
    approaches: tuple[tuple[str, Approach], ...],
    trust_domains: tuple[str, ...],
    guards: Guards,
) -> tuple[tuple[Resource, ...], tuple[Fault, ...]]:
    """Return the listener and the route tables of a port, and what of its routes Envoy cannot do."""
    message = _listener(port, ipv6)
    message.traffic_direction = base_pb2.INBOUND
    made: list[Resource] = []
    faults: list[Fault] = []
    references: list[tuple[str, str]] = []
    entries: list[_Entry] = []
    for opened in port.servers:
        if opened.server.kind.passes_whole:
            passing = _passing(opened, port, dict(approaches), trust_domains, guards.connections)
            entries += passing
            found = (route for resolved in opened.resolved for route in resolved.routes)
            references += [(CLUSTER_TYPE, cluster) for route in found for cluster in route.clusters]
            references += _secrets(opened) if passing else []
            faults += [] if passing or opened.passed else [_unheard(opened)]
            for resolved in opened.resolved:
                faults += tunnel_faults(f"port {port.number}", resolved, approaches)
    for name, servers in _tables(port).items():
        table, wrong = _route_table(name, port.number, servers, approaches)
        made.append(table)
        faults += wrong
        references.append((ROUTE_TYPE, name))
        filters = [gateway_http(f"gateway_{port.number}", name, guards.requests)]
        chain = listener_components_pb2.FilterChain(name=name, filters=filters)
        if port.is_tls:
            _end_tls(chain, servers[0], trust_domains)
            references += _secrets(servers[0])
        way = Way((ConnectionMatch(),), chain)
        hosts = server_names(servers[0].server) if port.is_tls else {"*"}
        entries += [_Entry(host, servers[0].origin, _for_host(way, host)) for host in sorted(hosts)]
    entries.sort(key=lambda entry: (entry.host.startswith("*"), -len(entry.host)))
    unused = add_chains(message, [entry.way for entry in entries])
    faults += [entries[position].unused(port.number) for position in sorted(unused)]
    passed = [one for opened in port.servers for one in opened.passed]
    taken = {name for chain in message.filter_chains for name in chain.filter_chain_match.server_names}
    message.filter_chains.extend(passing_chains(f"gateway_{port.number}", passed, taken, guards.connections))
    references += [(CLUSTER_TYPE, one.passing_cluster) for one in passed]
    if not message.filter_chains:
        return (), tuple(faults)  # Envoy wants one
    if port.is_tls:
        add_tls_inspector(message)
    references += [(CLUSTER_TYPE, name) for name in (*guards.requests.clusters, *guards.connections.clusters)]
    made.append(resource(LISTENER_TYPE, message.name, message, references))
    return tuple(made), tuple(faults)


def _listener(port: OpenPort, ipv6: bool) -> Any:
    name = f"gateway_{port.bind or '0.0.0.0'}_{port.number}"
    if port.bind.startswith(_UNIX):
        message = listener_pb2.Listener(name=name)
        message.address.pipe.path = port.bind.removeprefix(_UNIX)
        return message
    everywhere = ["0.0.0.0", *(["::"] if ipv6 else [])]
    return listener(name, [port.bind] if port.bind else everywhere, port.number)


def _tables(port: OpenPort) -> dict[str, tuple[OpenServer, ...]]:
    """Return the port's route tables by name, each with the servers that it is for."""
    suffix = f"{port.number}" + (f".{port.bind}" if port.bind else "")
    if port.servers[0].server.kind is ServerKind.TCP:
        return {}
    if not port.is_tls:
        return {f"http.{suffix}": port.servers}
    return {
        f"https.{suffix}.{opened.server.name}.{opened.origin.name}.{opened.origin.namespace}": (opened,)
        for opened in port.servers
        if opened.server.kind is ServerKind.HTTPS
    }


class _Entry(Struct, frozen=True):
    """Where connections that ask for a server's host (`*`: any, TCP too) go, and whose rule says so."""

    host: str
    origin: ObjectRef
    way: Way

    def unused(self, port: int) -> Fault:
        """Return that no connection ever comes here."""
        reason = f"another server or route of port {port} has all of its connections"
        return Fault(str(self.origin), f"{self.way.chain.name} has no effect: {reason}")


def _passing(
    opened: OpenServer,
    port: OpenPort,
    approaches: Mapping[str, Approach],
    trust_domains: tuple[str, ...],
    guard: Guard,
) -> list[_Entry]:
    """Return where a server's connections go whole: for each of its hosts the routes in order."""
    server, entries = opened.server, []
    hosts = server.hosts if server.kind.is_tls else (("*", "*"),)
    for namespace, host in hosts:
        for bound, resolved in opened.routes:
            if namespace not in ("*", bound.origin.namespace) or not hosts_for(server, bound):
                continue
            for route in resolved.routes:
                chain = connection_chain(f"gateway_{port.number}", route.name, route.targets, approaches, guard)
                _end_tls(chain, opened, trust_domains)
                way = Way(tuple(match.connection for match in route.matches), chain)
                if server.kind.is_tls:
                    way = _for_host(_for_hosts(way, bound.hosts), host)
                if way.matches:
                    entries.append(_Entry(host, bound.origin, way))
    return entries


def _for_host(way: Way, host: str) -> Way:
    return _for_hosts(way, (host,))


def _for_hosts(way: Way, hosts: Collection[str]) -> Way:
    """Return the way of those of its connections that ask for one of the hosts."""
    matches = []
    for match in way.matches:
        asked = {common_host(name, host) for name in match.server_names or ("*",) for host in hosts}
        names = tuple(sorted(name for name in asked if name is not None))
        if names:
            matches.append(structs.replace(match, server_names=names))
    return Way(tuple(matches), way.chain)


def _unheard(opened: OpenServer) -> Fault:
    """Return that nothing is said of a server's connections."""
    kind = opened.server.kind
    if kind is ServerKind.SERVICES:
        return Fault(str(opened.origin), f'server "{opened.server.name}" has hosts of no service: it takes nothing')
    reason = f'server "{opened.server.name}" has no {kind.protocol} route: it takes nothing'
    return Fault(str(opened.origin), reason)


def _end_tls(chain: Any, opened: OpenServer, trust_domains: tuple[str, ...]) -> None:
    """Make a chain end TLS if its server does."""
    tls = opened.server.tls
    if tls is None:
        return
    chain.transport_socket.CopyFrom(gateway_socket(tls, opened.certificate, trust_domains))
    chain.transport_socket_connect_timeout.CopyFrom(seconds(HANDSHAKE_SECONDS))


def _secrets(opened: OpenServer) -> list[tuple[str, str]]:
    """Return the secrets that a server needs."""
    tls = opened.server.tls
    if tls is None:
        return []
    if tls.is_mesh:
        return [(SECRET_TYPE, opened.certificate), (SECRET_TYPE, TRUST_BUNDLE_SECRET)]
    wanted = [credential_secrets(name)[0] for name in tls.certificates]
    if tls.client_certificate is not None:
        wanted.append(credential_secrets(tls.authorities)[1])
    return [(SECRET_TYPE, secret) for secret in wanted]


def _route_table(
    name: str, port: int, servers: Collection[OpenServer], approaches: tuple[tuple[str, Approach], ...]
) -> tuple[Resource, tuple[Fault, ...]]:
    """Return one route table; several VirtualServices about one host are one after the other.

    Those that name it come before those with a wildcard for it, then by name.
    """
    routes: dict[str, dict[_Order, tuple[ResolvedRoute, ...]]] = {}
    redirected: set[str] = set()
    for opened in servers:
        hosts = {host for bound, _ in opened.routes for host in hosts_for(opened.server, bound)}
        for bound, resolved in opened.routes:
            for host in hosts_for(opened.server, bound):
                order = (host not in bound.hosts, bound.origin, bound.gateway, bound.hosts)
                routes.setdefault(host, {}).setdefault(order, resolved.routes)
        if opened.server.https_redirect:
            redirected |= hosts | server_names(opened.server)
    made = []
    for host in sorted(routes.keys() | redirected):
        found = tuple(route for _, of_one in sorted(routes.get(host, {}).items()) for route in of_one)
        if not found and host not in redirected:
            continue  # all of its routes are for other ports: a wildcard's shall have its requests here
        virtual = routed_host(f"{host}:{port}", [host], port, ResolvedPort(found, False), None, approaches)
        if host in redirected:
            virtual.message.require_tls = _TLS_ONLY
        made.append(virtual)
    return _table(name, made), tuple(fault for virtual in made for fault in virtual.faults)


def _table(name: str, hosts: Collection[VirtualHost]) -> Resource:
    table = route_pb2.RouteConfiguration(name=name, virtual_hosts=[host.message for host in hosts])
    # Clients may come by another port than the one listened at (a forwarded one), and say so in Host.
    table.ignore_port_in_host_matching = True
    table.request_headers_to_remove.extend(INTERNAL_HEADERS)
    table.max_direct_response_body_size_bytes.value = MAX_DIRECT_RESPONSE_BYTES
    return resource(ROUTE_TYPE, table.name, table, {used for host in hosts for used in host.references})
