"""The listeners and route tables of a gateway host: what Gateway objects that select it ask for. Pure.

A port has one listener. Its plain HTTP servers share one route table; each HTTPS server is a filter chain, known by the
server name that the client asks for, with a table of its own. What no route is for gets 404. TLS that is passed on, and
TCP, has a chain for each route; what none is for is closed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from msgspec import Struct, structs

from agent.mesh.gateway import BoundRoutes, Gateway, GatewayServer, ServerKind, common_host
from agent.mesh.names import (
    CLUSTER_TYPE,
    LISTENER_TYPE,
    ROUTE_TYPE,
    SECRET_TYPE,
    TRUST_BUNDLE_SECRET,
    certificate_secret,
    credential_secrets,
)
from agent.mesh.ports import OWN_PORTS
from agent.mesh.routes import ConnectionMatch, Fault, ObjectRef
from agent.mesh.service import Workload
from agent.mesh.snapshot import Resource
from agent.translate.actions import MAX_DIRECT_RESPONSE_BYTES
from agent.translate.connections import Way, add_chains, add_tls_inspector
from agent.translate.facts import HeldCredential, Security
from agent.translate.http import INTERNAL_HEADERS, gateway_http
from agent.translate.listeners import listener
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute
from agent.translate.resource import resource, seconds
from agent.translate.routes import VirtualHost, routed_host
from agent.translate.service_passing import Passed, passing_chains
from agent.translate.tcp import connection_chain
from agent.translate.tls import gateway_socket

HANDSHAKE_SECONDS = 15.0
_UNIX = "unix://"
_TLS_ONLY = route_components_pb2.VirtualHost.ALL


_Order = tuple[bool, ObjectRef, ObjectRef, tuple[str, ...]]


class OpenServer(Struct, frozen=True):
    """A server that this host listens for."""

    origin: ObjectRef
    server: GatewayServer
    routed_as: ObjectRef
    """What routes for it are bound to."""
    routes: tuple[tuple[BoundRoutes, ResolvedPort], ...] = ()
    """Of requests, or of connections that pass whole."""
    certificate: str = ""
    """SDS name of the mesh certificate that it serves with (ISTIO_MUTUAL)."""
    passed: tuple[Passed, ...] = ()
    """What callers in the mesh can ask for by name (AUTO_PASSTHROUGH)."""

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


class HostCertificates(Struct, frozen=True):
    """What a gateway host can serve TLS with."""

    credentials: Mapping[str, HeldCredential] = {}
    own: str | None = None
    """SDS name of the gateway's own mesh certificate."""
    by_port: Mapping[int, str] = {}
    """Of ports that services.d says to be a service's: that service's."""

    @classmethod
    def of(cls, workloads: Sequence[Workload], security: Security) -> HostCertificates:
        """Return what this host has: a service of its services.d is served with that service's own certificate."""
        names = {
            port.number: certificate_secret(workload.identity, security.trust_domain)
            for workload in reversed(workloads)
            for port in workload.ports
        }
        usable = {number: name for number, name in names.items() if name in security.certificates}
        return cls({held.name: held for held in security.credentials}, security.client, usable)

    def obstacle(self, server: GatewayServer) -> str | None:
        """Return why the server cannot end TLS as it should, or None."""
        tls = server.tls
        if tls is None:
            return None
        if tls.versions_contradict:
            return f"there is no TLS version from {tls.min_version or 'TLSV1_2'} to {tls.max_version}"
        if tls.is_mesh:
            return None if self.mesh(server) else "ISTIO_MUTUAL: this host has no certificate of the mesh"
        paths = {files.name: files.certificate or files.authorities for files in tls.files}
        for name in tls.certificates:
            held = self.credentials.get(name)
            if held is None or not held.has_key:
                how = (
                    "(see the agent's faults)"
                    if name in paths
                    else f"(hostmesh secret install {name} --cert … --key …)"
                )
                return f"this host has no usable certificate {paths.get(name, name)} {how}"
        authorities = self.credentials.get(tls.authorities)
        if tls.client_certificate is not None and not (authorities and authorities.has_authorities):
            name = tls.authorities
            if name in paths:
                return f"this host has no usable authorities {paths[name]}, by which clients are checked"
            return (
                f"the secret {name} has no ca.crt, by which clients are checked (hostmesh secret install {name} --ca …)"
            )
        return None

    def mesh(self, server: GatewayServer) -> str | None:
        """Return the SDS name of the certificate that a server of ISTIO_MUTUAL serves with."""
        return self.by_port.get(server.port, self.own)


