"""Findings about rules and matches that get no request, because others before them take all of theirs. Pure.

A VirtualService is looked at by itself, as written; RouteRules with all the others of their service, by precedence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from agent.api.analysis.coverage import covers, route_covers
from agent.api.analysis.finding import INEFFECTIVE, SHADOWED, UNREACHABLE, Finding, finding
from agent.api.analysis.world import World
from agent.api.envelope import Document
from agent.api.lowering.connections import connection_match
from agent.api.lowering.gateway import MESH
from agent.api.lowering.lower import lower
from agent.api.lowering.virtual_service import request_match
from agent.api.validate import find_problems
from agent.mesh.routes import HttpMatch, ObjectRef, Route

_MATCHES = {"http": request_match, "tls": connection_match, "tcp": connection_match}


class _Taken(Struct, frozen=True):
    """The requests that a rule of a VirtualService takes by one of its matches."""

    rule: str
    gateways: frozenset[str]
    match: HttpMatch


def find_unreachable(world: World) -> Iterator[Finding]:
    """Yield a finding for each rule or match that those before it leave no request."""
    for document in world.of_kind("VirtualService"):
        unsure = [problem.path for problem in find_problems(document)]
        for field in _MATCHES:
            yield from _rules(document, field, unsure)
    yield from _shadowed(world)


def _rules(document: Document, field: str, unsure: Iterable[str]) -> Iterator[Finding]:
    taken: list[_Taken] = []
    for index, rule in enumerate(document.spec.get(field) or ()):
        place = f"spec.{field}[{index}]"
        takers: list[str | None] = []
        for number, match in enumerate(rule.get("match") or ({},)):
            own = _Taken(place, _gateways(document, match), _MATCHES[field](match))
            takers.append(None if _is_unsure(f"{place}.match[{number}]", unsure) else _taker(taken, own))
            # What is enforced in part, or left to a delegate, may leave requests to the rules after it.
            if not _is_unsure(place, unsure) and "delegate" not in rule:
                taken.append(own)
        if all(takers):
            yield finding(UNREACHABLE, document, place, f"never used: {takers[0]} takes all of its requests")
            continue
        for number, taker in enumerate(takers):
            if taker:
                message = f"never holds: {taker} takes all of its requests"
                yield finding(INEFFECTIVE, document, f"{place}.match[{number}]", message)


def _gateways(document: Document, match: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(match.get("gateways") or document.spec.get("gateways") or (MESH,))


def _is_unsure(place: str, unsure: Iterable[str]) -> bool:
    """Tell whether something at a place, or within it, is not enforced."""
    return any(path == place or path.startswith((f"{place}.", f"{place}[")) for path in unsure)


def _taker(taken: Iterable[_Taken], own: _Taken) -> str | None:
    found = (one.rule for one in taken if own.gateways <= one.gateways and covers(one.match, own.match))
    return next(found, None)


def _shadowed(world: World) -> Iterator[Finding]:
    """Find RouteRules that others of a higher precedence leave nothing, of requests and connections alike."""
    shadows: dict[ObjectRef, str] = {}
    useful: set[ObjectRef] = set()
    # What is not there (yet) is another finding's business: rules are compared as if it were.
    lowered = lower(world.documents, world.catalog.services | world.assumed())
    for policy in lowered.policies.values():
        for routes in (policy.routes, policy.tcp):
            for position, route in enumerate(routes):
                taker = _earlier(routes[:position], route)
                if taker is None:
                    useful.add(route.origin)
                else:
                    shadows.setdefault(route.origin, str(taker.origin))
    for document in world.of_kind("RouteRule"):
        if document.ref in shadows and document.ref not in useful:
            message = f"never used: {shadows[document.ref]} takes all of its requests"
            yield finding(SHADOWED, document, "spec", message)


def _earlier(routes: Iterable[Route], route: Route) -> Route | None:
    """Return the first route that takes what the first match would, if every match is taken by one."""
    takers = [next((one for one in routes if route_covers(one, match)), None) for match in route.matches or (None,)]
    return takers[0] if all(takers) else None
