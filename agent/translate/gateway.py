"""The listeners and route tables of a gateway host: what Gateway objects that select it ask for. Pure.

A port has one listener. Its plain HTTP servers share one route table; each HTTPS server is a filter chain, known by the
server name that the client asks for, with a table of its own. What no route is for gets 404. TLS that is passed on, and
TCP, has a chain for each route; what none is for is closed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from msgspec import Struct, structs

from agent.mesh.gateway import BoundRoutes, Gateway, GatewayServer, ServerKind, common_host
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, credential_secrets
from agent.mesh.ports import OWN_PORTS
from agent.mesh.routes import ConnectionMatch, Fault, ObjectRef
from agent.mesh.snapshot import Resource
from agent.translate.actions import MAX_DIRECT_RESPONSE_BYTES
from agent.translate.connections import Way, add_chains, add_tls_inspector
from agent.translate.http import INTERNAL_HEADERS, gateway_http
from agent.translate.listeners import listener
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute
from agent.translate.resource import resource, seconds
from agent.translate.routes import VirtualHost, routed_host
from agent.translate.tcp import connection_chain
from agent.translate.tls import gateway_socket

HANDSHAKE_SECONDS = 15.0
_TLS_ONLY = route_components_pb2.VirtualHost.ALL


class OpenServer(Struct, frozen=True):
    """A server that this host listens for."""

    origin: ObjectRef
    server: GatewayServer
    routes: tuple[tuple[BoundRoutes, ResolvedPort], ...] = ()
    """Of requests, or of connections that pass whole."""

    @property
    def resolved(self) -> list[ResolvedPort]:
        """Return everything that is routed through it."""
        return [port for _, port in self.routes]


class OpenPort(Struct, frozen=True):
    """All servers on one port of one address: all TLS, or all HTTP, or one of TCP."""

    number: int
    bind: str
    servers: tuple[OpenServer, ...]

    @property
    def is_tls(self) -> bool:
        """Tell whether clients must speak TLS."""
        return self.servers[0].server.kind.is_tls


def open_ports(
    gateways: Collection[Gateway], credentials: Mapping[str, bool]
) -> tuple[tuple[OpenPort, ...], tuple[Fault, ...]]:
    """Return the ports that these gateways want open, and what of it cannot be had.

    `credentials` are those that can be used, and whether each has authorities of clients.
    """
    ports: dict[tuple[int, str], list[OpenServer]] = {}
    faults: list[Fault] = []
    for gateway in gateways:
        for server in gateway.servers:
            others = ports.setdefault((server.port, server.bind), [])
            reason = _obstacle(server, credentials) or _conflict(server, others)
            if reason:
                faults.append(Fault(str(gateway.origin), f'server "{server.name}" is left out: {reason}'))
            else:
                others.append(OpenServer(gateway.origin, server))
    found = (OpenPort(number, bind, tuple(servers)) for (number, bind), servers in sorted(ports.items()) if servers)
    return tuple(found), tuple(faults)


def _obstacle(server: GatewayServer, credentials: Mapping[str, bool]) -> str | None:
    if server.port in OWN_PORTS:
        return f"port {server.port} is the mesh's own on every host"
    if server.tls is None:
        return None
    if server.tls.versions_contradict:
        return f"there is no TLS version from {server.tls.min_version or 'TLSV1_2'} to {server.tls.max_version}"
    name = server.tls.credential
    if name not in credentials:
        return f"this host has no usable certificate {name} (hostmesh secret install {name} --cert … --key …)"
    if server.tls.client_certificate is not None and not credentials[name]:
        return f"the secret {name} has no ca.crt, by which clients are checked (hostmesh secret install {name} --ca …)"
    return None


def _conflict(server: GatewayServer, others: Collection[OpenServer]) -> str | None:
    for other in others:
        both_tls = other.server.kind.is_tls and server.kind.is_tls
        if not both_tls and (other.server.kind, server.kind) != (ServerKind.HTTP, ServerKind.HTTP):
            return f"port {server.port} is {other.origin}'s, for {other.server.kind}"
        if both_tls and (both := _names(server) & _names(other.server)):
            return f"{', '.join(sorted(both))} on port {server.port} is {other.origin}'s"
    return None


def _names(server: GatewayServer) -> set[str]:
    return {name for _, name in server.hosts}


def hosts_for(server: GatewayServer, bound: BoundRoutes) -> tuple[str, ...]:
    """Return the hosts of a VirtualService that requests to this server can have."""
    found = (
        common_host(name, host)
        for namespace, name in server.hosts
        for host in bound.hosts
        if namespace in ("*", bound.origin.namespace)
    )
    return tuple(sorted({host for host in found if host is not None}))


def unmatched(ports: Collection[OpenPort], bound: Collection[BoundRoutes]) -> list[Fault]:
    """Return a fault for each VirtualService that is bound to a server here of which none has its hosts."""
    servers: dict[ObjectRef, list[GatewayServer]] = {}
    for port in ports:
        for opened in port.servers:
            servers.setdefault(opened.origin, []).append(opened.server)
    return [
        Fault(str(one.origin), f"has no effect at {one.gateway}: none of its servers is for {', '.join(one.hosts)}")
        for one in bound
        if one.gateway in servers and not any(hosts_for(server, one) for server in servers[one.gateway])
    ]


def gateway_port(
    port: OpenPort, ipv6: bool, approaches: tuple[tuple[str, Approach], ...]
) -> tuple[tuple[Resource, ...], tuple[Fault, ...]]:
    """Return the listener and the route tables of a port, and what of its routes Envoy cannot do."""
    everywhere = ["0.0.0.0", *(["::"] if ipv6 else [])]
    message = listener(
        f"gateway_{port.bind or '0.0.0.0'}_{port.number}", [port.bind] if port.bind else everywhere, port.number
    )
    message.traffic_direction = base_pb2.INBOUND
    made: list[Resource] = []
    faults: list[Fault] = []
    references: list[tuple[str, str]] = []
    entries: list[_Entry] = []
    for opened in port.servers:
        if opened.server.kind.passes_whole:
            passing = _passing(opened, port, dict(approaches))
            entries += passing
            found = (route for resolved in opened.resolved for route in resolved.routes)
            references += [(CLUSTER_TYPE, cluster) for route in found for cluster in route.clusters]
            faults += [] if passing else [_unheard(opened)]
    for name, servers in _tables(port).items():
        table, wrong = _route_table(name, port.number, servers, approaches)
        made.append(table)
        faults += wrong
        references.append((ROUTE_TYPE, name))
        filters = [gateway_http(f"gateway_{port.number}", name)]
        chain = listener_components_pb2.FilterChain(name=name, filters=filters)
        if port.is_tls:
            references += _end_tls(chain, servers[0].server)
        way = Way((ConnectionMatch(),), chain)
        hosts = _names(servers[0].server) if port.is_tls else {"*"}
        entries += [_Entry(host, servers[0].origin, _for_host(way, host)) for host in sorted(hosts)]
    entries.sort(key=lambda entry: (entry.host.startswith("*"), -len(entry.host)))
    unused = add_chains(message, [entry.way for entry in entries])
    faults += [entries[position].unused(port.number) for position in sorted(unused)]
    if not message.filter_chains:
        return (), tuple(faults)  # Envoy wants one
    if port.is_tls:
        add_tls_inspector(message)
    made.append(resource(LISTENER_TYPE, message.name, message, references))
    return tuple(made), tuple(faults)


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
        if opened.server.tls is not None
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


def _passing(opened: OpenServer, port: OpenPort, approaches: Mapping[str, Approach]) -> list[_Entry]:
    """Return where a server's connections go whole: for each of its hosts the routes in order."""
    server, entries = opened.server, []
    hosts = server.hosts if server.kind.is_tls else (("*", "*"),)
    for namespace, host in hosts:
        for bound, resolved in opened.routes:
            if namespace not in ("*", bound.origin.namespace) or not hosts_for(server, bound):
                continue
            for route in resolved.routes:
                chain = connection_chain(f"gateway_{port.number}", route.name, route.targets, approaches)
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
    kind = "tls" if opened.server.kind.is_tls else "tcp"
    return Fault(str(opened.origin), f'server "{opened.server.name}" has no {kind} route: it takes nothing')


