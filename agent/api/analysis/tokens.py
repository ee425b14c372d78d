"""Findings about tokens: claims that routes ask for and nobody verifies, rules for ports without requests. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.analysis.finding import CLAIMS_UNVERIFIED, TOKENS_WITHOUT_REQUESTS, Finding, finding
from agent.api.analysis.world import World
from agent.api.envelope import Document
from agent.api.lowering.gateway import bound_gateways, lower_gateway
from agent.api.lowering.security import target_of
from agent.mesh.gateway import selects_gateway
from agent.mesh.names import DEFAULT_NAMESPACE
from agent.mesh.routes import CLAIMS, ObjectRef
from agent.mesh.service import Labels, labels_of


def find_tokens(world: World) -> Iterator[Finding]:
    """Yield the findings; those about ports with a catalog only."""
    selectors = {gateway.origin: gateway.selector for gateway in map(lower_gateway, world.of_kind("Gateway"))}
    for document in world.of_kind("VirtualService"):
        yield from _claims(world, document, selectors)
    for document in world.of_kind("RequestAuthentication") if world.services is not None else ():
        yield from _without_requests(world, document)


def _claims(world: World, document: Document, selectors: dict[ObjectRef, Labels]) -> Iterator[Finding]:
    unguarded = [ref for ref in bound_gateways(document) if ref in selectors and not _guarded(world, selectors[ref])]
    for index, route in enumerate(document.spec.get("http") or () if unguarded else ()):
        for number, match in enumerate(route.get("match") or ()):
            asked = {**(match.get("headers") or {}), **(match.get("withoutHeaders") or {})}
            claim = next((name for name in asked if name.startswith(CLAIMS)), None)
            if claim is not None:
                message = f"no RequestAuthentication is for {unguarded[0]}, so no request ever has {claim}"
                yield finding(CLAIMS_UNVERIFIED, document, f"spec.http[{index}].match[{number}]", message)


def _guarded(world: World, gateway: Labels) -> bool:
    """Tell whether tokens are verified at gateways of that selector, which are hosts in the default namespace."""
    for document in world.of_kind("RequestAuthentication"):
        wanted = labels_of((document.spec.get("selector") or {}).get("matchLabels") or {})
        there = document.namespace in (world.settings.root_namespace, DEFAULT_NAMESPACE)
        if there and (not wanted or not gateway or selects_gateway(wanted, gateway)):
            return True
    return False


def _without_requests(world: World, document: Document) -> Iterator[Finding]:
    target, root = target_of(document), world.settings.root_namespace
    for service in (world.services or {}).values() if document.spec.get("jwtRules") else ():
        selected = service.outside is None and any(
            target.covers(one.service, one.labels, root) for one in service.instances
        )
        named = bool(document.spec.get("selector") or target.services)  # a whole namespace's is not about each of them
        if named and selected and service.ports and not any(port.protocol.may_be_http for port in service.ports):
            spoken = ", ".join(f"{port.number} speaks {port.protocol}" for port in service.ports)
            message = f"{service.key} has no requests, and so no tokens: its port {spoken}"
            yield finding(TOKENS_WITHOUT_REQUESTS, document, "spec.jwtRules", message)
