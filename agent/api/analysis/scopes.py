"""Findings about Sidecars: hosts that name nothing, and rules about services that their callers cannot call. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.api.analysis.finding import OUT_OF_SCOPE, UNKNOWN_SIDECAR_HOST, Finding, finding
from agent.api.analysis.world import Reference, World
from agent.api.envelope import Document
from agent.api.lowering.gateway import is_for_mesh
from agent.api.lowering.sidecar import host_pattern
from agent.mesh.service import Labels, Service, ServiceKey, labels_of
from agent.mesh.sidecar import sidecar_for


def find_scopes(world: World) -> Iterator[Finding]:
    """Yield a finding for each host of a Sidecar that is not there, and each rule that its callers are kept from."""
    for document in world.of_kind("Sidecar") if world.services is not None else ():
        yield from _unknown_hosts(world, document)
    if world.sidecars:
        for document in world.documents:
            if document.kind == "RouteRule" or (document.kind == "VirtualService" and is_for_mesh(document)):
                yield from _kept_from(world, document)


def _unknown_hosts(world: World, document: Document) -> Iterator[Finding]:
    known = (world.services or {}).values()
    for index, listener in enumerate(document.spec.get("egress") or ()):
        for number, host in enumerate(listener["hosts"]):
            pattern = host_pattern(host, document.namespace)
            # A wildcard may wait for services that are not there yet.
            if pattern is not None and "*" not in pattern.host and not any(map(pattern.admits, known)):
                message = f'no service of the mesh is "{host}": the workloads of this Sidecar can call nothing by it'
                yield finding(UNKNOWN_SIDECAR_HOST, document, f"spec.egress[{index}].hosts[{number}]", message)


def _kept_from(world: World, document: Document) -> Iterator[Finding]:
    """Find what a rule is about and its callers have out of their scope; what it sends to comes into the scope."""
    for about in world.references(document):
        if about.is_destination or about.service is None or "*" in about.host:
            continue  # a wildcard is for those that the callers know
        for namespace, labels in _callers(document):
            sidecar = sidecar_for(world.sidecars, namespace, labels, world.settings.root_namespace)
            if sidecar is not None and not sidecar.admits(_service(world, about.service)):
                yield _finding(document, about, namespace, labels, str(sidecar.origin))


def _finding(document: Document, about: Reference, namespace: str, labels: Labels, sidecar: str) -> Finding:
    shown = ",".join(f"{key}={value}" for key, value in labels)
    whom = f"callers in the namespace {namespace}" + (f" with {shown}" if shown else "")
    message = f"{whom} cannot call {about.service}: {sidecar} leaves it out, so for them this does nothing"
    return finding(OUT_OF_SCOPE, document, about.path, message)


def _callers(document: Document) -> set[tuple[str, Labels]]:
    """Return the callers that a rule speaks of; if of none, those of its own namespace."""
    if document.kind == "RouteRule":
        source = (document.spec.get("match") or {}).get("source") or {}
        return {(source.get("namespace") or document.namespace, labels_of(source.get("labels") or {}))}
    routes = [route for kind in ("http", "tls", "tcp") for route in document.spec.get(kind) or ()]
    anyone: list[Mapping[str, Any]] = [{}]
    matches = [match for route in routes for match in route.get("match") or anyone]
    return {
        (match.get("sourceNamespace") or document.namespace, labels_of(match.get("sourceLabels") or {}))
        for match in matches
    }


def _service(world: World, key: ServiceKey) -> Service:
    known = world.outside if world.services is None else world.services
    return known.get(key) or Service(key, (), ())
