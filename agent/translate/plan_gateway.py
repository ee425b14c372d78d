"""What a plan makes of the gateways that a host is: listeners, routes bound to them, clusters to pass on to. Pure.

Nodes (agent/flow): by what is bound to a Gateway object, by host of a route table, by port; a host that is no gateway
has none of their keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, structs

from agent.flow.stage import Asked, Flow, Gathered, Node, Shared, Source, Stage
from agent.flow.table import Table
from agent.mesh.gateway import BoundRoutes, Gateway, Ingress, ServerKind
from agent.mesh.routes import Fault, ObjectRef, ServicePolicy
from agent.mesh.service import Port, ServiceKey
from agent.mesh.snapshot import Resource
from agent.translate.asked import AskedServers
from agent.translate.counting import with_counting
from agent.translate.facts import ServiceFacts, ServiceSubset
from agent.translate.gateway import Guards, gateway_host, gateway_port, table_name
from agent.translate.guard import connection_guard, http_guard
from agent.translate.open_ports import HostCertificates, OpenPort, ServerIndex, open_ports, server_names
from agent.translate.peer_log import with_peer_log
from agent.translate.plan_access_logs import AccessLogs
from agent.translate.plan_services import Destinations, Inputs, Made, Services, subsets_of
from agent.translate.plan_tracing import Traces
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute, resolve_ports, services_named
from agent.translate.routes import EncodedHost, hosts_table
from agent.translate.service_passing import Passed, passed_through, passing_clusters, subsets_by_port

_ALL = ""
"""The one key of what is one value."""
_Name = tuple[ObjectRef, ObjectRef, tuple[str, ...]]
"""VirtualService, gateway, hosts."""
_HOST: _Name = (ObjectRef("", "", ""), ObjectRef("", "", ""), ())
"""The gateway host itself, among the names."""
_Use = tuple[_Name, int, ServerKind]
"""Bound routes at a port of servers of a kind."""
_Place = tuple[int, str, int]
"""Port, its address, and a server's position."""
_Virtual = tuple[str, str]
"""Route table and host."""


class Opened(Struct, frozen=True):
    """What this host listens for as a gateway, and what of it cannot be had."""

    ports: tuple[OpenPort, ...]
    faults: tuple[Fault, ...] = ()
    wanted: Mapping[ServiceKey, frozenset[ServiceSubset]] = {}

    @property
    def passed(self) -> tuple[Passed, ...]:
        """Return what callers in the mesh can ask for by name."""
        return tuple(dict.fromkeys(one for port in self.ports for server in port.servers for one in server.passed))


class _Served(Struct, frozen=True):
    """A server that routes are for."""

    place: _Place
    table: str | None
    """Of requests; None: connections pass whole."""
    hosts: tuple[str, ...]
    is_redirected: bool
    resolved: ResolvedPort


class Attached(Struct, frozen=True):
    """What routes that are bound to a Gateway object do at this host."""

    bound: BoundRoutes
    served: tuple[_Served, ...]
    faults: tuple[Fault, ...]

    @property
    def wanted(self) -> Mapping[ServiceKey, frozenset[ServiceSubset]]:
        """Return the subsets that they send to."""
        return subsets_of(found for one in self.served for found in one.resolved.subsets)


class _Said(Struct, frozen=True):
    """What one VirtualService says of a host's requests."""

    is_wildcard: bool
    """Of several those come first that name the host."""
    port: int
    routes: tuple[ResolvedRoute, ...]
    is_redirected: bool


