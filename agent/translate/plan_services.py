"""What a plan makes of each service, step by step: a caller's view of it, its routes, clusters and endpoints. Pure.

Each step is a node (agent/flow): a function of one service that runs again only when something that it read changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from agent.flow.stage import Flow, Gathered, Shared, Source, Stage
from agent.mesh.authentication import PeerAuthentication
from agent.mesh.reach import idle_rules
from agent.mesh.routes import Fault, ServicePolicy
from agent.mesh.service import Port, Service, ServiceKey
from agent.mesh.settings import OutboundTrafficPolicy
from agent.mesh.snapshot import MeshSnapshot, Resource, Vip
from agent.translate.clusters import service_clusters, unusable_policies
from agent.translate.endpoints import service_endpoints, unusable_instances
from agent.translate.facts import Caller, ClientSecurity, Security, ServiceFacts, ServiceSubset
from agent.translate.locality import Place
from agent.translate.options import PlanOptions
from agent.translate.outside import usable_services
from agent.translate.policies import Approach, ServiceTraffic, approaches
from agent.translate.resolve import ResolvedPort, resolve_ports, services_named, unruled


class Made(Struct, frozen=True):
    """Resources, and what was left out of them."""

    resources: tuple[Resource, ...]
    faults: tuple[Fault, ...] = ()


class Usable(Struct, frozen=True):
    """A service that this host can have, or why it can't."""

    service: Service | None
    faults: tuple[Fault, ...] = ()


class Resolved(Struct, frozen=True):
    """The ports of a service that can be called, with what its rules mean to this host's caller."""

    ports: tuple[tuple[Port, ResolvedPort], ...]
    faults: tuple[Fault, ...] = ()

    @property
    def wanted(self) -> Mapping[ServiceKey, frozenset[ServiceSubset]]:
        """Return the subsets that its routes send to."""
        return subsets_of(found for _, port in self.ports for found in port.subsets)


_Authority = tuple[str, str]
"""Namespace and name of a PeerAuthentication."""
_Selected = tuple[str] | tuple[str, tuple[str, str]]
"""A namespace, or a label in it."""


class Inputs:
    """A snapshot as the nodes read it: by service, and what all services share."""

    def __init__(self, flow: Flow, snapshot: MeshSnapshot, options: PlanOptions) -> None:
        self.options = options
        self.services: Source[ServiceKey, Service] = Source(flow)
        self.policies: Source[ServiceKey, ServicePolicy] = Source(flow)
        self.vips: Source[ServiceKey, Vip] = Source(flow)
        self.unseen: Source[ServiceKey, bool] = Source(flow)
        """What is out of the scope: it cannot be called, but keeps the short names that it would have."""
        self.caller = Shared(flow, Caller.from_snapshot(snapshot))
        self.place = Shared(flow, Place.of_node(snapshot))
        self.security = Shared(flow, Security.from_snapshot(snapshot))
        self.outbound = Shared(flow, _for_any_service(self.security.get()))
        """Less what PeerAuthentications say: that is in `secured`, by service."""
        self._authentications: Source[_Authority, PeerAuthentication] = Source(flow)
        self.authentications: Gathered[_Selected, _Authority, PeerAuthentication] = Gathered(
            flow, self._authentications, lambda _, one: {(one.origin.namespace, *one.selector[:1]): one}
        )
        """By what they select: their namespace, and the first label of their selector."""
        self.settings = Shared(flow, snapshot.settings)
        self.sidecar = Shared(flow, snapshot.scope.sidecar)
        self.sidecars = Shared(flow, snapshot.sidecars)
        self.telemetry = Shared(flow, snapshot.telemetry)
        self.traffic_policy = Shared(flow, snapshot.outbound_traffic_policy)
        self.workloads = Shared(flow, snapshot.workloads)
        self.ingress = Shared(flow, snapshot.ingress)
        self.secrets = Shared(flow, (snapshot.certificates, snapshot.trust, snapshot.credentials))

    def set(self, snapshot: MeshSnapshot) -> None:
        """Take another snapshot."""
        self.services.set(snapshot.services)
        self.policies.set(snapshot.policies)
        self.vips.set(snapshot.vips)
        self.unseen.set(snapshot.scope.unseen)
        self.caller.set(Caller.from_snapshot(snapshot))
        self.place.set(Place.of_node(snapshot))
        self.security.set(Security.from_snapshot(snapshot))
        self.outbound.set(_for_any_service(self.security.get()))
        peers = self.security.get().peers.authentications
        self._authentications.set({(one.origin.namespace, one.origin.name): one for one in peers})
        self.settings.set(snapshot.settings)
        self.sidecar.set(snapshot.scope.sidecar)
        self.sidecars.set(snapshot.sidecars)
        self.telemetry.set(snapshot.telemetry)
        self.traffic_policy.set(snapshot.outbound_traffic_policy)
        self.workloads.set(snapshot.workloads)
        self.ingress.set(snapshot.ingress)
        self.secrets.set((snapshot.certificates, snapshot.trust, snapshot.credentials))

    @property
    def passes_unknown(self) -> bool:
        """Tell whether connections to unknown destinations go on."""
        return self.traffic_policy.get() is OutboundTrafficPolicy.ALLOW_ANY

    @property
    def counts(self) -> bool:
        """Tell whether listeners count for the default metrics."""
        return self.options.counts and self.settings.get().default_metrics


