"""What a gateway host listens for: which servers of the Gateway objects that select it can be had, and what is bound to
them. Pure; the listeners themselves are gateway.py's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from agent.mesh.gateway import BoundRoutes, Gateway, GatewayServer, ServerKind, client_ports, common_host
from agent.mesh.names import certificate_secret
from agent.mesh.ports import OWN_PORTS
from agent.mesh.routes import Fault, ObjectRef
from agent.mesh.service import Workload
from agent.translate.facts import HeldCredential, Security
from agent.translate.resolve import ResolvedPort
from agent.translate.service_passing import Passed


class OpenServer(Struct, frozen=True):
    """A server that this host listens for."""

    origin: ObjectRef
    server: GatewayServer
    routed_as: ObjectRef
    """What routes for it are bound to."""
    routes: tuple[tuple[BoundRoutes, ResolvedPort], ...] = ()
    """Of connections that pass whole."""
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
    knows_clients: bool = False
    """Whether clients are asked for certificates, here or on this port of another address."""

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
    ports: dict[tuple[int, str], _Port] = {}
    faults: list[Fault] = []
    for gateway in gateways:
        for server in gateway.servers:
            port = ports.setdefault((server.port, server.bind), _Port())
            if port.has_same(gateway, server):
                continue
            reason = _obstacle(server) or held.obstacle(server) or port.conflict(server)
            if reason:
                faults.append(Fault(str(gateway.origin), f'server "{server.name}" is left out: {reason}'))
            else:
                mesh = held.mesh(server) if server.tls and server.tls.is_mesh else None
                port.add(OpenServer(gateway.origin, server, gateway.routed_as, certificate=mesh or ""))
    knowing = client_ports(gateways)
    found = (
        OpenPort(number, bind, tuple(port.servers), number in knowing)
        for (number, bind), port in sorted(ports.items())
        if port.servers
    )
    return tuple(found), tuple(faults)


class _Port:
    """The servers that have a port so far: all of TLS, all of HTTP, or one of TCP."""

    def __init__(self) -> None:
        self.servers: list[OpenServer] = []
        self._by_name: dict[str, OpenServer] = {}
        self._shared: set[tuple[ObjectRef, GatewayServer]] = set()

    def has_same(self, gateway: Gateway, server: GatewayServer) -> bool:
        """Tell whether a server adds nothing: several Ingress objects want the same host served."""
        return gateway.bound_as is not None and (gateway.routed_as, server) in self._shared

    def conflict(self, server: GatewayServer) -> str | None:
        """Return why a server cannot be beside the others, or None."""
        if not self.servers:
            return None
        first = self.servers[0]
        if first.server.kind.is_tls and server.kind.is_tls:
            both = sorted(server_names(server) & self._by_name.keys())
            owner = self._by_name[both[0]] if both else first
            return f"{', '.join(both)} on port {server.port} is {owner.origin}'s" if both else None
        if (first.server.kind, server.kind) == (ServerKind.HTTP, ServerKind.HTTP):
            return None
        return f"port {server.port} is {first.origin}'s, for {first.server.kind}"

    def add(self, opened: OpenServer) -> None:
        """Take a server in."""
        self.servers.append(opened)
        self._by_name.update(dict.fromkeys(server_names(opened.server), opened))
        self._shared.add((opened.routed_as, opened.server))


def _obstacle(server: GatewayServer) -> str | None:
    return f"port {server.port} is the mesh's own on every host" if server.port in OWN_PORTS else None


def server_names(server: GatewayServer) -> set[str]:
    """Return the hosts of a server, whoever's routes they are for."""
    return {name for _, name in server.hosts}


class ServerIndex:
    """The servers that routes can be bound to, found by host: hundreds with hundreds of hosts are not compared all."""

    def __init__(self, ports: Iterable[OpenPort]) -> None:
        self._places = [(port, at, opened) for port in ports for at, opened in enumerate(port.servers)]
        self._by_gateway: dict[ObjectRef, set[int]] = {}
        self._by_host: dict[tuple[ObjectRef, str], set[int]] = {}
        for index, (_, _, opened) in enumerate(self._places):
            self._by_gateway.setdefault(opened.routed_as, set()).add(index)
            for name in server_names(opened.server):
                self._by_host.setdefault((opened.routed_as, _exact(name)), set()).add(index)

    def has(self, gateway: ObjectRef) -> bool:
        """Tell whether there is a server of that Gateway object."""
        return gateway in self._by_gateway

    def of(self, bound: BoundRoutes) -> Iterator[tuple[OpenPort, int, tuple[str, ...]]]:
        """Yield the servers that routes are for, by port and position, with the hosts that both have."""
        names = {_exact(name) for name in bound.hosts}
        if _ANY in names:
            found = self._by_gateway.get(bound.gateway, set())
        else:
            found = set().union(*(self._by_host.get((bound.gateway, name), ()) for name in (_ANY, *names)))
        for index in sorted(found):
            port, at, opened = self._places[index]
            if hosts := hosts_for(opened.server, bound):
                yield port, at, hosts


_ANY = "*"


def _exact(host: str) -> str:
    """Return the host, or `*` for any wildcard."""
    return _ANY if host.startswith("*") else host.lower().rstrip(".")


def hosts_for(server: GatewayServer, bound: BoundRoutes) -> tuple[str, ...]:
    """Return the hosts of a VirtualService that requests to this server can have."""
    found = (
        common_host(name, host)
        for namespace, name in server.hosts
        for host in bound.hosts
        if namespace in ("*", bound.origin.namespace)
    )
    return tuple(sorted({host for host in found if host is not None}))
