"""The tls and tcp routes of VirtualServices at gateways to mesh types: pure, takes validated specs only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.api.envelope import Document
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.gateway import matches_through
from agent.api.lowering.istio_service import Unresolved
from agent.mesh.gateway import ConnectionRoute
from agent.mesh.routes import (
    Destination,
    Fault,
    HttpMatch,
    ObjectRef,
    Route,
    SourceMatch,
    Subset,
    WeightedDestination,
)
from agent.mesh.service import ServiceKey, labels_of

_Subsets = Mapping[ServiceKey, Mapping[str, Subset]]


def lower_connections(
    document: Document, catalog: Catalog, subsets: _Subsets, gateway: ObjectRef
) -> tuple[tuple[ConnectionRoute, ...], tuple[Fault, ...]]:
    """Return the tls routes, then the tcp routes of connections through a gateway, and why others are left out."""
    found: list[ConnectionRoute] = []
    faults = []
    for kind in ("tls", "tcp"):
        for index, route in enumerate(document.spec.get(kind) or ()):
            try:
                destinations = tuple(_destinations(route["route"], document.namespace, catalog, subsets))
            except Unresolved as unresolved:
                faults.append(Fault(str(document.ref), f"spec.{kind}[{index}] is left out: {unresolved}"))
                continue
            matches = matches_through(route.get("match") or (), document.namespace, gateway)
            for match in matches if route.get("match") else ({},):
                condition = HttpMatch(port=match.get("port"), source=_source(match))
                lowered = Route(f"{kind}[{index}]", document.ref, destinations, (condition,))
                found.append(ConnectionRoute(tuple(match.get("sniHosts") or ()), lowered))
    return tuple(found), tuple(faults)


def _destinations(
    targets: list[Mapping[str, Any]], namespace: str, catalog: Catalog, subsets: _Subsets
) -> Iterator[WeightedDestination]:
    for target in targets:
        named = target["destination"]
        service = catalog.resolve(named["host"], namespace)
        if service is None:
            raise Unresolved(f"service {named['host']} is not in the catalog")
        name = named.get("subset")
        subset = subsets.get(service, {}).get(name) if name else None
        if name and subset is None:
            raise Unresolved(f"no DestinationRule of {service} declares the subset {name}")
        # A single destination has all the traffic, whatever its weight.
        weight = 100 if len(targets) == 1 else target.get("weight") or 0
        yield WeightedDestination(Destination(service, subset, (named.get("port") or {}).get("number")), weight)


def _source(match: Mapping[str, Any]) -> SourceMatch | None:
    labels, namespace = labels_of(match.get("sourceLabels") or {}), match.get("sourceNamespace") or None
    return SourceMatch(None, namespace, labels) if labels or namespace else None