class Services:
    """The services as this host's caller knows them, and what their own rules mean to it."""

    def __init__(self, flow: Flow, inputs: Inputs) -> None:
        self._inputs = inputs
        self.usable = Stage(flow, inputs.services, self._usable)
        self.known = Stage(flow, self.usable, lambda key: self.usable[key].service)
        self.facts = Stage(flow, self.known, lambda key: ServiceFacts.from_service(self.known[key]))
        self.secured = Stage(flow, self.known, self._secure)
        self.traffic = Stage(flow, self.known, self._connect)
        # A gateway is no caller in the mesh: what it sends is decided by the routes bound to its servers.
        self.resolved = Stage(flow, self.facts if inputs.options.gateway is None else (), self._resolve)

    def named(self, keys: Iterable[ServiceKey]) -> Iterator[ServiceFacts]:
        """Yield what is known of those of these services that exist."""
        return (facts for key in keys if (facts := self.facts.get(key)) is not None)

    def _usable(self, key: ServiceKey) -> Usable:
        service, inputs = self._inputs.services[key], self._inputs
        if not key.is_outside:
            return Usable(service)
        kept, faults = usable_services({key: service}, inputs.caller.get().namespace, inputs.options)
        return Usable(kept.get(key), faults)

    def _secure(self, key: ServiceKey) -> ClientSecurity:
        """Return how connections to the service's instances are secured: what of the rules may be about them."""
        service, outbound = self.known[key], self._inputs.outbound.get()
        instances = (*service.instances, *(service.outside.endpoints if service.outside else ()))
        alike = {(one.namespace or one.service.namespace, one.labels) for one in instances}
        places: set[_Selected] = {(namespace, label) for namespace, labels in alike for label in labels}
        places |= {(outbound.peers.root,), *((namespace,) for namespace, _ in alike)}
        said = (self._inputs.authentications.get(place) or {} for place in places)
        found = {origin: one for of_place in said for origin, one in of_place.items()}
        return outbound.with_authentications(tuple(found[origin] for origin in sorted(found)))

    def _connect(self, key: ServiceKey) -> ServiceTraffic:
        """Return how this host's caller connects to the service; what is about its routes only is left out."""
        inputs = self._inputs
        return ServiceTraffic.from_policy(key, self._policy(key), inputs.caller.get(), inputs.place.get())

    def _policy(self, key: ServiceKey) -> ServicePolicy | None:
        """Return what the rules say to this host's caller."""
        policy = self._inputs.policies.get(key)
        return policy and policy.seen_from(self._inputs.caller.get().namespace)

    def _resolve(self, key: ServiceKey) -> Resolved | None:
        """Return each port of the service with what its rules mean for this host's caller."""
        if self._inputs.unseen.get(key):
            return None
        policy, facts = self._policy(key), self.facts[key]
        if policy is None or not policy.has_routes:
            return self._in_scope(facts, tuple((port, unruled(port)) for port in facts.ports), ())
        known = tuple(self.named(services_named(policy)))
        ports = resolve_ports(policy, facts.ports, self._inputs.caller.get(), known)
        faults = (fault for _, port in ports for fault in port.faults)
        return self._in_scope(facts, ports, (*faults, *idle_rules(key, policy, facts.ports)))

    def _in_scope(
        self, facts: ServiceFacts, ports: tuple[tuple[Port, ResolvedPort], ...], faults: tuple[Fault, ...]
    ) -> Resolved:
        """Keep the ports that this host's applications may call."""
        sidecar = self._inputs.sidecar.get()
        if sidecar is not None and sidecar.egress:
            callable_ports = sidecar.ports_of(facts)
            ports = tuple((port, rules) for port, rules in ports if port in callable_ports)
        return Resolved(ports, faults)


