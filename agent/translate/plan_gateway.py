"""What a plan makes of the gateways that a host is: listeners, routes bound to them, clusters to pass on to. Pure.

Nodes (agent/flow); a host that is no gateway has none of their keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from agent.flow.stage import Asked, Flow, Gathered, Source, Stage
from agent.mesh.gateway import BoundRoutes, GatewayServer, Ingress, ServerKind
from agent.mesh.routes import Fault, ObjectRef, ServicePolicy
from agent.mesh.service import Port, ServiceKey
from agent.mesh.snapshot import Resource
from agent.translate.asked import AskedServers
from agent.translate.facts import ServiceFacts, ServiceSubset
from agent.translate.gateway import Guards, gateway_port
from agent.translate.guard import connection_guard, http_guard
from agent.translate.open_ports import BoundIndex, HostCertificates, OpenPort, open_ports, unmatched
from agent.translate.peer_log import with_peer_log
from agent.translate.plan_services import Destinations, Inputs, Made, Services, subsets_of
from agent.translate.resolve import ResolvedPort, resolve_ports, services_named
from agent.translate.service_passing import Passed, passed_through, passing_clusters, subsets_by_port

_ALL = ""
"""The one key of what is one value."""
_NONE = frozenset[ServiceSubset]()
_Name = tuple[ObjectRef, ObjectRef, tuple[str, ...]]
"""VirtualService, gateway, hosts."""
_Use = tuple[_Name, int, ServerKind]
"""Bound routes at a port of servers of a kind."""


class Opened(Struct, frozen=True):
    """What this host listens for as a gateway, and what of it cannot be had."""

    ports: tuple[OpenPort, ...]
    wanted: Mapping[ServiceKey, frozenset[ServiceSubset]]
    faults: tuple[Fault, ...]

    @property
    def passed(self) -> tuple[Passed, ...]:
        """Return what callers in the mesh can ask for by name."""
        return tuple(dict.fromkeys(one for port in self.ports for server in port.servers for one in server.passed))


class GatewayPorts:
    """What Gateway objects want open here, with the routes bound to it."""

    def __init__(self, flow: Flow, inputs: Inputs, services: Services, once: Source[str, bool]) -> None:
        self._inputs, self._services = inputs, services
        self._is_gateway = inputs.options.gateway is not None
        self._bound: Source[_Name, BoundRoutes] = Source(flow)
        self._resolved: Asked[_Use, ResolvedPort] = Asked(flow, self._resolve)
        self._all_facts: Gathered[str, ServiceKey, ServiceFacts] = Gathered(
            flow, services.facts if self._is_gateway else (), lambda _, facts: {_ALL: facts}
        )
        self.opened = Stage(flow, once if self._is_gateway else (), lambda _: self._open())

    def set(self, ingress: Ingress) -> None:
        """Take the routes of another snapshot."""
        if self._is_gateway:
            self._bound.set({(one.origin, one.gateway, one.hosts): one for one in ingress.bound})

    def _open(self) -> Opened:
        inputs, ingress = self._inputs, self._inputs.ingress.get()
        selected = tuple(each for each in ingress.gateways if each.selects(inputs.options.gateway or ()))
        held = HostCertificates.of(inputs.workloads.get(), inputs.security.get())
        ports, faults = open_ports(selected, held)
        bound = tuple(one for one in ingress.bound if self._sees(one))
        index = BoundIndex(bound)
        routed = tuple(self._with_routes(port, ingress, index) for port in ports)
        resolved = [found for port in routed for server in port.servers for found in server.resolved]
        wanted = subsets_of(found for one in resolved for found in one.subsets)
        if any(server.passed for port in routed for server in port.servers):
            declared = subsets_of(subsets_by_port(self._facts(), ingress.subsets))
            wanted = {key: wanted.get(key, _NONE) | declared.get(key, _NONE) for key in {*wanted, *declared}}
        unresolved = (fault for one in resolved for fault in one.faults)
        return Opened(routed, wanted, (*faults, *unmatched(routed, bound), *unresolved))

    def _sees(self, bound: BoundRoutes) -> bool:
        """Tell whether routes are exported to gateways: to their own namespace, or to the one where Istio has them."""
        caller = self._inputs.caller.get()
        return not bound.exported_to or bool({caller.namespace, caller.root_namespace} & set(bound.exported_to))

    def _with_routes(self, port: OpenPort, ingress: Ingress, bound: BoundIndex) -> OpenPort:
        servers = []
        for opened in port.servers:
            server = opened.server
            routes = tuple((one, self._routes(one, port.number, server)) for one in bound.of(opened))
            auto = server.kind is ServerKind.SERVICES
            passed = passed_through(server, self._facts(), ingress.subsets) if auto else ()
            servers.append(structs.replace(opened, routes=routes, passed=passed))
        return structs.replace(port, servers=tuple(servers))

    def _facts(self) -> Mapping[ServiceKey, ServiceFacts]:
        return self._all_facts.get(_ALL) or {}

    def _routes(self, bound: BoundRoutes, port: int, server: GatewayServer) -> ResolvedPort:
        """Return the routes that a VirtualService has for such a server."""
        found = self._resolved.get(((bound.origin, bound.gateway, bound.hosts), port, server.kind))
        assert found is not None
        return found

    def _resolve(self, use: _Use) -> ResolvedPort | None:
        name, port, kind = use
        bound = self._bound.get(name)
        if bound is None:
            return None
        policy = ServicePolicy(bound.routes, False, (), bound.tls, bound.tcp)
        known = tuple(self._services.named(services_named(policy)))
        ((_, resolved),) = resolve_ports(policy, (Port(port, "", kind.protocol),), self._inputs.caller.get(), known)
        return resolved


class GatewayHost:
    """The resources of open ports."""

    def __init__(
        self,
        flow: Flow,
        inputs: Inputs,
        ports: GatewayPorts,
        destinations: Destinations,
        servers: Stage[str, AskedServers],
    ) -> None:
        self._inputs, self._opened, self._destinations, self._servers = inputs, ports.opened, destinations, servers
        is_gateway = inputs.options.gateway is not None
        self._ports: Gathered[tuple[int, str], str, OpenPort] = Gathered(
            flow, ports.opened, lambda _, opened: {(port.number, port.bind): port for port in opened.ports}
        )
        self._clusters: Gathered[str, ServiceKey, Resource] = Gathered(
            flow,
            destinations.clusters if is_gateway else (),
            lambda _, made: {cluster.name: cluster for cluster in made.resources},
        )
        self.made = (
            Stage(flow, self._ports, self._listen),
            Stage(flow, ports.opened, self._pass_on),
        )

    def _guards(self) -> Guards:
        """Return what stands before everything that comes through this gateway."""
        security, workloads = self._inputs.security.get(), self._inputs.workloads.get()
        if not workloads:
            return Guards()
        rules = security.rules.of_workload(workloads[0].service, workloads[0].labels, security.peers.root)
        servers = self._servers[_ALL]
        return Guards(http_guard(rules, servers), connection_guard(rules, servers))

    def _listen(self, key: tuple[int, str]) -> Made:
        (port,) = self._ports[key].values()
        resolved = (found for opened in port.servers for found in opened.resolved)
        used = (name for found in resolved for route in found.routes for name in route.clusters)
        ways = self._destinations.approaches_of(used)
        made, faults = gateway_port(
            port, self._inputs.options.ipv6, ways, self._inputs.security.get().trust_domains, self._guards()
        )
        log = self._inputs.options.peer_log
        if log and port.knows_clients:
            made = with_peer_log(made, log)
        return Made(made, faults)

    def _pass_on(self, key: str) -> Made | None:
        passed = self._opened[key].passed
        clusters = {one.cluster: cluster for one in passed for cluster in (self._clusters[one.cluster] or {}).values()}
        return Made(tuple(passing_clusters(passed, clusters))) if passed else None
