"""What a plan makes of the calls of this host's applications: listeners, route tables and names. Pure.

Nodes (agent/flow) by service, by port number, and by the first label of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from agent.flow.stage import Flow, Gathered, Node, Source, Stage
from agent.mesh import names
from agent.mesh.routes import Fault
from agent.mesh.service import Port, ServiceKey
from agent.translate.captured import Chain, chains_of, port_listener
from agent.translate.clusters import fallback_clusters, service_clusters
from agent.translate.counting import with_counting
from agent.translate.dns import Lines, host_lines
from agent.translate.listeners import http_listener, tcp_listener, virtual_outbound
from agent.translate.outside import undeclared
from agent.translate.plan_access_logs import AccessLogs
from agent.translate.plan_services import Destinations, Inputs, Made, Resolved, Services
from agent.translate.plan_tracing import Traces
from agent.translate.policies import Approach, ServiceTraffic
from agent.translate.resolve import ResolvedPort
from agent.translate.routes import EncodedHost, hosts_in_tables, route_table, service_table, virtual_host
from agent.translate.tcp import tunnel_faults

_HTTP = "HTTP"


class _Hosts(Struct, frozen=True):
    """A service's virtual hosts by port number."""

    by_port: Mapping[int, EncodedHost]
    faults: tuple[Fault, ...]


class _Captured(Struct, frozen=True):
    """Which ports of a service have a listener that foreign traffic comes to too, and what it knows of the service."""

    chains: Mapping[int, tuple[Chain, ...]]
    faults: tuple[Fault, ...]


