"""plan(): the mesh as this host knows it → everything its data path should be. Pure; the Planner only remembers.

The whole desired state every time, made step by step from services (agent/flow): a step runs again where something
that it read has changed, so a changed service costs its own resources, and a health flip its endpoints alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from msgspec import structs

from agent.flow.stage import Flow, Gathered, Node, Source, Stage
from agent.flow.views import Tabled, Tally
from agent.mesh import names
from agent.mesh.callers import callers_by_uid
from agent.mesh.mixer import PolicyRule
from agent.mesh.mixer_logs import EntryLogs
from agent.mesh.routes import Fault
from agent.mesh.service import MtlsMode, ServiceKey
from agent.mesh.snapshot import Desired, MeshSnapshot, Resource
from agent.translate.asked import AskedServers, asked_servers
from agent.translate.counting import Counting, with_counting
from agent.translate.dns import HostsFile
from agent.translate.facts import ServiceSubset, distinct
from agent.translate.host_rules import host_ruleset
from agent.translate.inbound import inbound_resources
from agent.translate.log_lines import Streams, streams_of
from agent.translate.log_servers import log_servers
from agent.translate.mixer_guard import Mixing, asks_about_callers, mixing
from agent.translate.mixer_notes import Callers
from agent.translate.mixer_peers import Peers, Seen, alike, by_address, seen_of
from agent.translate.netfilter import NetfilterText
from agent.translate.options import PlanOptions
from agent.translate.outside import policy_faults
from agent.translate.peer_log import with_peer_log
from agent.translate.plan_access_logs import AccessLogs
from agent.translate.plan_callers import CallerTables
from agent.translate.plan_gateway import GatewayHost, GatewayPorts
from agent.translate.plan_outbound import Outbound
from agent.translate.plan_services import Destinations, Inputs, Made, Services
from agent.translate.plan_tracing import Traces
from agent.translate.resource_tables import ResourceTables
from agent.translate.secrets import certificate, credential_resources, trust_bundle
from agent.translate.served import inbound_ports

__all__ = ["PlanOptions", "Planner"]

T = TypeVar("T")
_HOST = ""
"""The one key of what there is once."""


class Planner:
    """Plans again and again; the result depends on the arguments of each call only."""

    def __init__(self) -> None:
        self._plans: dict[int | None, _Plan] = {}
        """By the Unix user whose calls they are about; None: everybody else's, and the host itself."""
        self._tables = CallerTables(())

    def plan(self, snapshot: MeshSnapshot, options: PlanOptions) -> Desired:
        """Return the desired state of this host. What can't be had is left out and named in `faults`."""
        plans, self._plans = self._plans, {}  # what an exception leaves behind is not used again
        tables, self._tables = self._tables, CallerTables(())
        callers = callers_by_uid(snapshot.workloads) if options.intercepted and options.gateway is None else {}
        seen: dict[int | None, MeshSnapshot] = {None: snapshot}
        seen.update((uid, structs.replace(snapshot, workloads=(workload,))) for uid, workload in callers.items())
        kept = {uid: plan for uid in seen if (plan := plans.get(uid)) is not None and plan.options == options}
        plans = {uid: kept.get(uid) or _Plan(view, options, is_host=uid is None) for uid, view in seen.items()}
        desired = plans[None].desired(snapshot)
        if callers:
            tables = tables if tables.uids == tuple(callers) else CallerTables(tuple(callers))
            desired = _together(desired, {uid: plans[uid].desired(seen[uid]) for uid in callers}, tables)
        self._plans, self._tables = plans, tables
        return desired


def _together(host: Desired, callers: Mapping[int, Desired], tables: CallerTables) -> Desired:
    return structs.replace(
        host,
        resources=tables.resources(host.resources, {uid: made.resources for uid, made in callers.items()}),
        faults=tuple(sorted({*host.faults, *(fault for made in callers.values() for fault in made.faults)})),
        dangling=tuple(sorted({*host.dangling, *(line for made in callers.values() for line in made.dangling)})),
    )