def _end_tls(chain: Any, server: GatewayServer) -> list[tuple[str, str]]:
    """Make a chain end TLS for its server names; returns the secrets that it needs."""
    if server.tls is None:
        return []
    chain.transport_socket.CopyFrom(gateway_socket(server.tls))
    chain.transport_socket_connect_timeout.CopyFrom(seconds(HANDSHAKE_SECONDS))
    certificate, authorities = credential_secrets(server.tls.credential)
    wanted = (certificate,) if server.tls.client_certificate is None else (certificate, authorities)
    return [(SECRET_TYPE, secret) for secret in wanted]


def _route_table(
    name: str, port: int, servers: Collection[OpenServer], approaches: tuple[tuple[str, Approach], ...]
) -> tuple[Resource, tuple[Fault, ...]]:
    """Return one route table; several VirtualServices about one host are one after the other, by name."""
    routes: dict[str, dict[tuple[ObjectRef, ObjectRef], tuple[ResolvedRoute, ...]]] = {}
    redirected: set[str] = set()
    for opened in servers:
        hosts = {host for bound, _ in opened.routes for host in hosts_for(opened.server, bound)}
        for bound, resolved in opened.routes:
            for host in hosts_for(opened.server, bound):
                routes.setdefault(host, {}).setdefault((bound.origin, bound.gateway), resolved.routes)
        if opened.server.https_redirect:
            redirected |= hosts | _names(opened.server)
    made = []
    for host in sorted(routes.keys() | redirected):
        found = tuple(route for _, of_one in sorted(routes.get(host, {}).items()) for route in of_one)
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
    clusters = {cluster for host in hosts for cluster in host.clusters}
    return resource(ROUTE_TYPE, table.name, table, [(CLUSTER_TYPE, cluster) for cluster in clusters])
