"""Rule documents of both generations to one ServicePolicy per service. Pure: the result depends on the arguments alone.

RouteRules of a service stand in order of precedence, then name; a service with a VirtualService follows that one alone.
A document that cannot be used is left out and reported; it never takes another one with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Generic, TypeVar

from msgspec import Struct, structs

from agent.api.enforce import enforceable
from agent.api.envelope import Document
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.delegation import Delegates, is_delegate, named_delegates
from agent.api.lowering.destinations import lower_destination_policy, lower_destination_rule, united
from agent.api.lowering.gateway import bound_gateways, is_for_mesh, lower_gateway
from agent.api.lowering.ingress import lower_front, lower_ways, ways
from agent.api.lowering.istio_service import Unresolved
from agent.api.lowering.outside import declared_services, outside_services
from agent.api.lowering.route_rule import LoweredRule, lower_route_rule
from agent.api.lowering.sidecar import lower_sidecar
from agent.api.lowering.targets import Subsets
from agent.api.lowering.virtual_service import LoweredRoutes, declared_subsets, lower_virtual_service
from agent.mesh.gateway import BoundRoutes, Ingress, ServerKind
from agent.mesh.routes import Fault, ObjectRef, PolicyRule, ServicePolicy, Subset
from agent.mesh.service import Service, ServiceKey
from agent.mesh.sidecar import Sidecar

T = TypeVar("T")
_MAX_REASONS = 5
"""Faults of one document."""


class Lowered(Struct, frozen=True):
    """What all the rules say."""

    policies: Mapping[ServiceKey, ServicePolicy]
    """Only of services that a rule is about; any other has ServicePolicy.empty()."""
    faults: tuple[Fault, ...]
    outside: Mapping[ServiceKey, Service] = {}
    """The services that rules declare, beside the catalog's."""
    ingress: Ingress = Ingress()
    sidecars: tuple[Sidecar, ...] = ()
    """In order of namespace and name."""


def lower(documents: Iterable[Document], services: Collection[ServiceKey]) -> Lowered:
    """Return what the documents mean for the services of the catalog."""
    return Lowerer().lower(documents, services)


