"""RouteRule to Route: pure, one rule at a time; order among rules is lower.py's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from agent.api.checks.fields import PSEUDO_HEADERS
from agent.api.envelope import Document
from agent.api.lowering.actions import route_rule_actions
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.istio_service import resolve_service, source_match
from agent.api.lowering.matching import header_matches, string_match
from agent.mesh.routes import ConnectionMatch, Destination, HttpMatch, Mirror, Route, Subset, WeightedDestination
from agent.mesh.service import Labels, ServiceKey, labels_of, labels_text

_SUBNETS = ("destinationSubnet", "sourceSubnet")


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
    actions = route_rule_actions(spec)
    route = Route(
        "",
        document.ref,
        () if actions.answer else _destinations(spec.get("route") or ({},), service, document.namespace, catalog),
        (match,) if match else (),
        actions,
        _mirrors(spec.get("mirror"), document.namespace, catalog),
    )
    return LoweredRule(service, (-(spec.get("precedence") or 0), document.name, document.namespace), route)


def _destinations(
    routes: Sequence[Mapping[str, Any]], service: ServiceKey, namespace: str, catalog: Catalog
) -> tuple[WeightedDestination, ...]:
    found = []
    for route in routes:
        other = route.get("destination") or {}
        target = resolve_service(other, namespace, catalog) if other else service
        labels = labels_of({**(other.get("labels") or {}), **(route.get("labels") or {})})
        # A single destination has all the traffic, whatever its weight.
        weight = 100 if len(routes) == 1 else route.get("weight") or 0
        found.append(WeightedDestination(_destination(target, labels), weight))
    return tuple(found)


def _mirrors(mirror: Mapping[str, Any] | None, namespace: str, catalog: Catalog) -> tuple[Mirror, ...]:
    if mirror is None:
        return ()
    labels = labels_of(mirror.get("labels") or {})
    return (Mirror(_destination(resolve_service(mirror, namespace, catalog), labels)),)


def _destination(service: ServiceKey, labels: Labels) -> Destination:
    if not labels:
        return Destination(service)
    return Destination(service, Subset(labels_text(labels), labels))


def _match(match: Mapping[str, Any], namespace: str, catalog: Catalog) -> HttpMatch | None:
    headers = (match.get("request") or {}).get("headers") or {}
    source, subnets = match.get("source"), match.get("tcp") or {}
    connection = ConnectionMatch((), *(tuple(subnets.get(name) or ()) for name in _SUBNETS))
    if not headers and not source and connection == ConnectionMatch():
        return None
    return HttpMatch(
        uri=string_match(headers.get("uri")),
        method=string_match(headers.get("method")),
        scheme=string_match(headers.get("scheme")),
        authority=string_match(headers.get("authority")),
        headers=tuple(header_matches({name: headers[name] for name in headers if name not in PSEUDO_HEADERS})),
        source=source_match(source, namespace, catalog) if source else None,
        connection=connection,
    )
