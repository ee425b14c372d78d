"""Decides for one service port which of its rules this host follows and which clusters they mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.mesh.actions import Headers, HttpActions
from agent.mesh.names import outbound_cluster
from agent.mesh.routes import Destination, Fault, HttpMatch, Route, ServicePolicy
from agent.mesh.service import ServiceKey
from agent.translate.facts import Caller, ServiceFacts, ServiceSubset, distinct

ALWAYS = (HttpMatch(),)


class Target(Struct, frozen=True):
    """A cluster and its share of a route's traffic."""

    cluster: str
    weight: int
    headers: Headers = Headers()


class Shadow(Struct, frozen=True):
    """A cluster that gets a copy of a share of a route's requests."""

    cluster: str
    percent: float


class ResolvedRoute(Struct, frozen=True):
    """A rule as this host follows it: any of the matches (never none) leads to the targets, or to `actions.answer`."""

    name: str
    matches: tuple[HttpMatch, ...]
    targets: tuple[Target, ...]
    actions: HttpActions = HttpActions()
    shadows: tuple[Shadow, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        """Return every cluster that it sends to."""
        return (*(target.cluster for target in self.targets), *(shadow.cluster for shadow in self.shadows))

    @property
    def holds_for_connections(self) -> bool:
        """Tell whether it needs no look at requests and sends somewhere, so that it is for TCP too."""
        return bool(self.targets) and not all(match.is_layer7 for match in self.matches)


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
        if not matches:
            continue
        clusters = _clusters(route, port, known)
        if isinstance(clusters, Fault):
            faults.append(clusters)
            continue
        routes.append(_resolved(route, matches, clusters))
        used = {w.destination for w in route.destinations if w.weight > 0} | {m.destination for m in route.mirrors}
        subsets.update(
            (destination.service, ServiceSubset(number, destination.subset))
            for destination, (_, number) in clusters.items()
            if destination.subset and destination in used
        )
    return ResolvedPort(tuple(routes), policy.default_route, tuple(sorted(subsets)), distinct(faults))


def services_named(policy: ServicePolicy) -> tuple[ServiceKey, ...]:
    """Return the services that the policy's routes send to, in order."""
    return tuple(sorted({destination.service for route in policy.routes for destination in route.all_destinations}))


def _matches(route: Route, port: int, caller: Caller) -> tuple[HttpMatch, ...]:
    """Return the conditions that remain to be looked at in each request; none: the route is not for this caller."""
    if not route.matches:
        return ALWAYS
    return tuple(m for m in route.matches if m.port in (None, port) and caller.satisfies(m.source))


_Clusters = Mapping[Destination, tuple[str, int]]
"""Destination → cluster and port number."""


def _resolved(route: Route, matches: tuple[HttpMatch, ...], clusters: _Clusters) -> ResolvedRoute:
    return ResolvedRoute(
        f"{route.origin}/{route.name}" if route.name else str(route.origin),
        matches,
        tuple(
            Target(clusters[weighted.destination][0], weighted.weight, weighted.headers)
            for weighted in route.destinations
            if weighted.weight > 0
        ),
        route.actions,
        tuple(Shadow(clusters[mirror.destination][0], mirror.percent) for mirror in route.mirrors),
    )


def _clusters(route: Route, port: int, known: Mapping[ServiceKey, ServiceFacts]) -> _Clusters | Fault:
    found = {}
    for destination in route.all_destinations:
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
        found[destination] = outbound_cluster(destination.service, number, destination.subset), number
    if route.actions.answer is None and not any(weighted.weight > 0 for weighted in route.destinations):
        return Fault(str(route.origin), "left out: no destination has a weight above 0")
    return found