def open_ports(gateways: Collection[Gateway], held: HostCertificates) -> tuple[tuple[OpenPort, ...], tuple[Fault, ...]]:
    """Return the ports that these gateways want open, and what of it cannot be had."""
    ports: dict[tuple[int, str], list[OpenServer]] = {}
    faults: list[Fault] = []
    for gateway in gateways:
        for server in gateway.servers:
            others = ports.setdefault((server.port, server.bind), [])
            if any(_is_same(other, gateway, server) for other in others):
                continue
            reason = _obstacle(server) or held.obstacle(server) or _conflict(server, others)
            if reason:
                faults.append(Fault(str(gateway.origin), f'server "{server.name}" is left out: {reason}'))
            else:
                mesh = held.mesh(server) if server.tls and server.tls.is_mesh else None
                others.append(OpenServer(gateway.origin, server, gateway.routed_as, certificate=mesh or ""))
    found = (OpenPort(number, bind, tuple(servers)) for (number, bind), servers in sorted(ports.items()) if servers)
    return tuple(found), tuple(faults)


def _is_same(other: OpenServer, gateway: Gateway, server: GatewayServer) -> bool:
    """Tell whether a server adds nothing: several Ingress objects want the same host served."""
    return other.routed_as == gateway.routed_as != gateway.origin and other.server == server


def _obstacle(server: GatewayServer) -> str | None:
    return f"port {server.port} is the mesh's own on every host" if server.port in OWN_PORTS else None


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
            servers.setdefault(opened.routed_as, []).append(opened.server)
    return [
        Fault(str(one.origin), f"has no effect at {one.gateway}: none of its servers is for {', '.join(one.hosts)}")
        for one in bound
        if one.gateway in servers and not any(hosts_for(server, one) for server in servers[one.gateway])
    ]


def gateway_port(
    port: OpenPort, ipv6: bool, approaches: tuple[tuple[str, Approach], ...], trust_domain: str
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
            passing = _passing(opened, port, dict(approaches), trust_domain)
            entries += passing
            found = (route for resolved in opened.resolved for route in resolved.routes)
            references += [(CLUSTER_TYPE, cluster) for route in found for cluster in route.clusters]
            references += _secrets(opened) if passing else []
            faults += [] if passing or opened.passed else [_unheard(opened)]
    for name, servers in _tables(port).items():
        table, wrong = _route_table(name, port.number, servers, approaches)
        made.append(table)
        faults += wrong
        references.append((ROUTE_TYPE, name))
        filters = [gateway_http(f"gateway_{port.number}", name)]
        chain = listener_components_pb2.FilterChain(name=name, filters=filters)
        if port.is_tls:
            _end_tls(chain, servers[0], trust_domain)
            references += _secrets(servers[0])
        way = Way((ConnectionMatch(),), chain)
        hosts = _names(servers[0].server) if port.is_tls else {"*"}
        entries += [_Entry(host, servers[0].origin, _for_host(way, host)) for host in sorted(hosts)]
    entries.sort(key=lambda entry: (entry.host.startswith("*"), -len(entry.host)))
    unused = add_chains(message, [entry.way for entry in entries])
    faults += [entries[position].unused(port.number) for position in sorted(unused)]
    passed = [one for opened in port.servers for one in opened.passed]
    taken = {name for chain in message.filter_chains for name in chain.filter_chain_match.server_names}
    message.filter_chains.extend(passing_chains(f"gateway_{port.number}", passed, taken))
    references += [(CLUSTER_TYPE, one.passing_cluster) for one in passed]
    if not message.filter_chains:
        return (), tuple(faults)  # Envoy wants one
    if port.is_tls:
        add_tls_inspector(message)
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


def _passing(opened: OpenServer, port: OpenPort, approaches: Mapping[str, Approach], trust_domain: str) -> list[_Entry]:
    """Return where a server's connections go whole: for each of its hosts the routes in order."""
    server, entries = opened.server, []
    hosts = server.hosts if server.kind.is_tls else (("*", "*"),)
    for namespace, host in hosts:
        for bound, resolved in opened.routes:
            if namespace not in ("*", bound.origin.namespace) or not hosts_for(server, bound):
                continue
            for route in resolved.routes:
                chain = connection_chain(f"gateway_{port.number}", route.name, route.targets, approaches)
                _end_tls(chain, opened, trust_domain)
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


def _end_tls(chain: Any, opened: OpenServer, trust_domain: str) -> None:
    """Make a chain end TLS if its server does."""
    tls = opened.server.tls
    if tls is None:
        return
    chain.transport_socket.CopyFrom(gateway_socket(tls, opened.certificate, trust_domain))
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
            redirected |= hosts | _names(opened.server)
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
