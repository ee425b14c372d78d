"""What all rules about one service come to together: its ServicePolicy, its subsets. Pure.

A service with a VirtualService follows that one alone, the one with the most specific host, then the first by namespace
and name; its RouteRules stand in order of precedence, then name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from agent.api.lowering.destinations import narrowest, united
from agent.api.lowering.route_rule import LoweredRule
from agent.api.lowering.virtual_service import LoweredRoutes
from agent.mesh.names import host_breadth
from agent.mesh.routes import Fault, ObjectRef, PolicyRule, ServicePolicy, Subset
from agent.mesh.service import ServiceKey


class RoutedHosts(Struct, frozen=True):
    """A VirtualService about a service, and by which of its hosts."""

    origin: ObjectRef
    hosts: tuple[str, ...]
    routes: LoweredRoutes
    exported_to: tuple[str, ...] = ()
    """Namespaces whose callers it is for; () means all."""

    @property
    def breadth(self) -> int:
        """Return that of its most specific host."""
        return min(host_breadth(host) for host in self.hosts)


ServiceRule = RoutedHosts | LoweredRule | PolicyRule
"""What one document says of one service."""


class Outcome(Struct, frozen=True):
    """The policy of a service, and which rules about it are not used."""

    policy: ServicePolicy
    faults: tuple[Fault, ...]


def service_outcome(service: ServiceKey, rules: Iterable[ServiceRule]) -> Outcome:
    """Return what these rules come to, in whatever order they are given."""
    routed, older, connections = list[RoutedHosts](), list[LoweredRule](), list[PolicyRule]()
    for rule in rules:
        if isinstance(rule, RoutedHosts):
            routed.append(rule)
        elif isinstance(rule, LoweredRule):
            older.append(rule)
        else:
            connections.append(rule)
    policy, faults = _routed(service, routed, older) if routed else (_ruled(older), [])
    connections.sort(key=lambda rule: (rule.origin.namespace, rule.origin.name, rule.origin.kind))
    by_service, unused = united((service, rule) for rule in connections)
    if connections:
        policy = structs.replace(policy, connections=by_service[service])
    return Outcome(policy, (*faults, *unused))


def _routed(
    service: ServiceKey, routed: list[RoutedHosts], older: list[LoweredRule]
) -> tuple[ServicePolicy, list[Fault]]:
    routed.sort(key=lambda rule: (rule.breadth, rule.origin.namespace, rule.origin.name))
    owners: list[RoutedHosts] = []
    faults = []
    for rule in routed:
        owner = next((one for one in owners if _has_all_callers(one, rule)), None)
        if owner is None:
            owners.append(rule)
        elif owner.breadth == rule.breadth:  # a wider one is for what narrower ones leave
            reasons = (f"not used for {host}: {owner.origin} is about it too" for host in rule.hosts)
            faults += [Fault(str(rule.origin), reason) for reason in reasons]
    *_, last = owners
    if not last.exported_to:
        reason = f"not used: {last.origin} is about {service} too"
        faults += [Fault(str(rule.route.origin), reason) for rule in older]
    policy = _ruled(older)
    for rule in reversed(owners):
        routes, others = rule.routes, policy if rule.exported_to else None
        wide = rule.breadth > 0
        policy = ServicePolicy(routes.http, False, (), routes.tls, routes.tcp, wide, rule.exported_to, others)
    return policy, faults


def _has_all_callers(one: RoutedHosts, other: RoutedHosts) -> bool:
    """Tell whether the callers that the other one is for all follow this one."""
    return not one.exported_to or (bool(other.exported_to) and set(other.exported_to) <= set(one.exported_to))


def _ruled(rules: list[LoweredRule]) -> ServicePolicy:
    if not rules:
        return ServicePolicy.empty()
    routes = tuple(rule.route for rule in sorted(rules, key=lambda rule: rule.order))
    connections = tuple(route for route in routes if route.destinations)  # the others answer requests
    return ServicePolicy(routes, tls=connections, tcp=connections)


class DeclaredSubsets(Struct, frozen=True):
    """The subsets that a DestinationRule declares."""

    origin: ObjectRef
    subsets: tuple[Subset, ...]
    breadth: int = 0
    """Of the host that it names."""


class SubsetOutcome(Struct, frozen=True):
    """The subsets of a service by name, and which are not used."""

    subsets: Mapping[str, Subset]
    faults: tuple[Fault, ...]


def service_subsets(service: ServiceKey, rules: Iterable[DeclaredSubsets]) -> SubsetOutcome:
    """Unite the subsets of all DestinationRules of a service; of two by one name the first in name order stays."""
    subsets: dict[str, Subset] = {}
    faults = []
    for rule in sorted(narrowest(rules), key=lambda rule: (rule.origin.namespace, rule.origin.name)):
        for subset in rule.subsets:
            if subsets.setdefault(subset.name, subset) != subset:
                reason = f"another DestinationRule of {service} declares the subset {subset.name} too, and is used"
                faults.append(Fault(str(rule.origin), reason))
    return SubsetOutcome(subsets, tuple(faults))
