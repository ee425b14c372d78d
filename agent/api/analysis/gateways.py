"""Findings about gateways: names and hosts that no server has, servers in each other's way, what hosts report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from agent.api.analysis.finding import (
    CONFLICTING_GATEWAYS,
    HOST_NOT_AT_GATEWAY,
    NOT_FOUND,
    NOT_SERVED,
    SHARED_CERTIFICATE,
    Finding,
    finding,
)
from agent.api.analysis.world import World
from agent.api.envelope import Document
from agent.api.lowering.gateway import MESH, bound_gateways, gateway_named, is_for_mesh, lower_gateway
from agent.api.lowering.ingress import lower_front
from agent.mesh.gateway import Gateway, GatewayServer, ServerKind, common_host, selectors_meet
from agent.mesh.routes import Fault, ObjectRef

_KINDS = ("Gateway", "Ingress", "IngressRule")


class Reported(Struct, frozen=True):
    """A fault that the agent of a node tells of."""

    node: str
    fault: Fault


class _Placed(Struct, frozen=True):
    document: Document
    gateway: Gateway
    index: int

    @property
    def server(self) -> GatewayServer:
        return self.gateway.servers[self.index]

    @property
    def path(self) -> str:
        return f"spec.servers[{self.index}]" if self.document.kind == "Gateway" else "spec"


def find_gateways(world: World, reported: Iterable[Reported] = ()) -> Iterator[Finding]:
    """Yield a finding for each name, host and server that no request will come by."""
    lowered = [
        (document, lower_gateway(document) if kind == "Gateway" else lower_front(document))
        for kind in _KINDS
        for document in world.of_kind(kind)
    ]
    known = {gateway.origin: gateway for _, gateway in lowered}
    for document in world.of_kind("VirtualService"):
        yield from _unknown(document, known)
        yield from _hosts(world, document, known)
    yield from _conflicts(lowered)
    yield from _shared_certificates(lowered)
    by_ref = {str(document.ref): document for document, _ in lowered}
    for one in reported:
        if one.fault.subject in by_ref:
            document = by_ref[one.fault.subject]
            yield finding(NOT_SERVED, document, "", f"the gateway {one.node} says: {one.fault.reason}")


def _unknown(document: Document, known: dict[ObjectRef, Gateway]) -> Iterator[Finding]:
    for index, name in enumerate(document.spec.get("gateways") or ()):
        if name and name != MESH and gateway_named(name, document.namespace) not in known:
            message = f'the gateway "{name}" does not exist: no request comes to these routes through it'
            yield finding(NOT_FOUND, document, f"spec.gateways[{index}]", message)


def _hosts(world: World, document: Document, known: dict[ObjectRef, Gateway]) -> Iterator[Finding]:
    bound = [known[ref] for ref in bound_gateways(document) if ref in known]
    servers = [server for gateway in bound for server in gateway.servers]
    for index, host in enumerate(document.spec.get("hosts") or () if bound else ()):
        inside = is_for_mesh(document) and bool(world.catalog.meant(host, document.namespace))
        if not inside and not any(_has(server, document.namespace, host) for server in servers):
            names = ", ".join(gateway.origin.name for gateway in bound)
            message = f'no server of the gateway {names} is for "{host}": no request for it comes to these routes'
            yield finding(HOST_NOT_AT_GATEWAY, document, f"spec.hosts[{index}]", message)


def _has(server: GatewayServer, namespace: str, host: str) -> bool:
    return any(scope in ("*", namespace) and common_host(name, host) is not None for scope, name in server.hosts)


def _conflicts(lowered: Iterable[tuple[Document, Gateway]]) -> Iterator[Finding]:
    """Find servers that the ones before them, in the order that agents take them, leave no place."""
    ports: dict[tuple[int, str], list[_Placed]] = {}
    for document, gateway in lowered:
        for index, server in enumerate(gateway.servers):
            placed = _Placed(document, gateway, index)
            others = ports.setdefault((server.port, server.bind), [])
            for other in others:
                if selectors_meet(gateway.selector, other.gateway.selector) and (reason := _conflict(placed, other)):
                    message = f"{reason}, where both are served this one is left out"
                    yield finding(CONFLICTING_GATEWAYS, document, placed.path, message)
                    break
            others.append(placed)


def _shared_certificates(lowered: Iterable[tuple[Document, Gateway]]) -> Iterator[Finding]:
    """Find certificates of several Gateways: browsers take a connection to one for the other's hosts, and get 404."""
    owners: dict[str, _Placed] = {}
    for document, gateway in lowered:
        servers = document.spec["servers"] if document.kind == "Gateway" else ()
        for index, server in enumerate(servers):
            tls, placed = server.get("tls") or {}, _Placed(document, gateway, index)
            name = tls.get("credentialName") or tls.get("serverCertificate")
            other = owners.setdefault(name, placed) if name else placed
            meet = other.document is not document and selectors_meet(gateway.selector, other.gateway.selector)
            if meet and not _conflict(placed, other):
                message = (
                    f"{name} is the certificate of {other.document.ref} ({other.path}) too: clients that use one HTTP/2"
                    " connection for both get 404"
                )
                yield finding(SHARED_CERTIFICATE, document, f"{placed.path}.tls", message)


def _conflict(placed: _Placed, other: _Placed) -> str | None:
    mine, its = placed.server, other.server
    if placed.gateway.routed_as == other.gateway.routed_as != placed.gateway.origin and mine == its:
        return None  # Ingress objects share what they ask for
    where = f"{other.document.ref} ({other.path})"
    if mine.kind.is_tls and its.kind.is_tls:
        both = sorted({name for _, name in mine.hosts} & {name for _, name in its.hosts})
        return f"{where} has {', '.join(both)} on port {mine.port} already" if both else None
    if (mine.kind, its.kind) == (ServerKind.HTTP, ServerKind.HTTP):
        return None
    return f"{where} has port {mine.port} for {its.kind} already"
