"""The tls and tcp routes of VirtualServices to mesh types: pure, takes validated specs only.

A route that leads nowhere closes its connections: without it, they would go where the next one leads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.api.lowering.gateway import matches_through
from agent.api.lowering.targets import Resolver, weighted
from agent.mesh.actions import LOST, HttpActions
from agent.mesh.routes import ConnectionMatch, HttpMatch, ObjectRef, Route, SourceMatch
from agent.mesh.service import labels_of


def connection_routes(
    kind: str, routes: Iterable[Mapping[str, Any]], resolver: Resolver, gateway: ObjectRef | None
) -> tuple[Route, ...]:
    """Return the `tls` or `tcp` routes of connections within the mesh, or through a gateway."""
    found = []
    for index, route in enumerate(routes):
        matches = matches_through(route.get("match") or (), resolver.namespace, gateway)
        if matches or not route.get("match"):
            conditions = tuple(connection_match(match) for match in matches)
            destinations = weighted(route["route"], resolver)
            name, is_lost = f"{kind}[{index}]", not any(one.weight for one in destinations)
            if is_lost:
                resolver.lost.append(name)
            kept, actions = ((), LOST) if is_lost else (destinations, HttpActions())
            found.append(Route(name, resolver.origin, kept, conditions, actions))
    return tuple(found)


def connection_match(match: Mapping[str, Any]) -> HttpMatch:
    """Return what one match of a tls or tcp route says of connections; for which gateways is another matter."""
    source = match.get("sourceSubnet")
    connection = ConnectionMatch(
        tuple(match.get("sniHosts") or ()), tuple(match.get("destinationSubnets") or ()), (source,) if source else ()
    )
    return HttpMatch(port=match.get("port") or None, source=source_of(match), connection=connection)


def source_of(match: Mapping[str, Any]) -> SourceMatch | None:
    """Return the callers that `sourceLabels` and `sourceNamespace` name; None: all."""
    labels, namespace = labels_of(match.get("sourceLabels") or {}), match.get("sourceNamespace") or None
    return SourceMatch(None, namespace, labels) if labels or namespace else None
