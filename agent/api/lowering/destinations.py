"""DestinationPolicies and DestinationRules to the PolicyRules of each service. Pure.

DestinationRules of one namespace about one service, and for the same callers, are united (subsets of all, the first
trafficPolicy by name). Which rule a caller follows is decided at planning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from agent.api.envelope import Document
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.exported import exported_to
from agent.api.lowering.istio_service import Unresolved, resolve_service, source_match
from agent.api.lowering.traffic_policy import simple_policy, traffic_scope
from agent.mesh.names import host_breadth
from agent.mesh.routes import Fault, ObjectRef, PolicyRule, SourceMatch
from agent.mesh.service import ServiceKey, labels_of
from agent.mesh.traffic_policy import Scope, TrafficPolicy

Rules = Mapping[ServiceKey, tuple[PolicyRule, ...]]


def lower_destination_policy(document: Document, catalog: Catalog) -> tuple[ServiceKey, PolicyRule]:
    """Return the service that a DestinationPolicy is about and what it says; raises Unresolved."""
    spec, namespace = document.spec, document.namespace
    service = resolve_service(spec["destination"], namespace, catalog)
    scope = Scope(simple_policy(spec), labels=labels_of(spec["destination"].get("labels") or {}))
    source = spec.get("source")
    callers = source_match(source, namespace, catalog) if source else None
    return service, PolicyRule(document.ref, (scope,), callers)


def lower_destination_rule(document: Document, catalog: Catalog) -> tuple[tuple[ServiceKey, ...], PolicyRule]:
    """Return the services that a DestinationRule is about and what it says; raises Unresolved."""
    spec = document.spec
    services = catalog.meant(spec["host"], document.namespace)
    if not services:
        raise Unresolved(f"service {spec['host']} is not in the catalog")
    scopes = (
        traffic_scope(spec.get("trafficPolicy")),
        *(
            traffic_scope(subset.get("trafficPolicy"), subset["name"], labels_of(subset.get("labels") or {}))
            for subset in spec.get("subsets") or ()
        ),
    )
    breadth = host_breadth(spec["host"])
    return services, PolicyRule(document.ref, scopes, _callers(document), exported_to(document), breadth)


def united(rules: Iterable[tuple[ServiceKey, PolicyRule]]) -> tuple[Rules, list[Fault]]:
    """Return the rules of each service, most specific callers first; `rules` come in order of namespace and name.

    A service with a DestinationRule that says how to connect follows no DestinationPolicy.
    """
    faults: list[Fault] = []
    by_service: dict[ServiceKey, list[PolicyRule]] = {}
    for service, rule in rules:
        by_service.setdefault(service, []).append(rule)
    return {service: _of_service(service, found, faults) for service, found in by_service.items()}, faults


class _Named(Protocol):
    """What an object says of a service that it names by a host."""

    @property
    def origin(self) -> ObjectRef: ...

    @property
    def breadth(self) -> int: ...


_N = TypeVar("_N", bound=_Named)


def narrowest(rules: Iterable[_N]) -> list[_N]:
    """Return in each namespace those with the most specific host: they stand in the place of the wider ones."""
    rules = list(rules)
    least: dict[str, int] = {}
    for rule in rules:
        least[rule.origin.namespace] = min(rule.breadth, least.get(rule.origin.namespace, rule.breadth))
    return [rule for rule in rules if rule.breadth == least[rule.origin.namespace]]


def _of_service(service: ServiceKey, rules: list[PolicyRule], faults: list[Fault]) -> tuple[PolicyRule, ...]:
    newer: dict[tuple[str, SourceMatch | None], PolicyRule] = {}
    for rule in narrowest(rule for rule in rules if not rule.first_generation):
        group = (rule.origin.namespace, rule.callers)
        newer[group] = _with(newer[group], rule, service, faults) if group in newer else rule
    speaking = next((rule for rule in newer.values() if _says(rule)), None)
    older = [rule for rule in rules if rule.first_generation]
    if speaking:
        faults += [Fault(str(rule.origin), f"not used: {speaking.origin} is about {service} too") for rule in older]
        older = []
    # Without callers of their own last; a rule for labelled callers before one for a whole namespace.
    return (*sorted(newer.values(), key=_breadth), *sorted(older, key=_breadth))


def _breadth(rule: PolicyRule) -> tuple[int, bool, int, int, str, str]:
    """Sort narrow rules before wide ones, then by name."""
    callers = rule.callers
    labels = len(callers.labels) if callers else 0
    return rule.breadth, callers is None, -labels, -len(rule.scopes[0].labels), rule.origin.name, rule.origin.namespace


def _with(first: PolicyRule, other: PolicyRule, service: ServiceKey, faults: list[Fault]) -> PolicyRule:
    """Return the first rule with what the other one adds."""
    whole, *subsets = first.scopes
    if _speaks(other.scopes[0]):
        if _speaks(whole):
            faults.append(Fault(str(other.origin), f"its trafficPolicy is not used: {first.origin} has one too"))
        else:
            whole = other.scopes[0]
    known = {scope.subset for scope in subsets}
    subsets += [scope for scope in other.scopes[1:] if scope.subset not in known]
    exported = _wider(first.exported_to, other.exported_to)
    return PolicyRule(first.origin, (whole, *subsets), first.callers, exported, first.breadth)


def _wider(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*one, *other})) if one and other else ()


def _says(rule: PolicyRule) -> bool:
    return any(_speaks(scope) for scope in rule.scopes)


def _speaks(scope: Scope) -> bool:
    return bool(scope.ports) or scope.policy != TrafficPolicy.empty()


def _callers(document: Document) -> SourceMatch | None:
    selector = document.spec.get("workloadSelector")
    if selector is None:
        return None
    return SourceMatch(None, document.namespace, labels_of(selector.get("matchLabels") or {}))