class Lowerer:
    """Lowers again and again, and quickly: it remembers per document what came of it (a memo, nothing else)."""

    def __init__(self) -> None:
        self._registered = Catalog(())
        self._catalog = Catalog(())
        self._outside: Mapping[ServiceKey, Service] = {}
        self._subsets: Subsets = {}
        self._delegates: Delegates = {}
        self._memos: dict[int, _Memo] = {}
        self._policies: Mapping[ServiceKey, ServicePolicy] = {}
        self._ingress = Ingress()
        self._sidecars: tuple[Sidecar, ...] = ()
        self._workload_entries: tuple[Document, ...] = ()

    def lower(self, documents: Iterable[Document], services: Collection[ServiceKey]) -> Lowered:
        """Return what the documents mean for the services of the catalog; each document's name is given once."""
        if self._registered.services != frozenset(services):
            self._registered = Catalog(services)
        # A memo holds its document, so no other one can have got its id meanwhile.
        self._memos = {id(document): self._memos.get(id(document)) or _Memo(document) for document in documents}
        faults: list[Fault] = []
        by_kind: dict[str, list[_Memo]] = {}
        for memo in self._memos.values():
            faults += memo.faults
            if memo.is_usable:
                by_kind.setdefault(memo.document.kind, []).append(memo)
        self._workload_entries = _kept(
            self._workload_entries, tuple(memo.document for memo in _ordered(by_kind.get("WorkloadEntry", ())))
        )
        self._update_outside(_ordered([*by_kind.get("EgressRule", ()), *by_kind.get("ServiceEntry", ())]), faults)
        self._update_subsets(_ordered(by_kind.get("DestinationRule", ())), faults)
        by_kind["VirtualService"] = self._without_delegates(by_kind.get("VirtualService", ()))
        policies = self._virtual_services(_ordered(by_kind["VirtualService"]), faults)
        self._add_route_rules(by_kind.get("RouteRule", ()), policies, faults)
        self._add_connections(
            _ordered([*by_kind.get("DestinationPolicy", ()), *by_kind.get("DestinationRule", ())]), policies, faults
        )
        self._policies = {service: self._same(service, policy) for service, policy in sorted(policies.items())}
        ingress = self._lower_gateways(by_kind, faults)
        self._ingress = ingress if ingress != self._ingress else self._ingress
        self._sidecars = _kept(self._sidecars, tuple(memo.sidecar for memo in _ordered(by_kind.get("Sidecar", ()))))
        return Lowered(self._policies, tuple(sorted(set(faults))), self._outside, self._ingress, self._sidecars)

    def _same(self, service: ServiceKey, policy: ServicePolicy) -> ServicePolicy:
        """Return the policy object of last time if it is equal: whoever compares it next is done at once."""
        before = self._policies.get(service)
        return before if before == policy else policy

    def _update_outside(self, memos: Iterable[_Memo], faults: list[Fault]) -> None:
        """Add the services that rules declare to those of the catalog."""
        declared = ((memo.document, memo.declared(self._workload_entries)) for memo in memos)
        outside, unused = outside_services(declared, self._registered)
        faults += unused
        if outside != self._outside:
            self._outside = outside
        if self._catalog.services != self._registered.services | outside.keys():
            self._catalog = Catalog(self._registered.services | outside.keys())

    def _update_subsets(self, rules: Iterable[_Memo], faults: list[Fault]) -> None:
        """Unite the subsets of all DestinationRules of a service; of two by one name the first in name order stays."""
        subsets: dict[ServiceKey, dict[str, Subset]] = {}
        for memo in rules:
            host = memo.document.spec["host"]
            service = self._catalog.resolve(host, memo.document.namespace)
            if service is None:
                faults.append(Fault(str(memo.document.ref), f"service {host} is not in the catalog"))
                continue
            declared = subsets.setdefault(service, {})
            for subset in memo.subsets:
                if declared.setdefault(subset.name, subset) != subset:
                    reason = f"another DestinationRule of {service} declares the subset {subset.name} too, and is used"
                    faults.append(Fault(str(memo.document.ref), reason))
        if subsets != self._subsets:
            self._subsets = subsets

    def _without_delegates(self, services: Iterable[_Memo]) -> list[_Memo]:
        """Return the VirtualServices with hosts, and remember the others for these to name."""
        self._delegates = {memo.document.ref: memo.document for memo in services if is_delegate(memo.document)}
        return [memo for memo in services if not is_delegate(memo.document)]

    def _virtual_services(self, services: Iterable[_Memo], faults: list[Fault]) -> dict[ServiceKey, ServicePolicy]:
        policies: dict[ServiceKey, ServicePolicy] = {}
        owners: dict[ServiceKey, Document] = {}
        for memo in services:
            document = memo.document
            if not is_for_mesh(document):
                continue
            lowered = memo.routes(self._catalog, self._subsets, self._delegates)[None]
            faults += lowered.faults
            if not lowered.all_routes:  # each of them is for gateways only
                continue
            for host in document.spec["hosts"]:
                service = self._catalog.resolve(host, document.namespace)
                if service is None:
                    if not bound_gateways(document):  # what clients of a gateway ask for need not be a service
                        faults.append(Fault(str(document.ref), f"service {host} is not in the catalog"))
                    continue
                owner = owners.setdefault(service, document)
                if owner is document:
                    policies[service] = ServicePolicy(lowered.http, False, (), lowered.tls, lowered.tcp)
                else:
                    faults.append(Fault(str(document.ref), f"not used for {host}: {owner.ref} is about it too"))
        return policies

    def _lower_gateways(self, by_kind: Mapping[str, list[_Memo]], faults: list[Fault]) -> Ingress:
        """Return all gateways and what is bound to them."""
        gateways = [lower_gateway(memo.document) for memo in _ordered(by_kind.get("Gateway", ()))]
        bound = self._bound_routes(_ordered(by_kind.get("VirtualService", ())), faults)
        older = [memo.document for memo in _ordered([*by_kind.get("Ingress", ()), *by_kind.get("IngressRule", ())])]
        gateways += [lower_front(document) for document in older]
        leading = (way for document in older for way in ways(document))
        routed, lost = lower_ways(leading, self._catalog, self._policies)
        faults += lost
        passes = any(server.kind is ServerKind.SERVICES for gateway in gateways for server in gateway.servers)
        subsets = ((key, tuple(sorted(named.values()))) for key, named in sorted(self._subsets.items()))
        return Ingress(tuple(gateways), (*bound, *routed), tuple(subsets) if passes else ())

    def _bound_routes(self, services: Iterable[_Memo], faults: list[Fault]) -> tuple[BoundRoutes, ...]:
        """Return what VirtualServices say of requests through gateways."""
        bound = []
        for memo in services:
            for gateway, lowered in memo.routes(self._catalog, self._subsets, self._delegates).items():
                if gateway is None:
                    continue
                faults += lowered.faults
                if lowered.all_routes:
                    hosts, ref = tuple(memo.document.spec["hosts"]), memo.document.ref
                    bound.append(BoundRoutes(ref, gateway, hosts, lowered.http, lowered.tls, lowered.tcp))
        return tuple(bound)

    def _add_route_rules(
        self, rules: Iterable[_Memo], policies: dict[ServiceKey, ServicePolicy], faults: list[Fault]
    ) -> None:
        by_service: dict[ServiceKey, list[LoweredRule]] = {}
        for memo in rules:
            lowered = memo.rule(self._catalog)
            if isinstance(lowered, Fault):
                faults.append(lowered)
            elif lowered.service in policies:
                reason = f"not used: {policies[lowered.service].all_routes[0].origin} is about {lowered.service} too"
                faults.append(Fault(str(memo.document.ref), reason))
            else:
                by_service.setdefault(lowered.service, []).append(lowered)
        for service, found in by_service.items():
            found.sort(key=lambda rule: rule.order)
            routes = tuple(rule.route for rule in found)
            connections = tuple(route for route in routes if route.destinations)  # the others answer requests
            policies[service] = ServicePolicy(routes, tls=connections, tcp=connections)

    def _add_connections(
        self, memos: Iterable[_Memo], policies: dict[ServiceKey, ServicePolicy], faults: list[Fault]
    ) -> None:
        """Add what DestinationPolicies and DestinationRules say to the policies of their services."""
        rules = []
        for memo in memos:
            rule = memo.connection(self._catalog)
            if isinstance(rule, Fault):
                faults.append(rule)
            else:
                rules.append(rule)
        by_service, unused = united(rules)
        faults += unused
        for service, found in by_service.items():
            policy = policies.get(service) or ServicePolicy.empty()
            policies[service] = structs.replace(policy, connections=found)


