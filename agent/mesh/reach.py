"""Which rules the ports of a service can follow at all: about requests where there is HTTP, else connections. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.mesh.routes import Fault, Route, ServicePolicy
from agent.mesh.service import Port, Protocol, ServiceKey


def idle_rules(key: ServiceKey, policy: ServicePolicy, ports: Iterable[Port]) -> tuple[Fault, ...]:
    """Return a fault for each rule that none of the service's ports can follow: about requests where there is TCP."""
    ports = tuple(ports)
    working = {route.origin for routes in followed_routes(policy, ports).values() for route in routes}
    if not ports or policy.by_wildcard:
        return ()  # nothing comes to it anyway, or the rule is about others
    have = ", ".join(f"{port.number} {port.protocol}" for port in ports)
    return tuple(
        Fault(str(origin), f"has no effect on {key}: it has no routes for what its ports speak ({have})")
        for origin in dict.fromkeys(route.origin for route in policy.all_routes)
        if origin not in working
    )


def followed_routes(policy: ServicePolicy, ports: Iterable[Port]) -> dict[str, tuple[Route, ...]]:
    """Return what the ports speak (`http`, `tls`, `tcp`) and the routes that are for it, in order."""
    kinds = {kind for port in ports for kind in _kinds(port)}
    able = {
        "http": tuple(route for route in policy.routes if not _looks_at_connections(route)),
        "tls": tuple(route for route in policy.tls if not _looks_at_requests(route)),
        "tcp": tuple(route for route in policy.tcp if not _looks_at_requests(route)),
    }
    return {kind: routes for kind, routes in able.items() if kind in kinds}


def _kinds(port: Port) -> tuple[str, ...]:
    if port.protocol.may_be_http:
        return ("http",) if port.protocol.is_http else ("http", "tcp")
    return ("tls",) if port.protocol in (Protocol.TLS, Protocol.HTTPS) else ("tcp",)


def _looks_at_requests(route: Route) -> bool:
    return bool(route.matches) and all(match.is_layer7 for match in route.matches)


def _looks_at_connections(route: Route) -> bool:
    return bool(route.matches) and all(match.is_layer4 for match in route.matches)
