"""Findings about documents that get into each other's way: conflicts, unreachable and shadowed rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.analysis.coverage import route_covers
from agent.api.analysis.finding import (
    CONFLICTING_HOSTS,
    CONFLICTING_SIDECARS,
    INEFFECTIVE,
    NOT_USED,
    SEVERAL_DEFAULT_SIDECARS,
    SHADOWED,
    UNREACHABLE,
    Finding,
    finding,
)
from agent.api.analysis.world import World
from agent.api.envelope import Document
from agent.api.lowering.lower import lower
from agent.api.validate import find_problems
from agent.mesh.routes import ObjectRef, Route
from agent.mesh.service import ServiceKey


def find_overlaps(world: World) -> Iterator[Finding]:
    """Yield a finding for each document, rule or match that another one leaves no request."""
    yield from _conflicting_hosts(world)
    yield from _unused_route_rules(world)
    yield from _sidecars(world)
    by_ref = {document.ref: document for document in world.documents}
    seen: set[ObjectRef] = set()
    # What is not there (yet) is another finding's business: rules are compared as if it were.
    services = world.catalog.services | world.assumed()
    for policy in lower([*world.documents, *_missing_subsets(world)], services).policies.values():
        origins = {route.origin for route in policy.routes}
        if origins & seen and next(iter(origins)).kind == "VirtualService":
            continue  # the same routes for another of its hosts
        seen |= origins
        yield from _unreachable(policy.routes, by_ref)


def _conflicting_hosts(world: World) -> Iterator[Finding]:
    owners: dict[ServiceKey, Document] = {}
    for document in world.of_kind("VirtualService"):
        for reference in world.references(document):
            if reference.is_destination or reference.service is None:
                continue
            owner = owners.setdefault(reference.service, document)
            if owner is not document:
                message = f"{owner.ref} is about {reference.service} too and comes first by name: this one is not used"
                yield finding(CONFLICTING_HOSTS, document, reference.path, message)


def _unused_route_rules(world: World) -> Iterator[Finding]:
    governed = {
        reference.service: document
        for document in reversed(world.of_kind("VirtualService"))
        for reference in world.references(document)
        if not reference.is_destination
    }
    for document in world.of_kind("RouteRule"):
        about = next(world.references(document), None)
        if about and about.service and about.service in governed:
            message = f"not used: {governed[about.service].ref} is about {about.service} too"
            yield finding(NOT_USED, document, about.path, message)


def _unreachable(routes: tuple[Route, ...], by_ref: dict[ObjectRef, Document]) -> Iterator[Finding]:
    counts: dict[ObjectRef, int] = {}
    for position, route in enumerate(routes):
        number = counts.setdefault(route.origin, 0)
        counts[route.origin] += 1
        document = by_ref[route.origin]
        old = document.kind == "RouteRule"
        # Of a document that is enforced in part, the routes that are left have other numbers.
        path = "spec" if old else "spec.http" if find_problems(document) else f"spec.http[{number}]"
        earlier = routes[:position]
        takers = [
            next((one for one in earlier if route_covers(one, match)), None) for match in route.matches or (None,)
        ]
        if all(takers):
            taker = takers[0]
            assert taker is not None
            message = f"never used: {_named(taker, routes, route)} takes all of its requests"
            yield finding(SHADOWED if old else UNREACHABLE, document, path, message)
            continue
        for index, taker in enumerate(takers):
            if taker is not None:
                message = f"never holds: {_named(taker, routes, route)} takes all of its requests"
                yield finding(INEFFECTIVE, document, f"{path}.match[{index}]", message)


def _named(taker: Route, routes: tuple[Route, ...], route: Route) -> str:
    if taker.origin != route.origin:
        return str(taker.origin)
    siblings = [one for one in routes if one.origin == taker.origin]
    return f"spec.http[{siblings.index(taker)}]"


def _missing_subsets(world: World) -> Iterator[Document]:
    """Yield a DestinationRule for each subset that is named and not declared."""
    wanted = {
        (reference.service, reference.subset)
        for document in world.documents
        for reference in world.references(document)
        if reference.service and reference.subset and reference.subset not in world.subsets.get(reference.service, {})
    }
    for number, (service, subset) in enumerate(sorted(wanted)):
        spec = {"host": str(service), "subsets": [{"name": subset, "labels": {"missing": subset}}]}
        name = f"missing-{number}"
        yield Document("networking.istio.io/v1", "DestinationRule", service.namespace, name, {}, {}, spec, "analysis")


def _sidecars(world: World) -> Iterator[Finding]:
    defaults: dict[str, Document] = {}
    selected: dict[tuple[str, str], Document] = {}
    for document in world.of_kind("Sidecar"):
        labels = (document.spec.get("workloadSelector") or {}).get("labels") or {}
        key = (document.namespace, repr(sorted(labels.items())))
        first = selected.setdefault(key, document) if labels else defaults.setdefault(document.namespace, document)
        if first is not document:
            kind = CONFLICTING_SIDECARS if labels else SEVERAL_DEFAULT_SIDECARS
            whom = "the same workloads" if labels else "every workload of the namespace"
            yield finding(kind, document, "spec", f"{first.ref} is for {whom} too: which one counts is undefined")
