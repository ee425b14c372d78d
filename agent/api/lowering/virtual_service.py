"""VirtualService and the subsets of DestinationRules to routes: pure; which of several wins is lower.py's.

A route that leads nowhere answers 503, as in Istio: without it, its requests would go where the next one leads.
Where all do, the whole object is left out, and what there was without it serves on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from agent.api.envelope import Document
from agent.api.lowering.actions import http_route_actions, mirror_percent, percentage
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.connections import connection_routes, source_of
from agent.api.lowering.delegation import Delegates, Problem, owned_routes
from agent.api.lowering.matching import header_matches, query_matches, string_match
from agent.api.lowering.targets import Resolver, Subsets, weighted
from agent.mesh.actions import LOST
from agent.mesh.routes import Fault, HttpMatch, Mirror, ObjectRef, Route, Subset
from agent.mesh.service import labels_of


class LoweredRoutes(Struct, frozen=True):
    """A VirtualService's routes in order, and what of them leads nowhere."""

    http: tuple[Route, ...]
    tls: tuple[Route, ...]
    tcp: tuple[Route, ...]
    faults: tuple[Fault, ...]

    @property
    def all_routes(self) -> tuple[Route, ...]:
        """Return the routes of requests and connections."""
        return (*self.http, *self.tls, *self.tcp)


def lower_virtual_service(
    document: Document,
    catalog: Catalog,
    subsets: Subsets,
    gateway: ObjectRef | None = None,
    delegates: Delegates = MappingProxyType({}),
) -> LoweredRoutes:
    """Return the routes within the mesh, or through a gateway; none if not one of them leads anywhere."""
    spec, resolver = document.spec, Resolver(document.ref, document.namespace, catalog, subsets)
    unmet: list[Problem] = []
    owned = owned_routes(document, delegates, gateway, unmet)
    http = tuple(_route(one.route, one.name, resolver.elsewhere(one.namespace)) for one in owned)
    tls = connection_routes("tls", spec.get("tls") or (), resolver, gateway)
    tcp = connection_routes("tcp", spec.get("tcp") or (), resolver, gateway)
    faults = tuple(Fault(str(document.ref), reason) for reason in dict.fromkeys((*_lines(unmet), *resolver.missing)))
    lowered = LoweredRoutes(http, tls, tcp, faults)
    if resolver.lost and len(resolver.lost) == len(lowered.all_routes):
        return LoweredRoutes((), (), (), faults)
    return lowered


def _lines(problems: Iterable[Problem]) -> Iterator[str]:
    return (f"{problem.path}: {problem.reason}" for problem in problems)


def declared_subsets(document: Document) -> tuple[Subset, ...]:
    """Return the subsets of a DestinationRule."""
    return tuple(
        Subset(subset["name"], labels_of(subset.get("labels") or {})) for subset in document.spec.get("subsets") or ()
    )


def _route(route: Mapping[str, Any], name: str, resolver: Resolver) -> Route:
    destinations = weighted(route.get("route") or (), resolver)
    is_lost = bool(route.get("route")) and not any(one.weight for one in destinations)
    mirrors = tuple(_mirrors(route, resolver))
    if is_lost:
        resolver.lost.append(name)
    return Route(
        name=name,
        origin=resolver.origin,
        destinations=() if is_lost else destinations,
        matches=tuple(request_match(match) for match in route.get("match") or ()),
        actions=LOST if is_lost else http_route_actions(route),
        mirrors=() if is_lost else mirrors,
    )


def _mirrors(route: Mapping[str, Any], resolver: Resolver) -> Iterator[Mirror]:
    if route.get("mirror") and (found := resolver.find(route["mirror"])) is not None:
        yield Mirror(found, mirror_percent(route))
    for mirror in route.get("mirrors") or ():
        if (found := resolver.find(mirror["destination"])) is not None:
            yield Mirror(found, percentage(mirror.get("percentage")))


def request_match(match: Mapping[str, Any]) -> HttpMatch:
    """Return what one match of an http route says of requests; for which gateways it holds is another matter."""
    return HttpMatch(
        name=match.get("name") or "",
        stat_prefix=match.get("statPrefix") or "",
        uri=string_match(match.get("uri") or None, match.get("ignoreUriCase") or False),
        method=string_match(match.get("method") or None),
        scheme=string_match(match.get("scheme") or None),
        authority=string_match(match.get("authority") or None),
        headers=(*header_matches(match.get("headers")), *header_matches(match.get("withoutHeaders"), invert=True)),
        query=tuple(query_matches(match.get("queryParams"))),
        port=match.get("port") or None,
        source=source_of(match),
    )
