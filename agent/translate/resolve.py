"""Decides for one service port which of its rules this host follows and which clusters they mean. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from agent.mesh.actions import LOST, Headers, HttpActions
from agent.mesh.names import outbound_cluster
from agent.mesh.routes import ConnectionMatch, Destination, Fault, HttpMatch, Route, ServicePolicy
from agent.mesh.service import Port, Protocol, ServiceKey
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
    """A rule as this host follows it: any of the matches (never none) leads to the targets, or to `actions.answer`.

    Connections without targets are closed.
    """

    name: str
    matches: tuple[HttpMatch, ...]
    targets: tuple[Target, ...]
    actions: HttpActions = HttpActions()
    shadows: tuple[Shadow, ...] = ()

    @property
    def clusters(self) -> tuple[str, ...]:
        """Return every cluster that it sends to."""
        return (*(target.cluster for target in self.targets), *(shadow.cluster for shadow in self.shadows))


class ResolvedPort(Struct, frozen=True):
    """A service port's routes in order, and what they need to exist."""

    routes: tuple[ResolvedRoute, ...]
    default_route: bool
    subsets: tuple[tuple[ServiceKey, ServiceSubset], ...] = ()
    faults: tuple[Fault, ...] = ()
    requests: ResolvedPort | None = None
    """Where HTTP is detected: what requests do. The rest is for other connections then."""

    @property
    def all_routes(self) -> tuple[ResolvedRoute, ...]:
        """Return the routes of connections and of requests."""
        return (*self.routes, *(self.requests.routes if self.requests else ()))


def unruled(port: Port) -> ResolvedPort:
    """Return what a port does that no rule is about."""
    plain = ResolvedPort((), True)
    return structs.replace(plain, requests=plain) if port.protocol is Protocol.AUTO else plain


def resolve_ports(
    policy: ServicePolicy, ports: Iterable[Port], caller: Caller, known: Iterable[ServiceFacts]
) -> tuple[tuple[Port, ResolvedPort], ...]:
    """Return what this caller's traffic to each port does; `known` has at least the services that the policy names."""
    by_key = {facts.key: facts for facts in known}
    return tuple((port, resolve_port(policy, port, caller, by_key)) for port in ports)


def resolve_port(
    policy: ServicePolicy, port: Port, caller: Caller, known: Mapping[ServiceKey, ServiceFacts]
) -> ResolvedPort:
    """Return what this caller's traffic to the port does: HTTP by requests, TLS and TCP by whole connections.

    Where HTTP is detected, both.
    """
    if port.protocol.may_be_http:
        requests = resolve_requests(policy.routes, port.number, caller, known)
        # Routes that are all for other callers, ports or gateways say nothing about this one, as in Istio.
        requests = structs.replace(requests, default_route=policy.default_route or not requests.routes)
        if port.protocol.is_http:
            return requests
        connections = resolve_connections(policy.tcp, port.number, caller, known)
        return structs.replace(
            connections,
            default_route=True,
            subsets=tuple(sorted({*connections.subsets, *requests.subsets})),
            faults=distinct((*connections.faults, *requests.faults)),
            requests=requests,
        )
    is_tls = port.protocol in (Protocol.TLS, Protocol.HTTPS)
    resolved = resolve_connections(policy.tls if is_tls else policy.tcp, port.number, caller, known)
    if is_tls and resolved.routes and not policy.default_route:
        return resolved  # a server name that no route is for gets no connection
    return structs.replace(resolved, default_route=True)


def resolve_requests(
    routes: Iterable[Route], port: int, caller: Caller, known: Mapping[ServiceKey, ServiceFacts]
) -> ResolvedPort:
    """Return what routes of requests do for this caller on a port; matches that look at connections never hold."""
    return _resolve(((route, _matches(route, port, caller)) for route in routes), port, known)


def resolve_connections(
    routes: Iterable[Route], port: int, caller: Caller, known: Mapping[ServiceKey, ServiceFacts]
) -> ResolvedPort:
    """Return what routes of connections do for this caller on a port; matches that look at requests never hold."""
    return _resolve(((route, _connection_matches(route, port, caller)) for route in routes), port, known)


