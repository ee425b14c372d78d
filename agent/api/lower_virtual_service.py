"""VirtualService and the subsets of DestinationRules to routes: pure; which of several wins is lower.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.api.catalog import Catalog
from agent.api.envelope import Document
from agent.api.istio_service import Unresolved
from agent.api.lower_actions import http_route_actions, lower_headers, mirror_percent, percentage
from agent.api.lower_gateway import matches_through
from agent.api.matching import header_matches, query_matches, string_match
from agent.mesh.routes import (
    Destination,
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


def lower_virtual_service(
    document: Document, catalog: Catalog, subsets: Subsets, gateway: ObjectRef | None = None
) -> tuple[Route, ...]:
    """Return the routes of requests within the mesh, or through a gateway, in order; raises Unresolved."""
    routes = []
    for index, route in enumerate(document.spec.get("http") or ()):
        matches = matches_through(route.get("match") or (), document.namespace, gateway)
        if matches or not route.get("match"):
            name = route.get("name") or str(index)
            routes.append(_route({**route, "match": matches}, name, document, catalog, subsets))
    return tuple(routes)


def declared_subsets(document: Document) -> tuple[Subset, ...]:
    """Return the subsets of a DestinationRule."""
    return tuple(
        Subset(subset["name"], labels_of(subset.get("labels") or {})) for subset in document.spec.get("subsets") or ()
    )


def _route(route: Mapping[str, Any], name: str, document: Document, catalog: Catalog, subsets: Subsets) -> Route:
    def destination(named: Mapping[str, Any]) -> Destination:
        return _destination(named, document.namespace, catalog, subsets)

    targets = route.get("route") or ()
    mirrors = [Mirror(destination(route["mirror"]), mirror_percent(route))] if route.get("mirror") else []
    mirrors += [
        Mirror(destination(mirror["destination"]), percentage(mirror.get("percentage")))
        for mirror in route.get("mirrors") or ()
    ]
    return Route(
        name=name,
        origin=document.ref,
        destinations=tuple(
            WeightedDestination(
                destination(target["destination"]),
                # A single destination has all the traffic, whatever its weight.
                100 if len(targets) == 1 else target.get("weight") or 0,
                lower_headers(target.get("headers")),
            )
            for target in targets
        ),
        matches=tuple(_match(match) for match in route.get("match") or ()),
        actions=http_route_actions(route),
        mirrors=tuple(mirrors),
    )


def _destination(destination: Mapping[str, Any], namespace: str, catalog: Catalog, subsets: Subsets) -> Destination:
    host = destination["host"]
    service = catalog.resolve(host, namespace)
    if service is None:
        raise Unresolved(f"service {host} is not in the catalog")
    name = destination.get("subset")
    subset = subsets.get(service, {}).get(name) if name else None
    if name and subset is None:
        raise Unresolved(f"no DestinationRule of {service} declares the subset {name}")
    return Destination(service, subset, (destination.get("port") or {}).get("number"))


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
