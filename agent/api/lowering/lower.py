"""Rule documents of both generations to one ServicePolicy per service. Pure: the result depends on the arguments alone.

A document that cannot be used is left out and reported; it never takes another one with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from msgspec import Struct

from agent.api.enforce import enforceable
from agent.api.envelope import Document
from agent.api.lowering.catalog import LiveCatalog
from agent.api.lowering.delegation import is_delegate
from agent.api.lowering.destinations import lower_destination_policy, lower_destination_rule
from agent.api.lowering.exported import exported_to
from agent.api.lowering.gateway import bound_gateways, is_for_mesh, lower_gateway
from agent.api.lowering.in_order import ALL, in_order, united
from agent.api.lowering.ingress import lower_front, lower_ways, ways
from agent.api.lowering.istio_service import Unresolved
from agent.api.lowering.mixer import MIXER_PARTS, LoweredRule, lower_rule
from agent.api.lowering.mixer_logs import LOG_PARTS, LoweredLogs, lower_logs
from agent.api.lowering.mixer_metrics import METRIC_PARTS, LoweredMetrics, lower_metrics
from agent.api.lowering.outside import declared_services, outside_services
from agent.api.lowering.route_rule import lower_route_rule
from agent.api.lowering.security import lower_authorization, lower_peers, lower_tokens
from agent.api.lowering.service_rules import (
    DeclaredSubsets,
    Outcome,
    RoutedHosts,
    ServiceRule,
    SubsetOutcome,
    service_outcome,
    service_subsets,
)
from agent.api.lowering.sidecar import lower_sidecar
from agent.api.lowering.targets import Subsets
from agent.api.lowering.telemetry import lower_telemetry
from agent.api.lowering.virtual_service import LoweredRoutes, declared_subsets, lower_virtual_service
from agent.api.lowering.within import ruled_hosts, service_within, wildcard_around
from agent.flow.stage import Flow, Gathered, Node, Source, Stage
from agent.flow.views import Parts, Tabled, Tally
from agent.mesh.gateway import BoundRoutes, Ingress, ServerKind
from agent.mesh.names import host_breadth
from agent.mesh.routes import Fault, ObjectRef, ServicePolicy, Subset
from agent.mesh.security import SecurityRules
from agent.mesh.service import Service, ServiceKey
from agent.mesh.sidecar import Sidecar
from agent.mesh.telemetry_settings import TelemetryRules

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_MAX_REASONS = 5
"""Faults of one document."""
_DELEGATE = "delegate"
"""A VirtualService that others name; stands beside the kinds."""


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
    security: SecurityRules = SecurityRules()
    telemetry: TelemetryRules = TelemetryRules()


def lower(documents: Iterable[Document], services: Iterable[ServiceKey]) -> Lowered:
    """Return what the documents mean for the services of the catalog; each document's name is given once."""
    return Lowerer().lower({document.key: document for document in documents}, dict.fromkeys(services, True))


class Lowerer:
    """Lowers again and again, and only what changed: a change costs what it changes (a memo, nothing else)."""

    def __init__(self) -> None:
        self._nodes: _Nodes | None = None

    def lower(self, documents: Mapping[str, Document], services: Mapping[ServiceKey, object]) -> Lowered:
        """Return what documents by KV key mean for the services of the catalog.

        Tables made from those of the last call are not even walked through.
        """
        nodes = self._nodes or _Nodes()
        self._nodes = None  # what an exception leaves behind is not used again
        lowered = nodes.lower(documents, services)
        self._nodes = nodes
        return lowered


class _Read(Struct, frozen=True):
    """What of a document can be enforced."""

    document: Document | None
    faults: tuple[Fault, ...]


class _Host(Struct, frozen=True):
    """A host that rules declare, or why they don't."""

    service: Service | None
    faults: tuple[Fault, ...]


class _About(Struct, frozen=True):
    """What a document says, by service."""

    rules: Mapping[ServiceKey, ServiceRule]
    faults: tuple[Fault, ...]


class _Bound(Struct, frozen=True):
    """What a VirtualService says at gateways."""

    routes: tuple[BoundRoutes, ...]
    faults: tuple[Fault, ...]


class _Fronts(Struct, frozen=True):
    """All gateways and what is bound to them, and what of the old kinds leads nowhere."""

    ingress: Ingress
    faults: tuple[Fault, ...]


