"""VirtualService and the subsets of DestinationRules to routes: pure; which of several wins is lower.py's.

A route that leads nowhere answers 503, as in Istio: without it, its requests would go where the next one leads.
Where all do, the whole object is left out, and what there was without it serves on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from agent.api.envelope import Document
from agent.api.lowering.actions import http_route_actions, lower_headers, mirror_percent, percentage
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.gateway import matches_through
from agent.api.lowering.matching import header_matches, query_matches, string_match
from agent.mesh.actions import DirectResponse, HttpActions
from agent.mesh.routes import (
    Destination,
    Fault,
    HttpMatch,
    Mirror,
    ObjectRef,
    Route,
    SourceMatch,
    Subset,
    WeightedDestination,
)
from agent.mesh.service import ServiceKey, labels_of

Subsets = Mapping[ServiceKey, Mapping[str, Subset]]
"""Service → subset name → subset."""


class LoweredRoutes(Struct, frozen=True):
    """A VirtualService's routes in order, and what of them leads nowhere."""

    routes: tuple[Route, ...]
    faults: tuple[Fault, ...]


def lower_virtual_service(
    document: Document, catalog: Catalog, subsets: Subsets, gateway: ObjectRef | None = None
) -> LoweredRoutes:
    """Return the routes of requests within the mesh, or through a gateway; none if not one of them leads anywhere."""
    routes: list[Route] = []
    missing: list[str] = []
    lost = 0
    for index, route in enumerate(document.spec.get("http") or ()):
        matches = matches_through(route.get("match") or (), document.namespace, gateway)
        if matches or not route.get("match"):
            resolver = _Resolver(document, catalog, subsets)
            name = route.get("name") or str(index)
            routes.append(_route({**route, "match": matches}, name, resolver))
            missing += resolver.missing
            lost += resolver.is_lost
    faults = tuple(Fault(str(document.ref), reason) for reason in dict.fromkeys(missing))
    return LoweredRoutes(tuple(routes) if lost < len(routes) else (), faults)


def declared_subsets(document: Document) -> tuple[Subset, ...]:
    """Return the subsets of a DestinationRule."""
    return tuple(
        Subset(subset["name"], labels_of(subset.get("labels") or {})) for subset in document.spec.get("subsets") or ()
    )


class _Resolver:
    """Finds the destinations of one route, and notes those that are not there."""

    def __init__(self, document: Document, catalog: Catalog, subsets: Subsets) -> None:
        self.origin = document.ref
        self._catalog, self._subsets = catalog, subsets
        self.missing: list[str] = []
        self.is_lost = False
        """Whether the route leads nowhere."""

    def find(self, named: Mapping[str, Any]) -> Destination | None:
        """Return the destination that a rule names, None if it isn't there."""
        host, name = named["host"], named.get("subset")
        service = self._catalog.resolve(host, self.origin.namespace)
        if service is None:
            self.missing.append(f"service {host} is not in the catalog")
            return None
        subset = self._subsets.get(service, {}).get(name) if name else None
        if name and subset is None:
            self.missing.append(f"no DestinationRule of {service} declares the subset {name}")
            return None
        return Destination(service, subset, (named.get("port") or {}).get("number"))


def _route(route: Mapping[str, Any], name: str, resolver: _Resolver) -> Route:
    destinations = _weighted(route.get("route") or (), resolver)
    resolver.is_lost = bool(resolver.missing) and not any(weighted.weight for weighted in destinations)
    mirrors = tuple(_mirrors(route, resolver))
    return Route(
        name=name,
        origin=resolver.origin,
        destinations=() if resolver.is_lost else destinations,
        matches=tuple(_match(match) for match in route.get("match") or ()),
        actions=HttpActions(DirectResponse(503)) if resolver.is_lost else http_route_actions(route),
        mirrors=() if resolver.is_lost else mirrors,
    )


def _weighted(targets: Sequence[Mapping[str, Any]], resolver: _Resolver) -> tuple[WeightedDestination, ...]:
    """Return the targets that are there; they share what the others would get."""
    return tuple(
        # A single destination has all the traffic, whatever its weight.
        WeightedDestination(
            found, 100 if len(targets) == 1 else target.get("weight") or 0, lower_headers(target.get("headers"))
        )
        for target in targets
        if (found := resolver.find(target["destination"])) is not None
    )


def _mirrors(route: Mapping[str, Any], resolver: _Resolver) -> Iterator[Mirror]:
    if route.get("mirror") and (found := resolver.find(route["mirror"])) is not None:
        yield Mirror(found, mirror_percent(route))
    for mirror in route.get("mirrors") or ():
        if (found := resolver.find(mirror["destination"])) is not None:
            yield Mirror(found, percentage(mirror.get("percentage")))


def _match(match: Mapping[str, Any]) -> HttpMatch:
    return HttpMatch(
        uri=string_match(match.get("uri"), match.get("ignoreUriCase") or False),
        method=string_match(match.get("method")),
        scheme=string_match(match.get("scheme")),
        authority=string_match(match.get("authority")),
        headers=(*header_matches(match.get("headers")), *header_matches(match.get("withoutHeaders"), invert=True)),
        query=tuple(query_matches(match.get("queryParams"))),
        port=match.get("port"),
        source=_source(match),
    )


def _source(match: Mapping[str, Any]) -> SourceMatch | None:
    labels = labels_of(match.get("sourceLabels") or {})
    namespace = match.get("sourceNamespace")
    return SourceMatch(None, namespace, labels) if labels or namespace else None
