"""Decides for one service port which of its rules this host follows and which clusters they mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.mesh.names import outbound_cluster
from agent.mesh.routes import Fault, HttpMatch, Route, ServicePolicy
from agent.mesh.service import ServiceKey
from agent.translate.facts import Caller, ServiceFacts, ServiceSubset, distinct

ALWAYS = (HttpMatch(),)


class Target(Struct, frozen=True):
    """A cluster and its share of a route's traffic."""

    cluster: str
    weight: int


class ResolvedRoute(Struct, frozen=True):
    """A rule as this host follows it: any of the matches (never none) leads to the targets (never none)."""

    name: str
    matches: tuple[HttpMatch, ...]
    targets: tuple[Target, ...]

    @property
    def holds_for_connections(self) -> bool:
        """Tell whether it needs no look at requests, so that it is for TCP too."""
        return not all(match.is_layer7 for match in self.matches)


class ResolvedPort(Struct, frozen=True):
    """A service port's routes in order, and what they need to exist."""

    routes: tuple[ResolvedRoute, ...]
    default_route: bool
    subsets: tuple[tuple[ServiceKey, ServiceSubset], ...] = ()
    faults: tuple[Fault, ...] = ()


def resolve_port(
    policy: ServicePolicy, port: int, caller: Caller, known: Mapping[ServiceKey, ServiceFacts]
) -> ResolvedPort:
    """Return what this caller's traffic to the port does; `known` has at least the services that the policy names.

    A rule with one destination that can't be resolved is left out whole, and reported.
    """
    routes: list[ResolvedRoute] = []
    subsets: set[tuple[ServiceKey, ServiceSubset]] = set()
    faults: list[Fault] = []
    for route in policy.routes:
        matches = _matches(route, port, caller)
        targets = _targets(route, port, known) if matches else ()
        if isinstance(targets, Fault):
            faults.append(targets)
        elif targets:
            name = f"{route.origin}/{route.name}" if route.name else str(route.origin)
            routes.append(ResolvedRoute(name, matches, tuple(target for target, _, _ in targets)))
            subsets.update((key, subset) for _, key, subset in targets if subset)
    return ResolvedPort(tuple(routes), policy.default_route, tuple(sorted(subsets)), distinct(faults))


def services_named(policy: ServicePolicy) -> tuple[ServiceKey, ...]:
    """Return the services that the policy's routes send to, in order."""
    return tuple(sorted({weighted.destination.service for route in policy.routes for weighted in route.destinations}))


def _matches(route: Route, port: int, caller: Caller) -> tuple[HttpMatch, ...]:
    """Return the conditions that remain to be looked at in each request; none: the route is not for this caller."""
    if not route.matches:
        return ALWAYS
    return tuple(m for m in route.matches if m.port in (None, port) and caller.satisfies(m.source))


def _targets(
    route: Route, port: int, known: Mapping[ServiceKey, ServiceFacts]
) -> tuple[tuple[Target, ServiceKey, ServiceSubset | None], ...] | Fault:
    found = []
    for weighted in route.destinations:
        destination = weighted.destination
        facts = known.get(destination.service)
        number = facts.destination_port(destination, port) if facts else None
        if facts is None:
            return Fault(str(route.origin), f"left out: there is no service {destination.service} in the catalog")
        if number is None:
            wanted = destination.port or port
            have = ", ".join(str(p.number) for p in facts.ports)
            return Fault(
                str(route.origin),
                f"left out for port {port}: {destination.service} has no port {wanted} (it has {have})",
            )
        if weighted.weight > 0:
            subset = ServiceSubset(number, destination.subset) if destination.subset else None
            target = Target(outbound_cluster(destination.service, number, destination.subset), weighted.weight)
            found.append((target, destination.service, subset))
    if not found:
        return Fault(str(route.origin), "left out: no destination has a weight above 0")
    return tuple(found)