class GatewayPorts:
    """What Gateway objects want open here, with the routes bound to it."""

    def __init__(self, flow: Flow, inputs: Inputs, services: Services, once: Source[str, bool]) -> None:
        self._inputs, self._services = inputs, services
        self._is_gateway = inputs.options.gateway is not None
        self._ingress = Ingress()
        self._bound_table: Table[_Name, BoundRoutes] = Table()
        self._gateways: Shared[tuple[Gateway, ...]] = Shared(flow, ())
        self._subsets = Shared(flow, Ingress().subsets)
        self._bound: Source[_Name, BoundRoutes] = Source(flow)
        self._resolved: Asked[_Use, ResolvedPort] = Asked(flow, self._resolve)
        self._all_facts: Gathered[str, ServiceKey, ServiceFacts] = Gathered(
            flow, services.facts if self._is_gateway else (), lambda _, facts: {_ALL: facts}
        )
        self._listened = Stage(flow, once if self._is_gateway else (), lambda _: self._listen())
        self._index = Stage(flow, self._listened, lambda key: ServerIndex(self._listened[key].ports))
        self.open = Stage(flow, self._listened, self._pass)
        self.attached = Stage(flow, self._bound, self._attach)
        of_host: Gathered[_Name, str, Opened] = Gathered(flow, self.open, lambda _, opened: {_HOST: opened})
        nodes: tuple[Node[_Name, Any], ...] = (self.attached, of_host)
        self.opened: Stage[_Name, Attached | Opened] = Stage(
            flow, nodes, lambda name: of_host[name][_ALL] if name == _HOST else self.attached[name]
        )
        """What all of it wants, and what cannot be had."""

    def set(self, ingress: Ingress) -> None:
        """Take the routes of another snapshot."""
        if self._is_gateway and ingress is not self._ingress:
            before, self._ingress = self._ingress, ingress
            self._gateways.set(ingress.gateways)
            self._subsets.set(ingress.subsets)
            self._bound_table = self._bound_table.with_changes(_differing(before.bound, ingress.bound))
            self._bound.set(self._bound_table)

    def _listen(self) -> Opened:
        """Return what is listened for, without routes and services."""
        inputs = self._inputs
        selected = tuple(each for each in self._gateways.get() if each.selects(inputs.options.gateway or ()))
        return Opened(*open_ports(selected, HostCertificates.of(inputs.workloads.get(), inputs.security.get())))

    def _pass(self, key: str) -> Opened:
        """Add the services that TLS is passed on to."""
        opened = self._listened[key]
        if not any(one.server.kind is ServerKind.SERVICES for port in opened.ports for one in port.servers):
            return opened
        facts, subsets = self._all_facts.get(_ALL) or {}, self._subsets.get()
        ports = []
        for port in opened.ports:
            auto = [one.server.kind is ServerKind.SERVICES for one in port.servers]
            servers = (
                structs.replace(one, passed=passed_through(one.server, facts, subsets)) if is_auto else one
                for one, is_auto in zip(port.servers, auto, strict=True)
            )
            ports.append(structs.replace(port, servers=tuple(servers)))
        found = Opened(tuple(ports), opened.faults)
        return structs.replace(found, wanted=subsets_of(subsets_by_port(facts, subsets))) if found.passed else found

    def _attach(self, name: _Name) -> Attached | None:
        """Return what bound routes are for, if their VirtualService is exported to gateways here."""
        bound, index = self._bound[name], self._index[_ALL]
        if not self._sees(bound) or not index.has(bound.gateway):
            return None
        served = []
        for port, at, hosts in index.of(bound):
            opened = port.servers[at]
            resolved = self._resolved.get((name, port.number, opened.server.kind))
            assert resolved is not None
            place, table = (port.number, port.bind, at), table_name(port, opened)
            served.append(_Served(place, table, hosts, opened.server.https_redirect, resolved))
        unresolved = tuple(fault for one in served for fault in one.resolved.faults)
        return Attached(bound, tuple(served), unresolved if served else (_unmatched(bound),))

    def _sees(self, bound: BoundRoutes) -> bool:
        """Tell whether routes are exported to gateways: to their own namespace, or to the one where Istio has them."""
        caller = self._inputs.caller.get()
        return not bound.exported_to or bool({caller.namespace, caller.root_namespace} & set(bound.exported_to))

    def _resolve(self, use: _Use) -> ResolvedPort | None:
        name, port, kind = use
        bound = self._bound.get(name)
        if bound is None:
            return None
        policy = ServicePolicy(bound.routes, False, (), bound.tls, bound.tcp)
        known = tuple(self._services.named(services_named(policy)))
        ((_, resolved),) = resolve_ports(policy, (Port(port, "", kind.protocol),), self._inputs.caller.get(), known)
        return resolved


def _differing(before: tuple[BoundRoutes, ...], after: tuple[BoundRoutes, ...]) -> Mapping[_Name, BoundRoutes | None]:
    """Return what is another object, by name; None: it is gone. There are thousands, of which one has changed."""
    known, kept = set(map(id, before)), set(map(id, after))
    gone = {(one.origin, one.gateway, one.hosts): None for one in before if id(one) not in kept}
    return {**gone, **{(one.origin, one.gateway, one.hosts): one for one in after if id(one) not in known}}


def _unmatched(bound: BoundRoutes) -> Fault:
    reason = f"none of its servers is for {', '.join(bound.hosts)}"
    return Fault(str(bound.origin), f"has no effect at {bound.gateway}: {reason}")


