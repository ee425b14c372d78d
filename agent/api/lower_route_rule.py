"""RouteRule to Route: pure, one rule at a time; order among rules is lower.py's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from agent.api.catalog import Catalog
from agent.api.envelope import Document
from agent.api.fields import PSEUDO_HEADERS
from agent.api.istio_service import resolve_service, source_match
from agent.api.matching import header_matches, string_match
from agent.mesh.routes import Destination, HttpMatch, Route, Subset, WeightedDestination
from agent.mesh.service import Labels, ServiceKey, labels_of


class LoweredRule(Struct, frozen=True):
    """A rule about a service of the catalog."""

    service: ServiceKey
    order: tuple[int, str, str]
    """Sorts the rules of a service: higher precedence first, then by name (and namespace)."""
    route: Route


def lower_route_rule(document: Document, catalog: Catalog) -> LoweredRule:
    """Return the rule's route; raises Unresolved."""
    spec = document.spec
    service = resolve_service(spec["destination"], document.namespace, catalog)
    match = _match(spec.get("match") or {}, document.namespace, catalog)
    route = Route("", document.ref, _destinations(spec.get("route") or (), service), (match,) if match else ())
    return LoweredRule(service, (-(spec.get("precedence") or 0), document.name, document.namespace), route)


def _destinations(routes: Any, service: ServiceKey) -> tuple[WeightedDestination, ...]:
    if len(routes) < 2:
        labels = labels_of((routes[0].get("labels") if routes else None) or {})
        return (WeightedDestination(_destination(service, labels)),)
    return tuple(
        WeightedDestination(_destination(service, labels_of(route.get("labels") or {})), route.get("weight") or 0)
        for route in routes
    )


def _destination(service: ServiceKey, labels: Labels) -> Destination:
    if not labels:
        return Destination(service)
    return Destination(service, Subset(",".join(f"{key}={value}" for key, value in labels), labels))


def _match(match: Mapping[str, Any], namespace: str, catalog: Catalog) -> HttpMatch | None:
    headers = (match.get("request") or {}).get("headers") or {}
    source = match.get("source")
    if not headers and not source:
        return None
    return HttpMatch(
        uri=string_match(headers.get("uri")),
        method=string_match(headers.get("method")),
        scheme=string_match(headers.get("scheme")),
        authority=string_match(headers.get("authority")),
        headers=tuple(header_matches({name: headers[name] for name in headers if name not in PSEUDO_HEADERS})),
        source=source_match(source, namespace, catalog) if source else None,
    )
