"""Findings about what documents refer to: unknown hosts and subsets; shares that nobody can serve. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.analysis.finding import (
    EMPTY_SUBSET,
    NO_INSTANCES,
    NOT_FOUND,
    OUTSIDE_NEEDS_ALL,
    PORT_REQUIRED,
    UNSERVED_WEIGHT,
    Finding,
    finding,
)
from agent.api.analysis.world import Reference, World
from agent.api.envelope import Document
from agent.mesh.service import Labels


def find_references(world: World) -> Iterator[Finding]:
    """Yield a finding for each name that leads nowhere, or to no instance."""
    for document in world.documents:
        for reference in world.references(document):
            if reference.service is None:
                yield finding(NOT_FOUND, document, reference.path, _unknown_host(world, document, reference))
            else:
                yield from _known(world, document, reference)
        yield from _outside(document)
    yield from _subsets(world)


def _unknown_host(world: World, document: Document, reference: Reference) -> str:
    if "*" in reference.host:
        return f'no service of the catalog is within "{reference.host}": {_consequence(document, reference)}'
    near = ", ".join(sorted(str(key) for key in world.catalog.services if key.name == reference.host.split(".")[0])[:3])
    hint = f" (there is {near})" if near else ""
    return f'the service "{reference.host}" is not in the catalog{hint}: {_consequence(document, reference)}'


def _consequence(document: Document, reference: Reference) -> str:
    """Return what becomes of traffic that is to go where nothing is."""
    if not reference.is_destination:
        return "the object has no effect for it"
    if document.kind == "RouteRule":
        return "the whole object has no effect"
    if ".mirror" in reference.path:
        return "nothing is sent there"
    return f"other destinations of the route get its part; if there are none, {_failing(reference)}"


def _failing(reference: Reference) -> str:
    return "connections are closed" if reference.path.startswith(("spec.tls", "spec.tcp")) else "requests get 503"


def _known(world: World, document: Document, reference: Reference) -> Iterator[Finding]:
    service = reference.service
    assert service is not None
    labels = reference.labels
    if reference.subset:
        declared = world.subsets.get(service, {})
        if reference.subset not in declared:
            known = f" (there are {', '.join(sorted(declared))})" if declared else ""
            lacking = f'no DestinationRule of {service} declares the subset "{reference.subset}"{known}'
            yield finding(NOT_FOUND, document, reference.path, f"{lacking}: {_consequence(document, reference)}")
            return
        labels = declared[reference.subset]
    if not reference.is_destination:
        return
    yield from _served(world, document, reference, labels)
    ports = world.services[service].ports if world.services and service in world.services else ()
    if document.kind == "VirtualService" and reference.port is None and len(ports) > 1:
        numbers = ", ".join(str(port.number) for port in ports)
        message = f"{service} has the ports {numbers} and the destination names none: the caller's own port is used"
        yield finding(PORT_REQUIRED, document, reference.path, message)
    if reference.port is not None and ports and all(port.number != reference.port for port in ports):
        message = f"{service} has no port {reference.port}: {_consequence(document, reference)}"
        yield finding(NOT_FOUND, document, reference.path, message)


def _served(world: World, document: Document, reference: Reference, labels: Labels) -> Iterator[Finding]:
    assert reference.service is not None
    count = world.instances(reference.service, labels)
    if count != 0 or reference.weight == 0:
        return
    shown = ",".join(f"{key}={value}" for key, value in labels)
    if not labels:
        yield finding(
            NO_INSTANCES,
            document,
            reference.path,
            f"{reference.service} has no serving instance: {_failing(reference)}",
        )
    elif reference.weight not in (None, 100):
        where = f"{reference.service} with {shown}"
        message = f"{reference.weight} % go to {where}, which no serving instance has: {_failing(reference)}"
        yield finding(UNSERVED_WEIGHT, document, reference.path, message)
    else:
        message = f"no serving instance of {reference.service} has {shown}: {_failing(reference)}"
        yield finding(EMPTY_SUBSET, document, reference.path, message)


def _subsets(world: World) -> Iterator[Finding]:
    """Find subsets that are declared, and empty, and that no route names (the routes' own are found there)."""
    used = {
        (reference.service, reference.subset)
        for document in world.documents
        for reference in world.references(document)
        if reference.subset
    }
    for document in world.of_kind("DestinationRule"):
        # What a wildcard says of many need not be for each of them.
        service = world.catalog.resolve(document.spec["host"], document.namespace)
        for index, subset in enumerate(document.spec.get("subsets") or ()):
            name = subset["name"]
            labels = world.subsets.get(service, {}).get(name, ()) if service else ()
            if service and labels and (service, name) not in used and world.instances(service, labels) == 0:
                message = f'no serving instance of {service} has the labels of the subset "{name}"'
                yield finding(EMPTY_SUBSET, document, f"spec.subsets[{index}]", message)


def _outside(document: Document) -> Iterator[Finding]:
    hosts: list[tuple[str, str]] = []
    if document.kind == "ServiceEntry":
        hosts = [(f"spec.hosts[{index}]", host) for index, host in enumerate(document.spec.get("hosts") or ())]
    elif document.kind == "EgressRule":
        hosts = [("spec.destination.service", document.spec["destination"]["service"])]
    for path, host in hosts:
        if host.startswith("*") or "/" in host:
            message = f'"{host}" cannot have a virtual address, so only hosts that capture everything send it to Envoy'
            yield finding(OUTSIDE_NEEDS_ALL, document, path, message)
