"""The listeners and route tables of a gateway host: what Gateway objects that select it ask for. Pure.

A port has one listener. Its plain HTTP servers share one route table; each HTTPS server is a filter chain, known by the
server name that the client asks for, with a table of its own. What no route is for gets 404. TLS that is passed on, and
TCP, has a chain for each route; what none is for is closed. Tables are put together of what is made for each host.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2
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
from agent.translate.connections import Way, add_chains, add_tls_inspector
from agent.translate.guard import Guard
from agent.translate.http import gateway_http
from agent.translate.listeners import listener
from agent.translate.open_ports import OpenPort, OpenServer, hosts_for, server_names
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute
from agent.translate.resource import resource, seconds
from agent.translate.routes import EncodedHost, encoded, routed_host
from agent.translate.service_passing import passing_chains
from agent.translate.tcp import connection_chain, tunnel_faults
from agent.translate.tls import gateway_socket
from agent.translate.tracing import name_spans

HANDSHAKE_SECONDS = 15.0
_UNIX = "unix://"
_TLS_ONLY = route_components_pb2.VirtualHost.ALL


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
    """Return the listener of a port, if there can be one, and what of its routes Envoy cannot do."""
    message = _listener(port, ipv6)
    message.traffic_direction = base_pb2.INBOUND
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
    for name, opened in _tables(port).items():
        references.append((ROUTE_TYPE, name))
        filters = [gateway_http(f"gateway_{port.number}", name, guards.requests)]
        chain = listener_components_pb2.FilterChain(name=name, filters=filters)
        if port.is_tls:
            _end_tls(chain, opened, trust_domains)
            references += _secrets(opened)
        way = Way((ConnectionMatch(),), chain)
        hosts = server_names(opened.server) if port.is_tls else {"*"}
        entries += [_Entry(host, opened.origin, _for_host(way, host)) for host in sorted(hosts)]
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
    return (resource(LISTENER_TYPE, message.name, message, references),), tuple(faults)


def _listener(port: OpenPort, ipv6: bool) -> Any:
    name = f"gateway_{port.bind or '0.0.0.0'}_{port.number}"
    if port.bind.startswith(_UNIX):
        message = listener_pb2.Listener(name=name)
        message.address.pipe.path = port.bind.removeprefix(_UNIX)
        return message
    everywhere = ["0.0.0.0", *(["::"] if ipv6 else [])]
    return listener(name, [port.bind] if port.bind else everywhere, port.number)


def table_name(port: OpenPort, opened: OpenServer) -> str | None:
    """Return the route table of a server's requests, which all HTTP servers of a port share; None: it has none."""
    suffix = f"{port.number}" + (f".{port.bind}" if port.bind else "")
    match opened.server.kind:
        case ServerKind.HTTP:
            return f"http.{suffix}"
        case ServerKind.HTTPS:
            return f"https.{suffix}.{opened.server.name}.{opened.origin.name}.{opened.origin.namespace}"
        case _:
            return None


def _tables(port: OpenPort) -> dict[str, OpenServer]:
    """Return the port's route tables by name, each with the first of the servers that it is for."""
    tables: dict[str, OpenServer] = {}
    for opened in port.servers:
        if name := table_name(port, opened):
            tables.setdefault(name, opened)
    return tables


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


def gateway_host(
    host: str,
    port: int,
    routes: tuple[ResolvedRoute, ...],
    is_redirected: bool,
    approaches: tuple[tuple[str, Approach], ...],
    spans: bool,
) -> EncodedHost | None:
    """Return the virtual host of a host, or None: a wildcard's shall have its requests."""
    if not routes and not is_redirected:
        return None  # all of its routes are for other ports
    virtual = routed_host(f"{host}:{port}", [host], port, ResolvedPort(routes, False), None, approaches)
    if is_redirected:
        virtual.message.require_tls = _TLS_ONLY
    if spans:
        name_spans(virtual.message.routes, f"{host}:{port}")
    return encoded(virtual)