def _ordered(memos: Iterable[_Memo]) -> list[_Memo]:
    return sorted(memos, key=lambda memo: (memo.document.namespace, memo.document.name))


def _kept(before: tuple[T, ...], now: tuple[T, ...]) -> tuple[T, ...]:
    """Return the tuple of last time if it is equal: whoever compares it next is done at once."""
    return before if before == now else now


class _Result(Generic[T]):
    """The last result of a function of immutable inputs, which are the same objects as long as they are equal."""

    def __init__(self, inputs: tuple[object, ...], value: T) -> None:
        self._inputs = inputs
        self.value = value

    def is_of(self, *inputs: object) -> bool:
        """Tell whether it is the result for these inputs."""
        return all(mine is other for mine, other in zip(self._inputs, inputs, strict=True))


_RoutesThrough = Mapping[ObjectRef | None, LoweredRoutes]
"""Gateway (None: the mesh) → its routes."""


class _Memo:
    """What came of one document."""

    def __init__(self, document: Document) -> None:
        self._given = document
        enforced = enforceable(document)
        self.document = enforced.document or document
        """What of it can be enforced."""
        self.is_usable = enforced.document is not None
        self.faults = [Fault(str(document.ref), reason) for reason in enforced.reasons[:_MAX_REASONS]]
        self.subsets: tuple[Subset, ...] = ()
        if self.is_usable and document.kind == "DestinationRule":
            self.subsets = declared_subsets(self.document)
        self._declared: _Result[tuple[Service, ...]] | None = None
        self._rule: _Result[LoweredRule | Fault] | None = None
        self._routes: _Result[_RoutesThrough] | None = None
        is_root = self.is_usable and document.kind == "VirtualService"
        self._named = named_delegates(self.document) if is_root else ()
        self._connection: _Result[tuple[ServiceKey, PolicyRule] | Fault] | None = None

    @cached_property
    def sidecar(self) -> Sidecar:
        """Return what a Sidecar says."""
        return lower_sidecar(self.document)

    def declared(self, entries: tuple[Document, ...]) -> tuple[Service, ...]:
        """Return the services that an EgressRule or a ServiceEntry declares, which may select WorkloadEntries."""
        if self._declared is None or not self._declared.is_of(entries):
            self._declared = _Result((entries,), declared_services(self.document, entries))
        return self._declared.value

    def rule(self, catalog: Catalog) -> LoweredRule | Fault:
        """Return the RouteRule's route, or why it has none."""
        if self._rule is None or not self._rule.is_of(catalog):
            self._rule = _Result((catalog,), self._lower_rule(catalog))
        return self._rule.value

    def routes(self, catalog: Catalog, subsets: Subsets, delegates: Delegates) -> _RoutesThrough:
        """Return the VirtualService's routes through each gateway (None: the mesh)."""
        inputs = (catalog, subsets, *(delegates.get(name) for name in self._named))
        if self._routes is None or not self._routes.is_of(*inputs):
            self._routes = _Result(inputs, self._lower_routes(catalog, subsets, delegates))
        return self._routes.value

    def connection(self, catalog: Catalog) -> tuple[ServiceKey, PolicyRule] | Fault:
        """Return what a DestinationPolicy or DestinationRule says of connections, or why it says nothing."""
        if self._connection is None or not self._connection.is_of(catalog):
            self._connection = _Result((catalog,), self._lower_connection(catalog))
        return self._connection.value

    def _lower_connection(self, catalog: Catalog) -> tuple[ServiceKey, PolicyRule] | Fault:
        newer = self.document.kind == "DestinationRule"
        try:
            return (lower_destination_rule if newer else lower_destination_policy)(self.document, catalog)
        except Unresolved as unresolved:
            return Fault(str(self.document.ref), str(unresolved))

    def _lower_rule(self, catalog: Catalog) -> LoweredRule | Fault:
        try:
            return lower_route_rule(self.document, catalog)
        except Unresolved as unresolved:
            return Fault(str(self.document.ref), str(unresolved))

    def _lower_routes(self, catalog: Catalog, subsets: Subsets, delegates: Delegates) -> _RoutesThrough:
        document = self.document
        through = (*((None,) if is_for_mesh(document) else ()), *bound_gateways(document))
        return {gateway: lower_virtual_service(document, catalog, subsets, gateway, delegates) for gateway in through}