class _Plan:
    """All steps, for a host with these options; or (`is_host` False) for the calls of its one workload alone."""

    def __init__(self, snapshot: MeshSnapshot, options: PlanOptions, is_host: bool) -> None:
        flow = self._flow = Flow()
        self.options = options
        self._inputs = inputs = Inputs(flow, snapshot, options)
        once: Source[str, bool] = Source(flow)
        once.set({_HOST: True})

        services = Services(flow, inputs)
        seen = Stage(flow, services.known, lambda key: seen_of(services.known[key]) or None)
        self._seen: Gathered[str, ServiceKey, frozenset[Seen]] = Gathered(flow, seen, lambda _, one: {_HOST: one})
        self._servers = Stage(flow, once, lambda _: self._ask(services))
        self._logs = Stage(flow, once if is_host else (), lambda _: self._entry_logs())
        self._gateway = GatewayPorts(flow, inputs, services, once)
        wanting: tuple[Node[Any, Any], ...] = (services.resolved, self._gateway.opened)
        subsets: Gathered[ServiceKey, Any, frozenset[ServiceSubset]] = Gathered(
            flow, wanting, lambda _, value: value.wanted
        )
        destinations = Destinations(flow, inputs, services, subsets)
        self._access_logs = AccessLogs(flow, inputs, once)
        self._traces = Traces(flow, inputs, services, destinations, once)
        gateway = GatewayHost(flow, inputs, self._gateway, destinations, self._servers, self._traces, self._access_logs)
        outbound = Outbound(flow, inputs, services, destinations, self._traces, self._access_logs, once)
        host = Stage(flow, once, lambda _: self._host() if is_host else Made(self._secrets()))
        self._netfilter = Stage(flow, once, lambda _: self._ruleset())

        self._tables, self._faults = ResourceTables(), Tally[Fault]()
        made: tuple[Node[Any, Made], ...] = (
            destinations.clusters,
            destinations.endpoints,
            *gateway.made,
            *outbound.made,
            self._traces.made,
            self._access_logs.made,
            host,
        )
        for node in made:
            self._tables.collect(node, lambda value: value.resources)
        noted: tuple[Node[Any, Any], ...] = (services.usable, services.resolved, self._gateway.opened)
        faulty = (*noted, *outbound.faulty, *made)
        for node in faulty:
            self._faults.count(node, lambda value: value.faults)
        self._names = Tabled(outbound.names)
        self._hosts_file = HostsFile()

    def desired(self, snapshot: MeshSnapshot) -> Desired:
        """Return the desired state."""
        self._inputs.set(snapshot)
        self._gateway.set(snapshot.ingress)
        self._flow.refresh()
        netfilter = self._netfilter[_HOST]
        resources, faults = self._tables.resources(), self._faults.elements()
        dangling = self._tables.dangling()
        logs = self._logs.get(_HOST) or EntryLogs()
        return Desired(resources, self._dns_hosts(), netfilter.v4, netfilter.v6, faults, dangling, logs)

    def _dns_hosts(self) -> str:
        """Return the names dnsmasq gives out."""
        return self._hosts_file.text(self._names.table())

    def _ask(self, services: Services) -> AskedServers:
        """Return whom the rules of this host's workloads want to be asked."""
        inputs, security = self._inputs, self._inputs.security.get()
        rules = (
            security.rules.of_workload(workload.service, workload.labels, security.peers.root)
            for workload in inputs.workloads.get()
        )
        options, settings = self.options, inputs.settings.get()
        every = tuple(rules)
        servers = asked_servers(every, settings, security.trust_domains, services.facts.get, options)
        mixed = tuple(self._mix(policies) for policies in _distinct(one.policies for one in every))
        faults = distinct(fault for one in mixed for fault in one.faults)
        logged = tuple(streams_of(rules) for rules in _distinct(one.logs for one in every))
        leading = log_servers(_logs(logged).servers, services.facts.get, options.log_sockets, options.dns_upstreams)
        return structs.replace(
            servers,
            mixed=mixed,
            faults=(*servers.faults, *faults),
            resources=(*servers.resources, *leading),
            logged=logged,
            entry_log=options.entry_log,
        )

    def _entry_logs(self) -> EntryLogs:
        """Return what becomes of the lines that Envoy writes; callers only if a rule asks about them."""
        logs, security = _logs(self._servers[_HOST].logged), self._inputs.security.get()
        verified = self._inputs.settings.get().mtls is not MtlsMode.DISABLED
        if not any(stream.asks_callers for stream in logs.streams):
            return logs
        domains = security.trust_domains if verified else ()
        return structs.replace(logs, callers=by_address(self._callers(), domains), verified=verified)

    def _callers(self) -> tuple[Peers, ...]:
        return alike(one for of_service in (self._seen.get(_HOST) or {}).values() for one in of_service)

    def _mix(self, rules: tuple[PolicyRule, ...]) -> Mixing:
        """Return what Mixer's rules decide; who their callers are is looked at only if they want to know."""
        security, settings = self._inputs.security.get(), self._inputs.settings.get()
        peers = self._callers() if asks_about_callers(rules) else ()
        return mixing(rules, Callers(peers, security.trust_domains, settings.mtls is not MtlsMode.DISABLED))

    def _host(self) -> Made:
        """Return what belongs to the host and not to a service: its own workloads, its secrets."""
        inputs, options = self._inputs, self.options
        security = inputs.security.get()
        ports, faults = inbound_ports(inputs.workloads.get(), inputs.sidecars.get(), security, options.bind_inbound)
        servers = self._servers[_HOST]
        clusters, listeners = inbound_resources(ports, security, options, servers)
        listeners = self._access_logs.incoming(self._traces.incoming(listeners))
        if options.counts:
            listeners = with_counting(listeners, Counting.of(ports, inputs.counts))
        if options.peer_log:
            listeners = with_peer_log(listeners, options.peer_log)
        unblocked = policy_faults(inputs.traffic_policy.get(), options)
        return Made(
            (*clusters, *listeners, *self._secrets(), *servers.resources),
            (*faults, *servers.faults, *unblocked, *security.peers.faults),
        )

    def _secrets(self) -> tuple[Resource, ...]:
        certificates, trust, credentials = self._inputs.secrets.get()
        domain = self._inputs.settings.get().trust_domain
        secrets = [
            certificate(names.certificate_secret(identity, domain), held)
            for identity, held in sorted(certificates.items())
        ]
        secrets += [trust_bundle(trust)] if trust.roots_pem else []
        for name, credential in sorted(credentials.items()):
            secrets += credential_resources(name, credential, trust)
        return tuple(secrets)

    def _ruleset(self) -> NetfilterText:
        interception = self.options.interception
        if interception is None:
            return NetfilterText("", "")
        return host_ruleset(interception, self._inputs.workloads.get(), self.options.capture_inbound)


def _logs(logged: Iterable[Streams]) -> EntryLogs:
    streams = (stream for each in logged for stream in (each.requests, each.connections) if stream)
    return EntryLogs(tuple({stream.key: stream for stream in streams}.values()))


def _distinct(every: Iterable[tuple[T, ...]]) -> list[tuple[T, ...]]:
    """Return what some workloads are told by Mixer's rules, each once (a map in an expression has no hash)."""
    found: list[tuple[T, ...]] = []
    for rules in every:
        if rules and rules not in found:
            found.append(rules)
    return found