def _resolve(
    routes: Iterable[tuple[Route, tuple[HttpMatch, ...]]], port: int, known: Mapping[ServiceKey, ServiceFacts]
) -> ResolvedPort:
    """Resolve routes with what remains of their matches; destinations that are not there are reported instead."""
    found: list[ResolvedRoute] = []
    subsets: set[tuple[ServiceKey, ServiceSubset]] = set()
    faults: list[Fault] = []
    for route, matches in routes:
        if not matches:
            continue
        clusters, missing = _clusters(route, port, known)
        faults += missing
        resolved = _resolved(route, matches, clusters)
        found.append(resolved)
        subsets.update(
            (destination.service, ServiceSubset(number, destination.subset))
            for destination, (cluster, number) in clusters.items()
            if destination.subset and cluster in resolved.clusters
        )
    return ResolvedPort(tuple(found), False, tuple(sorted(subsets)), distinct(faults))


def services_named(policy: ServicePolicy) -> tuple[ServiceKey, ...]:
    """Return the services that the policy's routes send to, in order."""
    return tuple(sorted({destination.service for route in policy.all_routes for destination in route.all_destinations}))


def _matches(route: Route, port: int, caller: Caller) -> tuple[HttpMatch, ...]:
    """Return the conditions that remain to be looked at in each request; none: the route is not for this caller."""
    if not route.matches:
        return ALWAYS
    return tuple(m for m in route.matches if m.port in (None, port) and caller.satisfies(m.source) and not m.is_layer4)


def _connection_matches(route: Route, port: int, caller: Caller) -> tuple[HttpMatch, ...]:
    """Return the conditions that remain to be looked at in each connection; none: the route is not for this caller."""
    if not route.matches:
        return ALWAYS
    return tuple(
        structs.replace(m, connection=remaining)
        for m in route.matches
        if m.port in (None, port) and caller.satisfies(m.source) and not m.is_layer7
        if (remaining := _of_caller(m.connection, caller)) is not None
    )


def _of_caller(match: ConnectionMatch, caller: Caller) -> ConnectionMatch | None:
    """Decide where a connection comes from, if that is known: from this host, whatever address an application took."""
    if not match.sources or caller.address is None:
        return match
    return structs.replace(match, sources=()) if caller.is_within(match.sources) else None


_Clusters = Mapping[Destination, tuple[str, int]]
"""Destination → cluster and port number."""


def _resolved(route: Route, matches: tuple[HttpMatch, ...], clusters: _Clusters) -> ResolvedRoute:
    """Return the route with the destinations that are there.

    If none is, it answers 503 and closes connections, as in Istio: without it, they would go where the next one leads.
    """
    name = f"{route.origin}/{route.name}" if route.name else str(route.origin)
    targets = tuple(
        Target(clusters[weighted.destination][0], weighted.weight, weighted.headers)
        for weighted in route.destinations
        if weighted.weight > 0 and weighted.destination in clusters
    )
    if not targets and route.actions.answer is None:
        return ResolvedRoute(name, matches, (), LOST)
    shadows = (
        Shadow(clusters[mirror.destination][0], mirror.percent)
        for mirror in route.mirrors
        if mirror.destination in clusters
    )
    return ResolvedRoute(name, matches, targets, route.actions, tuple(shadows))


def _clusters(route: Route, port: int, known: Mapping[ServiceKey, ServiceFacts]) -> tuple[_Clusters, tuple[Fault, ...]]:
    """Return the destinations that are there, and a fault for each other one."""
    found, missing = dict[Destination, tuple[str, int]](), []
    for destination in route.all_destinations:
        facts = known.get(destination.service)
        number = facts.destination_port(destination, port) if facts else None
        if facts is None:
            missing.append(f"there is no service {destination.service} in the catalog")
        elif number is None:
            wanted = destination.port_name or destination.port or port
            have = ", ".join(str(p.number) for p in facts.ports)
            missing.append(f"for port {port}: {destination.service} has no port {wanted} (it has {have})")
        else:
            found[destination] = outbound_cluster(destination.service, number, destination.subset), number
    return found, tuple(Fault(str(route.origin), reason) for reason in missing)