class GatewayHost:
    """The resources of open ports."""

    def __init__(
        self,
        flow: Flow,
        inputs: Inputs,
        ports: GatewayPorts,
        destinations: Destinations,
        servers: Stage[str, AskedServers],
        traces: Traces,
        access_logs: AccessLogs,
    ) -> None:
        self._inputs, self._open, self._destinations, self._servers = inputs, ports.open, destinations, servers
        self._traces, self._access_logs = traces, access_logs
        is_gateway = inputs.options.gateway is not None
        self._ports: Gathered[tuple[int, str], str, OpenPort] = Gathered(
            flow, ports.open, lambda _, opened: {(port.number, port.bind): port for port in opened.ports}
        )
        self._clusters: Gathered[str, ServiceKey, Resource] = Gathered(
            flow,
            destinations.clusters if is_gateway else (),
            lambda _, made: {cluster.name: cluster for cluster in made.resources},
        )
        self._whole: Gathered[_Place, _Name, tuple[BoundRoutes, ResolvedPort]] = Gathered(
            flow,
            ports.attached,
            lambda _, one: {to.place: (one.bound, to.resolved) for to in one.served if not to.table},
        )
        self._said: Gathered[_Virtual, _Name, _Said] = Gathered(flow, ports.attached, _said)
        self._redirected: Gathered[_Virtual, str, int] = Gathered(flow, ports.open, _redirected)
        virtual = Stage(flow, (self._said, self._redirected), self._virtual_host)
        self._hosts: Gathered[str, _Virtual, EncodedHost] = Gathered(flow, virtual, lambda key, host: {key[0]: host})
        tables: Gathered[str, str, bool] = Gathered(flow, ports.open, _tables)
        self.made = (
            Stage(flow, self._ports, self._listen),
            Stage(flow, tables, lambda name: Made((hosts_table(name, self._hosts.blocks(name)),))),
            Stage(flow, virtual, lambda key: Made((), virtual[key].faults) if virtual[key].faults else None),
            Stage(flow, ports.open, self._pass_on),
        )

    def _guards(self) -> Guards:
        """Return what stands before everything that comes through this gateway."""
        security, workloads = self._inputs.security.get(), self._inputs.workloads.get()
        if not workloads:
            return Guards()
        rules = security.rules.of_workload(workloads[0].service, workloads[0].labels, security.peers.root)
        servers = self._servers[_ALL]
        return Guards(http_guard(rules, servers), connection_guard(rules, servers))

    def _virtual_host(self, key: _Virtual) -> EncodedHost | None:
        """Return what a route table has of a host; several VirtualServices about it are one after the other.

        Those that name it come before those with a wildcard for it, then by name.
        """
        said = [one for _, one in sorted((self._said.get(key) or {}).items(), key=_rank)]
        routes = tuple(route for one in said for route in one.routes)
        redirected = self._redirected.get(key) or {}
        ports = [*redirected.values(), *(one.port for one in said)]
        is_redirected = bool(redirected) or any(one.is_redirected for one in said)
        ways = self._ways(routes)
        return gateway_host(key[1], ports[0], routes, is_redirected, ways, self._traces.names_spans)

    def _listen(self, key: tuple[int, str]) -> Made:
        (port,) = self._ports[key].values()
        servers = tuple(
            structs.replace(opened, routes=tuple((self._whole.get((*key, at)) or {}).values()))
            if opened.server.kind.passes_whole
            else opened
            for at, opened in enumerate(port.servers)
        )
        ways = self._ways(route for one in servers for found in one.resolved for route in found.routes)
        made, faults = gateway_port(
            structs.replace(port, servers=servers),
            self._inputs.options.ipv6,
            ways,
            self._inputs.security.get().trust_domains,
            self._guards(),
        )
        log, made = self._inputs.options.peer_log, self._access_logs.outgoing(self._traces.outgoing(made))
        made = with_counting(made) if self._inputs.counts else made
        return Made(with_peer_log(made, log) if log and port.knows_clients else made, faults)

    def _ways(self, routes: Iterable[ResolvedRoute]) -> tuple[tuple[str, Approach], ...]:
        return self._destinations.approaches_of(name for route in routes for name in route.clusters)

    def _pass_on(self, key: str) -> Made | None:
        passed = self._open[key].passed
        clusters = {one.cluster: cluster for one in passed for cluster in (self._clusters[one.cluster] or {}).values()}
        return Made(tuple(passing_clusters(passed, clusters))) if passed else None


def _said(_name: _Name, attached: Attached) -> Mapping[_Virtual, _Said]:
    """Return what a VirtualService says, by route table and host."""
    said: dict[_Virtual, _Said] = {}
    named = attached.bound.hosts
    for to in attached.served:
        for host in to.hosts if to.table else ():
            before = said.get((str(to.table), host))
            is_redirected = to.is_redirected or (before is not None and before.is_redirected)
            said[str(to.table), host] = _Said(host not in named, to.place[0], to.resolved.routes, is_redirected)
    return said


def _rank(said: tuple[_Name, _Said]) -> tuple[bool, _Name]:
    return said[1].is_wildcard, said[0]


def _redirected(_key: str, opened: Opened) -> Mapping[_Virtual, int]:
    """Return the port of each host whose requests without TLS are redirected, whoever's routes there are."""
    return {
        (name, host): port.number
        for port in opened.ports
        for one in port.servers
        if one.server.https_redirect and (name := table_name(port, one))
        for host in server_names(one.server)
    }


def _tables(_key: str, opened: Opened) -> Mapping[str, bool]:
    return {name: True for port in opened.ports for one in port.servers if (name := table_name(port, one))}
