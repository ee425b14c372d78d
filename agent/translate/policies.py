"""Decides how this host's caller connects to a service: which rules are for it, and what they come to. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct, structs

from agent.mesh.names import outbound_cluster
from agent.mesh.routes import PolicyRule, ServicePolicy, Subset
from agent.mesh.service import Port, ServiceKey
from agent.mesh.traffic_policy import (
    Algorithm,
    HashKey,
    LoadBalancer,
    LocalityPolicy,
    Scope,
    TlsMode,
    TrafficPolicy,
    Tunnel,
)
from agent.translate.facts import Caller, ServiceSubset
from agent.translate.locality import SOMEWHERE, Place

_OLD_KINDS = frozenset({"RouteRule", "DestinationPolicy"})


_UNSAID = {algorithm: TrafficPolicy(load_balancer=LoadBalancer(algorithm)) for algorithm in Algorithm}


class Approach(Struct, frozen=True):
    """What of a cluster's policy is not the cluster's: routes and TCP listeners do it on the way there."""

    hash: HashKey | None = None
    idle_timeout: float | None = None
    max_duration: float | None = None
    tunnel: Tunnel | None = None
    foreign_tls: bool = False
    """The TLS is not the mesh's."""

    @classmethod
    def empty(cls) -> Approach:
        """Return the approach to a cluster that needs nothing."""
        return cls()

    @classmethod
    def from_policy(cls, policy: TrafficPolicy) -> Approach:
        """Return what the policy asks of routes and listeners."""
        chosen, pool = policy.load_balancer and policy.load_balancer.hash, policy.connections
        return cls(
            chosen.key if chosen else None,
            pool.tcp_idle_timeout if pool else None,
            pool.max_connection_duration if pool else None,
            policy.tunnel,
            policy.tls is not None and policy.tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL),
        )


class ServiceTraffic(Struct, frozen=True):
    """How a caller connects to a service; the rules are chosen, port and subset are not yet."""

    scopes: tuple[Scope, ...]
    """The wide before the narrow."""
    algorithm: Algorithm
    """For clusters that no rule says one for."""
    prefers_near: bool = False
    """Outlier detection makes near instances preferred, as a DestinationRule's does."""
    place: Place = SOMEWHERE
    """Where the caller is, if something depends on it."""

    @classmethod
    def from_policy(cls, key: ServiceKey, policy: ServicePolicy | None, caller: Caller, place: Place) -> ServiceTraffic:
        """Return what the service's rules mean to this caller."""
        if policy is None:
            return cls.unsaid()
        rules = followed(key, policy.connections, caller)
        scopes = tuple(scope for rule in rules for scope in rule.scopes)
        newer = any(not rule.first_generation for rule in rules)
        return cls(scopes, _default_algorithm(policy), newer, place if newer else SOMEWHERE)

    @classmethod
    def unsaid(cls) -> ServiceTraffic:
        """Return how a service is connected to that no rule is about."""
        return cls((), Algorithm.LEAST_REQUEST)

    def of(self, port: int, subset: Subset | None) -> TrafficPolicy:
        """Return the policy of a cluster, its load balancing never left open."""
        if not self.scopes:
            return _UNSAID[self.algorithm]
        policy = TrafficPolicy.empty()
        name, labels = (subset.name, subset.labels) if subset else ("", ())
        for scope in self.scopes:
            if scope.covers(name, labels):
                policy = scope.over(policy, port)
        balancer = policy.load_balancer or LoadBalancer()
        if balancer.algorithm is None and balancer.hash is None:
            balancer = structs.replace(balancer, algorithm=self.algorithm)
        if balancer.locality is None and policy.outliers and self.prefers_near:
            balancer = structs.replace(balancer, locality=LocalityPolicy())
        return structs.replace(policy, load_balancer=balancer)


def followed(key: ServiceKey, rules: Iterable[PolicyRule], caller: Caller) -> tuple[PolicyRule, ...]:
    """Return the rules that this caller follows, the wide before the narrow.

    Of DestinationRules the one of the caller's own namespace, else of the service's, else of the root namespace
    (Istio's order; a rule elsewhere is for its own callers); of several there the one with the narrowest selector.
    DestinationPolicies add up.
    """
    meant = [rule for rule in rules if caller.satisfies(rule.callers) and _is_visible(rule, caller)]
    for namespace in (caller.namespace, key.namespace, caller.root_namespace):
        for rule in meant:
            # A host outside is in no namespace: whoever speaks of it first speaks for all.
            if not rule.first_generation and (rule.origin.namespace == namespace or not namespace):
                return (rule, *_older(meant))
    return _older(meant)


def approaches(
    key: ServiceKey, ports: Iterable[Port], subsets: Iterable[ServiceSubset], traffic: ServiceTraffic
) -> tuple[tuple[str, Approach], ...]:
    """Return each cluster of the service that needs something of routes or listeners."""
    if not traffic.scopes:
        return ()
    wanted: list[tuple[int, Subset | None]] = [(port.number, None) for port in ports]
    wanted += [(subset.port, subset.subset) for subset in subsets]
    found = (
        (outbound_cluster(key, port, subset), Approach.from_policy(traffic.of(port, subset))) for port, subset in wanted
    )
    return tuple((cluster, approach) for cluster, approach in found if approach != Approach.empty())


def _older(rules: Iterable[PolicyRule]) -> tuple[PolicyRule, ...]:
    return tuple(rule for rule in reversed(list(rules)) if rule.first_generation)


def _is_visible(rule: PolicyRule, caller: Caller) -> bool:
    return not rule.exported_to or caller.namespace in rule.exported_to


def _default_algorithm(policy: ServicePolicy) -> Algorithm:
    """Return round robin for a service that only rules of the first generation are about, else least request."""
    routes = (*policy.routes, *policy.tls, *policy.tcp)
    kinds = {route.origin.kind for route in routes} | {rule.origin.kind for rule in policy.connections}
    return Algorithm.ROUND_ROBIN if kinds and kinds <= _OLD_KINDS else Algorithm.LEAST_REQUEST