class Outbound:
    """Listeners and route tables for captured or bound outbound connections."""

    def __init__(
        self,
        flow: Flow,
        inputs: Inputs,
        services: Services,
        destinations: Destinations,
        traces: Traces,
        access_logs: AccessLogs,
        once: Source[str, bool],
    ) -> None:
        self._inputs, self._services, self._destinations, self._traces = inputs, services, destinations, traces
        self._access_logs = access_logs
        resolved = services.resolved
        groups: Gathered[str, ServiceKey, bool] = Gathered(
            flow, Stage(flow, (services.known, inputs.unseen), lambda _: True), lambda key, _: {_group(key): True}
        )
        hosts = Stage(flow, groups, lambda group: hosts_in_tables(tuple(groups[group]), inputs.caller.get().namespace))
        self._hosts: Gathered[ServiceKey, str, tuple[str, ...]] = Gathered(flow, hosts, lambda _, found: found)
        self.names = Stage(flow, groups, lambda group: self._names(tuple(groups[group])))

        virtual_hosts = Stage(flow, resolved if self._listens else (), self._virtual_hosts)
        self._on_port: Gathered[int, ServiceKey, EncodedHost] = Gathered(
            flow, virtual_hosts, lambda _, hosts: hosts.by_port
        )
        self._binding: Gathered[int, ServiceKey, str] = Gathered(
            flow, () if inputs.options.intercepted else resolved, _bindings
        )
        captured = Stage(flow, resolved if inputs.options.captures_foreign else (), self._captured)
        self._captured_on: Gathered[int, ServiceKey, tuple[Chain, ...]] = Gathered(
            flow, captured, lambda _, found: found.chains
        )
        ports = (self._on_port, self._captured_on)
        self.made: tuple[Node[Any, Made], ...] = (
            Stage(flow, once, lambda _: self._counted(self._shared())),
            Stage(flow, ports, lambda number: self._counted(self._port(number))),
            Stage(flow, resolved if self._listens else (), lambda key: self._counted(self._tcp_listeners(key))),
            Stage(flow, resolved if self._listens else (), self._detected_tables),
            Stage(
                flow,
                services.known if inputs.options.intercepted else (),
                lambda key: self._counted(self._passing(key)),
            ),
        )
        self.faulty = (virtual_hosts, captured)

    @property
    def _listens(self) -> bool:
        options = self._inputs.options
        return options.intercepted or options.bind_outbound is not None

    def _counted(self, made: Made | None) -> Made | None:
        """Return the same with listeners that log and count what passes them."""
        if made is None:
            return None
        made = Made(self._access_logs.outgoing(made.resources), made.faults)
        if not self._inputs.counts:
            return made
        return Made(with_counting(made.resources), made.faults)

    def _shared(self) -> Made:
        """Return what is there once: where connections to the unknown go."""
        options = self._inputs.options
        if not options.intercepted:
            return Made(())
        return Made((*fallback_clusters(), virtual_outbound(options, self._inputs.passes_unknown)))

    def _virtual_hosts(self, key: ServiceKey) -> _Hosts | None:
        """Return the service's part of route tables."""
        vip, by_port, spans = self._inputs.vips.get(key), {}, self._traces.names_spans
        ports = [(port, rules) for port, rules in self._services.resolved[key].ports if port.protocol.is_http]
        for port, rules in ports:
            if port.number not in self._capture_ports:
                hosts = next(iter((self._hosts.get(key) or {}).values()), ())
                ways = self._ways(key, port, rules)
                by_port[port.number] = virtual_host(key, port.number, hosts, vip, rules, ways, spans)
        return _Hosts(by_port, tuple(fault for host in by_port.values() for fault in host.faults)) if ports else None

    def _captured(self, key: ServiceKey) -> _Captured | None:
        if not key.is_outside:
            return None
        chains, faults = {}, list[Fault]()
        for port, rules in self._services.resolved[key].ports:
            upstreams = self._inputs.options.dns_upstreams
            known = chains_of(self._services.known[key], port, rules, self._ways(key, port, rules), upstreams)
            if isinstance(known, Fault):
                faults.append(known)
            elif known and port.number not in self._capture_ports:
                chains[port.number] = known
        return _Captured(chains, tuple(faults))

    def _port(self, number: int) -> Made:
        """Return the listener of a port number, whatever the address, and the route table of its HTTP services."""
        options, hosts, passes = self._inputs.options, self._on_port.blocks(number), self._inputs.passes_unknown
        made, faults = [], tuple[Fault, ...]()
        if hosts:
            made.append(route_table(number, hosts, passes and options.intercepted))
        if options.captures_foreign:
            chains = (chain for found in (self._captured_on.get(number) or {}).values() for chain in found)
            listener = port_listener(number, bool(hosts), tuple(chains), options, passes)
            made.append(listener.resource)
            faults = listener.faults
        else:
            made.append(http_listener(number, options))
        return Made(self._traces.outgoing(tuple(made)), faults)

    def _tcp_listeners(self, key: ServiceKey) -> Made | None:
        options, vip = self._inputs.options, self._inputs.vips.get(key)
        made, faults = [], list[Fault]()
        for port, rules in self._services.resolved[key].ports:
            if port.protocol.is_http or (options.intercepted and vip is None):
                continue
            if not options.intercepted and (fault := self._in_the_way(key, port)):
                faults.append(fault)
                continue
            ways = self._ways(key, port, rules)
            made.append(tcp_listener(key, port.number, vip, rules, options, ways))
            faults += tunnel_faults(str(key), rules, ways)
        return Made(self._traces.outgoing(tuple(made)), tuple(faults)) if made or faults else None

    def _detected_tables(self, key: ServiceKey) -> Made | None:
        """Return the route tables of the service's ports where HTTP is detected."""
        made, faults = [], list[Fault]()
        for port, rules in self._services.resolved[key].ports:
            if rules.requests is not None:
                ways, spans = self._ways(key, port, rules), self._traces.names_spans
                table, unusable = service_table(key, port.number, rules.requests, ways, spans)
                made.append(table)
                faults += unusable
        return Made(tuple(made), tuple(faults)) if made else None

    def _in_the_way(self, key: ServiceKey, port: Port) -> Fault | None:
        """Return a fault if something else has this port of the one address that all are bound to."""
        binding = self._binding[port.number]
        owner = _HTTP if _HTTP in binding.values() else next(iter(binding.values()))
        if owner == str(key):
            return None
        where = f"{self._inputs.options.bind_outbound}:{port.number}"
        return Fault(f"service {key}", f"TCP port {port.number} has no listener: {where} is bound for {owner}")

    def _passing(self, key: ServiceKey) -> Made | None:
        """Return clusters and listeners of what no rule declares of a host outside: it goes on as without a rule."""
        inputs = self._inputs
        if not key.is_outside or inputs.unseen.get(key) or not inputs.passes_unknown:
            return None
        facts, vip = undeclared(self._services.known[key]), inputs.vips.get(key)
        if facts is None or vip is None:
            return None
        upstreams = inputs.options.dns_upstreams
        clusters = service_clusters(facts, (), inputs.outbound.get(), ServiceTraffic.unsaid(), upstreams)
        listeners = (
            tcp_listener(key, port.number, vip, ResolvedPort((), True), inputs.options) for port in facts.ports
        )
        return Made((*clusters, *listeners))

    def _ways(self, key: ServiceKey, port: Port, rules: ResolvedPort) -> tuple[tuple[str, Approach], ...]:
        """Return what the clusters that a port leads to need of its routes or its listener."""
        led_to = (name for route in rules.all_routes for name in route.clusters)
        return self._destinations.approaches_of((names.outbound_cluster(key, port.number), *led_to))

    def _names(self, keys: tuple[ServiceKey, ...]) -> tuple[Lines, ...]:
        """Return the lines of the hosts file for services whose names begin alike."""
        if self._inputs.options.gateway is not None:
            return ()  # nothing captures connections to virtual addresses there
        seen = {key: vip for key in keys if (vip := self._inputs.vips.get(key)) and not self._inputs.unseen.get(key)}
        return host_lines(keys, seen, self._inputs.caller.get().namespace)

    @property
    def _capture_ports(self) -> set[int]:
        options = self._inputs.options
        return {options.inbound_port, options.outbound_port} if options.intercepted else set()


def _bindings(key: ServiceKey, resolved: Resolved) -> dict[int, str]:
    """Return what a service's ports are bound for, where all are bound to one address."""
    return {port.number: _HTTP if port.protocol.is_http else str(key) for port, _ in resolved.ports}


def _group(key: ServiceKey) -> str:
    """Return what all names have in common that could mean this service as well as another one: their first label."""
    return key.name.partition(".")[0].lower()