_RoutesThrough = Mapping[ObjectRef | None, LoweredRoutes]
"""Gateway (None: the mesh) → its routes."""


class _Nodes:
    """What is computed from what. Documents are known by their KV keys."""

    def __init__(self) -> None:
        flow = self._flow = Flow()
        self._documents: Source[str, Document] = Source(flow)
        self._services: Source[ServiceKey, object] = Source(flow)
        registered = Stage(flow, self._services, lambda key: key)  # instances are of no interest here
        self._registered = LiveCatalog(flow, registered)
        self._read = Stage(flow, self._documents, self._read_document)
        self._usable = Stage(flow, self._read, lambda key: self._read[key].document)
        kinds: Parts[str, Document] = Parts(flow, self._usable, _part)

        self._workload_entries = united(flow, kinds["WorkloadEntry"])
        declaring = (kinds["EgressRule"], kinds["ServiceEntry"])
        declared = Stage(flow, declaring, self._declare)
        self._declared: Gathered[ServiceKey, str, tuple[Document, Service]] = Gathered(flow, declared, _itself)
        self._hosts = Stage(flow, self._declared, self._host)
        self._wildcards: Gathered[str, ServiceKey, bool] = Gathered(
            flow, self._hosts, lambda key, _: {} if key.is_one_host else {ALL: True}
        )
        ruling = tuple(kinds[kind] for kind in ("VirtualService", "RouteRule", "DestinationPolicy", "DestinationRule"))
        self._ruled: Gathered[ServiceKey, str, str] = Gathered(flow, ruling, lambda _, one: dict(ruled_hosts(one)))
        within = Stage(flow, self._ruled, self._within)
        self._outside = Stage(flow, (self._hosts, within), lambda key: self._declared_service(key) or within.get(key))
        self._outside_table = Tabled(self._outside)
        self._catalog = LiveCatalog(flow, registered, self._outside)

        declaring_subsets = Stage(flow, kinds["DestinationRule"], self._declare_subsets)
        self._declared_subsets: Gathered[ServiceKey, str, DeclaredSubsets] = Gathered(flow, declaring_subsets, _itself)
        self._subset_outcomes = Stage(flow, self._declared_subsets, self._subsets)
        self._by_name = Stage(flow, self._subset_outcomes, lambda key: self._subset_outcomes[key].subsets)
        by_ref: Gathered[ObjectRef, str, Document] = Gathered(flow, kinds[_DELEGATE], lambda _, one: {one.ref: one})
        self._delegates = Stage(flow, by_ref, lambda ref: next(iter(by_ref[ref].values())))
        self._routes = Stage(flow, kinds["VirtualService"], self._lower_routes)

        about = Stage(flow, ruling, self._about)
        self._about_service: Gathered[ServiceKey, str, ServiceRule] = Gathered(flow, about, lambda _, said: said.rules)
        self._outcomes = Stage(flow, self._about_service, self._outcome)
        self._policies = Stage(flow, self._outcomes, lambda key: self._outcomes[key].policy)
        self._policy_table = Tabled(self._policies)

        bound = Stage(flow, kinds["VirtualService"], self._bind)
        self._bound = united(flow, Stage(flow, bound, lambda key: bound[key].routes or None))
        self._older = united(flow, kinds["Ingress"], kinds["IngressRule"])
        self._gateways = united(flow, Stage(flow, kinds["Gateway"], lambda key: lower_gateway(self._document(key))))
        self._all_subsets: Gathered[str, ServiceKey, Mapping[str, Subset]] = Gathered(
            flow, self._by_name, lambda _, named: {ALL: named}
        )
        self._fronts = Stage(flow, (self._gateways, self._bound, self._older), lambda _: self._ingress())
        self._sidecars = united(flow, Stage(flow, kinds["Sidecar"], lambda key: lower_sidecar(self._document(key))))
        peers = Stage(flow, kinds["PeerAuthentication"], lambda key: lower_peers(self._document(key)))
        self._peers = united(flow, peers)
        authorizations = Stage(flow, kinds["AuthorizationPolicy"], lambda key: lower_authorization(self._document(key)))
        self._authorizations = united(flow, authorizations)
        tokens = Stage(flow, kinds["RequestAuthentication"], lambda key: lower_tokens(self._document(key)))
        self._tokens = united(flow, tokens)
        telemetry = Stage(flow, kinds["Telemetry"], lambda key: lower_telemetry(self._document(key)))
        self._telemetry = united(flow, telemetry)
        named: Gathered[ObjectRef, str, Document] = Gathered(
            flow,
            tuple(kinds[kind] for kind in (*MIXER_PARTS, *LOG_PARTS, *METRIC_PARTS)),
            lambda _, one: {one.ref: one},
        )
        self._mixer_parts = Stage(flow, named, lambda ref: next(iter(named[ref].values())))
        rules = Stage(flow, kinds["rule"], lambda key: lower_rule(self._document(key), self._mixer_parts.get))
        self._mixer_rules = united(flow, Stage(flow, rules, lambda key: rules[key].rule))
        logs = Stage(flow, kinds["rule"], lambda key: lower_logs(self._document(key), self._mixer_parts.get))
        self._log_rules = united(flow, Stage(flow, logs, lambda key: logs[key].rule))
        metrics = Stage(flow, kinds["rule"], lambda key: lower_metrics(self._document(key), self._mixer_parts.get))
        self._metric_rules = united(flow, Stage(flow, metrics, lambda key: metrics[key].rule))

        self._faults: Tally[Fault] = Tally()
        for node in (
            self._read,
            self._hosts,
            self._subset_outcomes,
            about,
            bound,
            self._outcomes,
            self._fronts,
            rules,
            logs,
            metrics,
        ):
            self._faults.count(node, _faults_of)

    def lower(self, documents: Mapping[str, Document], services: Mapping[ServiceKey, object]) -> Lowered:
        """Return what the documents mean."""
        self._documents.set(documents)
        self._services.set(services)
        self._flow.refresh()
        return Lowered(
            self._policy_table.table(),
            self._faults.elements(),
            self._outside_table.table(),
            fronts.ingress if (fronts := self._fronts.get(ALL)) else Ingress(),
            self._sidecars.get(ALL) or (),
            SecurityRules(
                self._peers.get(ALL) or (),
                self._authorizations.get(ALL) or (),
                self._tokens.get(ALL) or (),
                self._mixer_rules.get(ALL) or (),
                self._log_rules.get(ALL) or (),
                self._metric_rules.get(ALL) or (),
            ),
            TelemetryRules(self._telemetry.get(ALL) or ()),
        )

    def _read_document(self, key: str) -> _Read:
        document = self._documents[key]
        enforced = enforceable(document)
        faults = tuple(Fault(str(document.ref), reason) for reason in enforced.reasons[:_MAX_REASONS])
        return _Read(enforced.document, faults)

    def _document(self, key: str) -> Document:
        return self._usable[key]

    def _declare(self, key: str) -> Mapping[ServiceKey, tuple[Document, Service]]:
        document = self._document(key)
        selecting = document.spec.get("workloadSelector") is not None
        entries = (self._workload_entries.get(ALL) or ()) if selecting else ()
        return {service.key: (document, service) for service in declared_services(document, entries)}

    def _host(self, key: ServiceKey) -> _Host:
        """Add a host that rules declare to the catalog's services."""
        declared = ((document, (service,)) for document, service in in_order(self._declared[key]))
        found, faults = outside_services(declared, self._registered)
        return _Host(found.get(key), tuple(faults))

    def _declared_service(self, key: ServiceKey) -> Service | None:
        host = self._hosts.get(key)
        return host.service if host else None

    def _within(self, key: ServiceKey) -> Service | None:
        """Return the service of a host that rules are about, if a wildcard has it and the catalog doesn't."""
        around = wildcard_around(key, self._wildcards.get(ALL) or ())
        wildcard = around and self._declared_service(around)
        if not wildcard:
            return None
        namespaces = self._ruled[key].values()
        known = any(self._registered.resolve(key.name, namespace) is not None for namespace in namespaces)
        return None if known else service_within(wildcard, key)

    def _declare_subsets(self, key: str) -> Mapping[ServiceKey, DeclaredSubsets]:
        document = self._document(key)
        host = document.spec["host"]
        declared = DeclaredSubsets(document.ref, declared_subsets(document), host_breadth(host))
        # That there is no such service is said where the rest of the rule is lowered.
        return dict.fromkeys(self._catalog.meant(host, document.namespace), declared)

    def _subsets(self, service: ServiceKey) -> SubsetOutcome:
        return service_subsets(service, self._declared_subsets[service].values())

    def _lower_routes(self, key: str) -> _RoutesThrough:
        document, subsets, delegates = self._document(key), _Values(self._by_name), _Values(self._delegates)
        through = (*((None,) if is_for_mesh(document) else ()), *bound_gateways(document))
        return {
            gateway: lower_virtual_service(document, self._catalog, subsets, gateway, delegates) for gateway in through
        }

    def _about(self, key: str) -> _About:
        document = self._document(key)
        try:
            match document.kind:
                case "VirtualService":
                    return self._about_hosts(key, document)
                case "RouteRule":
                    rule = lower_route_rule(document, self._catalog)
                    return _About({rule.service: rule}, ())
                case "DestinationPolicy":
                    service, policy = lower_destination_policy(document, self._catalog)
                    return _About({service: policy}, ())
                case _:
                    services, policy = lower_destination_rule(document, self._catalog)
                    return _About(dict.fromkeys(services, policy), ())
        except Unresolved as unresolved:
            return _About({}, (Fault(str(document.ref), str(unresolved)),))

    def _about_hosts(self, key: str, document: Document) -> _About:
        lowered = self._routes[key].get(None)
        if lowered is None:
            return _About({}, ())
        hosts: dict[ServiceKey, tuple[str, ...]] = {}
        faults = list(lowered.faults)
        for host in document.spec["hosts"] if lowered.all_routes else ():  # none: each is for gateways only
            services = self._catalog.meant(host, document.namespace)
            for service in services:
                hosts[service] = (*hosts.get(service, ()), host)
            if not services and not bound_gateways(document):  # what clients of a gateway ask for need not be a service
                faults.append(Fault(str(document.ref), f"service {host} is not in the catalog"))
        exported = exported_to(document)
        rules = {service: RoutedHosts(document.ref, named, lowered, exported) for service, named in hosts.items()}
        return _About(rules, tuple(faults))

    def _outcome(self, service: ServiceKey) -> Outcome:
        return service_outcome(service, self._about_service[service].values())

    def _bind(self, key: str) -> _Bound | None:
        """Return what a VirtualService says of requests through gateways."""
        document = self._document(key)
        through = {gateway: lowered for gateway, lowered in self._routes[key].items() if gateway is not None}
        hosts, exported = tuple(document.spec["hosts"]), exported_to(document)
        routes = tuple(
            BoundRoutes(document.ref, gateway, hosts, lowered.http, lowered.tls, lowered.tcp, exported)
            for gateway, lowered in through.items()
            if lowered.all_routes
        )
        faults = tuple(fault for lowered in through.values() for fault in lowered.faults)
        return _Bound(routes, faults) if through else None

    def _ingress(self) -> _Fronts:
        """Return all gateways and what is bound to them."""
        older = self._older.get(ALL) or ()
        gateways = (*(self._gateways.get(ALL) or ()), *(lower_front(document) for document in older))
        leading = (way for document in older for way in ways(document))
        routed, lost = lower_ways(leading, self._catalog, _Values(self._policies))
        bound = (routes for of_document in self._bound.get(ALL) or () for routes in of_document)
        passes = any(server.kind is ServerKind.SERVICES for gateway in gateways for server in gateway.servers)
        subsets: Subsets = (self._all_subsets.get(ALL) or {}) if passes else {}
        declared = tuple((key, tuple(sorted(named.values()))) for key, named in subsets.items())
        return _Fronts(Ingress(gateways, (*bound, *routed), declared), lost)


class _Values(Mapping[K, V]):
    """A node's values as the mapping that a function takes which knows no nodes."""

    def __init__(self, node: Node[K, V]) -> None:
        self._node = node

    def __getitem__(self, key: K) -> V:
        found = self._node.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[K]:
        raise NotImplementedError("nobody would be told of new keys")

    def __len__(self) -> int:
        raise NotImplementedError("nobody would be told of new keys")


def _part(document: Document) -> str:
    return _DELEGATE if document.kind == "VirtualService" and is_delegate(document) else document.kind


def _itself(_key: Hashable, value: V) -> V:
    return value


_OfMixer = LoweredRule | LoweredLogs | LoweredMetrics


def _faults_of(
    value: _Read | _Host | SubsetOutcome | _About | Outcome | _Bound | _Fronts | _OfMixer,
) -> tuple[Fault, ...]:
    return value.faults