_Subsets = Gathered[ServiceKey, Any, frozenset[ServiceSubset]]
"""Service → who wants it → the subsets wanted."""


class Destinations:
    """The clusters of services, their endpoints, and what routes and listeners must do on the way to them."""

    def __init__(self, flow: Flow, inputs: Inputs, services: Services, subsets: _Subsets) -> None:
        self._inputs, self._services = inputs, services
        nothing = frozenset[ServiceSubset]()
        self._wanted = Stage(flow, subsets, lambda key: tuple(sorted(nothing.union(*subsets[key].values()))))
        self.clusters = Stage(flow, services.facts, self._clusters)
        self.endpoints = Stage(flow, services.known, self._endpoints)
        self._approaches = Stage(flow, services.facts, self._approaches_to)
        self._by_cluster: Gathered[str, ServiceKey, Approach] = Gathered(
            flow, self._approaches, lambda _, found: dict(found)
        )

    def approaches_of(self, clusters: Iterable[str]) -> tuple[tuple[str, Approach], ...]:
        """Return what these clusters need of the routes or the listener that lead to them."""
        found = ((name, self._by_cluster.get(name)) for name in sorted(set(clusters)))
        return tuple((name, approach) for name, by in found if by for approach in list(by.values())[-1:])

    def _clusters(self, key: ServiceKey) -> Made:
        facts, wanted, traffic = self._services.facts[key], self._wanted.get(key) or (), self._services.traffic[key]
        outbound = self._services.secured[key]
        upstreams = self._inputs.options.dns_upstreams if facts.outside else ()
        made = service_clusters(facts, wanted, outbound, traffic, upstreams)
        return Made(made, unusable_policies(facts, wanted, outbound, traffic) if traffic.scopes else ())

    def _endpoints(self, key: ServiceKey) -> Made:
        service, facts, secured = self._services.known[key], self._services.facts[key], self._services.secured[key]
        wanted, traffic = self._wanted.get(key) or (), self._services.traffic[key]
        warnings = self._inputs.settings.get().warning_instances
        made = service_endpoints(service, facts, wanted, secured, traffic, warnings)
        return Made(made, unusable_instances(service))

    def _approaches_to(self, key: ServiceKey) -> tuple[tuple[str, Approach], ...] | None:
        facts, wanted, traffic = self._services.facts[key], self._wanted.get(key) or (), self._services.traffic[key]
        return approaches(key, facts.ports, wanted, traffic) or None


def _for_any_service(security: Security) -> ClientSecurity:
    return security.outbound.with_authentications(())


def subsets_of(found: Iterable[tuple[ServiceKey, ServiceSubset]]) -> dict[ServiceKey, frozenset[ServiceSubset]]:
    """Return subsets by service."""
    wanted: dict[ServiceKey, set[ServiceSubset]] = {}
    for key, subset in found:
        wanted.setdefault(key, set()).add(subset)
    return {key: frozenset(subsets) for key, subsets in wanted.items()}
