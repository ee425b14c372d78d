"""Findings about documents that get into each other's way. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from agent.api.analysis.finding import (
    CONFLICTING_HOSTS,
    CONFLICTING_SIDECARS,
    NOT_FOUND,
    NOT_USED,
    SEVERAL_DEFAULT_SIDECARS,
    Finding,
    finding,
)
from agent.api.analysis.world import Reference, World
from agent.api.envelope import Document
from agent.api.lowering.exported import exported_to
from agent.mesh.names import host_breadth
from agent.mesh.service import Labels, ServiceKey, labels_of, labels_text, selects


def find_overlaps(world: World) -> Iterator[Finding]:
    """Yield a finding for each document that another one contradicts."""
    yield from _conflicting_hosts(world)
    yield from _unused_route_rules(world)
    yield from _sidecars(world)


def _conflicting_hosts(world: World) -> Iterator[Finding]:
    owners: dict[tuple[ServiceKey, int, tuple[str, ...]], tuple[Document, Reference]] = {}
    told: set[tuple[str, str]] = set()
    for document in world.of_kind("VirtualService"):
        for reference in world.references(document):
            if reference.is_destination or reference.service is None:
                continue
            # A narrower host is no conflict: it is taken out of a wildcard.
            about = reference.service, host_breadth(reference.host), exported_to(document)
            owner, its = owners.setdefault(about, (document, reference))
            if owner is document or (document.key, reference.path) in told:
                continue
            told.add((document.key, reference.path))
            message = f"{owner.ref} is about {reference.service} too and comes first by name: this one is not used"
            yield finding(CONFLICTING_HOSTS, document, reference.path, message)
            message = f"{document.ref} is about {reference.service} too and is not used: this one comes first by name"
            yield finding(CONFLICTING_HOSTS, owner, its.path, message)


def _unused_route_rules(world: World) -> Iterator[Finding]:
    governed = {
        reference.service: document
        for document in reversed(world.of_kind("VirtualService"))
        for reference in world.references(document)
        if not reference.is_destination and not exported_to(document)
    }
    for document in world.of_kind("RouteRule"):
        about = next(world.references(document), None)
        if about and about.service and about.service in governed:
            message = f"not used: {governed[about.service].ref} is about {about.service} too"
            yield finding(NOT_USED, document, about.path, message)


def _sidecars(world: World) -> Iterator[Finding]:
    before: dict[str, list[tuple[Document, Labels]]] = {}
    for document in world.of_kind("Sidecar"):
        labels = labels_of((document.spec.get("workloadSelector") or {}).get("labels") or {})
        others = before.setdefault(document.namespace, [])
        whose, workloads = document.namespace, world.workloads(document.namespace)
        if labels and workloads is not None and not any(selects(labels, one) for one in workloads):
            message = f"no instance in the namespace {whose} has {labels_text(labels)}: it is for nobody"
            yield finding(NOT_FOUND, document, "spec.workloadSelector.labels", message)
        for other, selector in others:
            if bool(selector) is bool(labels) and (selector == labels or _meet(selector, labels, workloads or ())):
                kind = CONFLICTING_SIDECARS if labels else SEVERAL_DEFAULT_SIDECARS
                whom = "the same workloads" if labels else "every workload of the namespace"
                message = f"{other.ref} is for {whom} too and comes first by name: for these this one is not used"
                yield finding(kind, document, "spec", message)
                message = f"{document.ref} is for {whom} too and is not used for these: this one comes first by name"
                yield finding(kind, other, "spec", message)
                break
        others.append((document, labels))


def _meet(one: Labels, other: Labels, workloads: Collection[Labels]) -> bool:
    """Tell whether two selectors are for the same workload."""
    return any(selects(one, labels) and selects(other, labels) for labels in workloads)
