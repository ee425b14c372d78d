"""plan(): the mesh as this host knows it → everything its data path should be. Pure; the Planner only remembers.

The whole desired state every time. Each part is memoized on the (immutable) inputs it really depends on, so a changed
service costs its own resources, and a health flip its endpoints alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import structs

from agent.mesh import names
from agent.mesh.gateway import BoundRoutes, ServerKind
from agent.mesh.reach import idle_rules
from agent.mesh.routes import Fault, ServicePolicy
from agent.mesh.service import Port, ServiceKey
from agent.mesh.settings import OutboundTrafficPolicy
from agent.mesh.sidecar import Sidecar
from agent.mesh.snapshot import Desired, MeshSnapshot, Resource, Resources
from agent.translate.captured import Chain, chains_of, port_listener
from agent.translate.clusters import fallback_clusters, service_clusters, unusable_policies
from agent.translate.dns import hosts_file
from agent.translate.endpoints import service_endpoints, unusable_instances
from agent.translate.facts import Caller, Security, ServiceFacts, ServiceSubset, distinct
from agent.translate.gateway import HostCertificates, OpenPort, gateway_port, hosts_for, open_ports, unmatched
from agent.translate.inbound import inbound_resources
from agent.translate.listeners import http_listener, tcp_listener, virtual_outbound
from agent.translate.locality import Place
from agent.translate.memo import Memo
from agent.translate.netfilter import NetfilterText, ruleset
from agent.translate.options import PlanOptions
from agent.translate.outside import policy_faults, undeclared, usable_services
from agent.translate.policies import Approach, ServiceTraffic, approaches
from agent.translate.resolve import ResolvedPort, resolve_ports, services_named, unruled
from agent.translate.routes import VirtualHost, hosts_in_tables, route_table, service_table, virtual_host
from agent.translate.secrets import certificate, credential_resources, trust_bundle
from agent.translate.served import inbound_ports
from agent.translate.service_passing import passed_through, passing_clusters, subsets_by_port
from agent.translate.tcp import tunnel_faults

__all__ = ["PlanOptions", "Planner"]

_ResolvedPorts = tuple[tuple[Port, ResolvedPort], ...]
_Resolved = Mapping[ServiceKey, _ResolvedPorts]


class Planner:
    """Plans again and again; the result depends on the arguments of each call only."""

    def __init__(self) -> None:
        self._memo = Memo()

    def plan(self, snapshot: MeshSnapshot, options: PlanOptions) -> Desired:
        """Return the desired state of this host. What can't be had is left out and named in `faults`."""
        self._memo.begin()
        desired = _Round(self._memo, snapshot, options).desired()
        self._memo.finish()
        return desired


class _Round:
    """One plan in the making."""

    def __init__(self, memo: Memo, snapshot: MeshSnapshot, options: PlanOptions) -> None:
        self._memo = memo
        self._snapshot = snapshot
        self._options = options
        self._caller = Caller.from_snapshot(snapshot)
        self._services, unusable = usable_services(snapshot.services, self._caller.namespace, options)
        self._faults = [*unusable, *policy_faults(snapshot.outbound_traffic_policy, options)]
        self._keys = memo.get("keys", (frozenset(self._services),), lambda keys: tuple(sorted(keys)))
        self._scope = snapshot.scope
        # What is out of the scope cannot be called, but keeps the short names that it would have.
        self._named = memo.get("named keys", (self._keys, self._scope.unseen), _also_unseen)
        self._called = memo.get("called keys", (self._keys, self._scope.unseen), _seen)
        self._security = memo.get("security", (Security.from_snapshot(snapshot),), lambda security: security)
        self._outbound = memo.get("outbound security", (self._security,), lambda security: security.outbound)
        self._passes_unknown = snapshot.outbound_traffic_policy is OutboundTrafficPolicy.ALLOW_ANY
        self._facts = {
            key: memo.get(("facts", key), (self._services[key],), ServiceFacts.from_service) for key in self._keys
        }
        place = memo.get("place", (Place.of_node(snapshot),), lambda place: place)
        self._traffic = {key: self._connections(key, place) for key in self._keys}
        self._approaches: dict[str, Approach] = {}

    def desired(self) -> Desired:
        # A gateway is no caller in the mesh: what it sends is decided by the routes bound to its servers.
        resolved = {key: self._resolve(key) for key in self._called} if self._options.gateway is None else {}
        opened = self._open_ports()
        through = [port for each in opened for server in each.servers for port in server.resolved]
        passed = [one for port in opened for server in port.servers for one in server.passed]
        declared = subsets_by_port(self._facts, self._snapshot.ingress.subsets) if passed else ()
        subsets = self._subsets([*(port for ports in resolved.values() for _, port in ports), *through], declared)
        clusters, endpoints = self._destinations(subsets)
        if passed:
            clusters += passing_clusters(dict.fromkeys(passed), {cluster.name: cluster for cluster in clusters})
        inbound_clusters, inbound_listeners = self._inbound()
        listeners = self._outbound_listeners(resolved)
        gateway = [made for port in opened for made in self._gateway_port(port)]
        listeners += [made for made in gateway if made.type_url == names.LISTENER_TYPE]
        if self._passes_unknown and self._options.intercepted:
            passing = [self._passing(key) for key in self._called if key.is_outside]
            clusters += [made for found, _ in passing for made in found]
            listeners += [made for _, found in passing for made in found]
        by_type = {
            names.CLUSTER_TYPE: clusters + inbound_clusters,
            names.ENDPOINT_TYPE: endpoints,
            names.LISTENER_TYPE: listeners + inbound_listeners,
            names.ROUTE_TYPE: [
                *self._route_tables(resolved),
                *(made for made in gateway if made.type_url == names.ROUTE_TYPE),
            ],
            names.SECRET_TYPE: self._secrets(),
        }
        resources = Resources({type_url: {r.name: r for r in of_type} for type_url, of_type in by_type.items()})
        netfilter = self._netfilter()
        return Desired(resources, self._dns_hosts(), netfilter.v4, netfilter.v6, distinct(self._faults))

    def _connections(self, key: ServiceKey, place: Place) -> ServiceTraffic:
        """Return how this host's caller connects to the service; what is about its routes only is left out."""
        inputs = (key, self._snapshot.policies.get(key), self._caller, place)
        return self._memo.get(("traffic", key), inputs, ServiceTraffic.from_policy)

    def _resolve(self, key: ServiceKey) -> _ResolvedPorts:
        """Return each port of the service with what its rules mean for this host's caller."""
        policy = self._snapshot.policies.get(key)
        if policy is None or not policy.has_routes:
            return self._in_scope(key, self._memo.get(("resolved", key), (self._facts[key].ports,), _unruled))
        named = self._memo.get(("named", key), (policy,), services_named)
        known = tuple(self._facts[name] for name in named if name in self._facts)
        inputs = (policy, self._facts[key].ports, self._caller, known)
        resolved = self._memo.get(("resolved", key), inputs, resolve_ports)
        self._faults += [fault for _, port in resolved for fault in port.faults]
        self._faults += self._memo.get(("idle", key), (key, policy, self._facts[key].ports), idle_rules)
        return self._in_scope(key, resolved)

    def _in_scope(self, key: ServiceKey, resolved: _ResolvedPorts) -> _ResolvedPorts:
        """Return the ports that this host's applications may call."""
        sidecar = self._scope.sidecar
        if sidecar is None or not sidecar.egress:
            return resolved
        return self._memo.get(("in scope", key), (sidecar, self._facts[key], resolved), _callable)

    def _open_ports(self) -> tuple[OpenPort, ...]:
        """Return what a gateway host listens for; any other host listens for none of it."""
        snapshot, labels = self._snapshot, self._options.gateway
        if labels is None:
            return ()
        selected = tuple(gateway for gateway in snapshot.ingress.gateways if gateway.selects(labels))
        ports, faults = open_ports(selected, HostCertificates.of(snapshot, self._security))
        routed = tuple(self._with_routes(port) for port in ports)
        self._faults += [*faults, *unmatched(routed, snapshot.ingress.bound)]
        return routed

    def _with_routes(self, port: OpenPort) -> OpenPort:
        servers = []
        for opened in port.servers:
            server, ingress = opened.server, self._snapshot.ingress
            mine = (one for one in ingress.bound if one.gateway == opened.routed_as and hosts_for(server, one))
            routes = tuple((one, self._resolve_bound(one, port.number, server.kind)) for one in mine)
            auto = server.kind is ServerKind.SERVICES
            passed = passed_through(server, self._facts, ingress.subsets) if auto else ()
            servers.append(structs.replace(opened, routes=routes, passed=passed))
        return structs.replace(port, servers=tuple(servers))

    def _resolve_bound(self, bound: BoundRoutes, port: int, kind: ServerKind) -> ResolvedPort:
        """Return the routes that a VirtualService has for a server of this kind."""
        policy = ServicePolicy(bound.routes, False, (), bound.tls, bound.tcp)
        known = tuple(self._facts[name] for name in services_named(policy) if name in self._facts)
        inputs = (policy, (Port(port, "", kind.protocol),), self._caller, known)
        memo_key = ("bound", bound.origin, bound.gateway, bound.hosts, port, kind)
        ((_, resolved),) = self._memo.get(memo_key, inputs, resolve_ports)
        self._faults += resolved.faults
        return resolved

    def _gateway_port(self, port: OpenPort) -> tuple[Resource, ...]:
        resolved = [found for opened in port.servers for found in opened.resolved]
        used = {name for found in resolved for route in found.routes for name in route.clusters}
        ways = tuple((name, self._approaches[name]) for name in sorted(used & self._approaches.keys()))
        inputs = (port, self._options.ipv6, ways, self._security.trust_domain)
        made, faults = self._memo.get(("gateway", port.number, port.bind), inputs, gateway_port)
        self._faults += faults
        return made

    def _subsets(
        self, resolved: Iterable[ResolvedPort], others: Iterable[tuple[ServiceKey, ServiceSubset]] = ()
    ) -> dict[ServiceKey, tuple[ServiceSubset, ...]]:
        """Return the subsets that some route sends to, and others, by service."""
        wanted: dict[ServiceKey, set[ServiceSubset]] = {}
        for key, subset in (*others, *(found for port in resolved for found in port.subsets)):
            wanted.setdefault(key, set()).add(subset)
        return {key: tuple(sorted(subsets)) for key, subsets in wanted.items()}

    def _destinations(
        self, subsets: Mapping[ServiceKey, tuple[ServiceSubset, ...]]
    ) -> tuple[list[Resource], list[Resource]]:
        """Return all outbound clusters and their endpoints."""
        memo, outbound = self._memo, self._outbound
        clusters = [*memo.get("fallback", (), fallback_clusters)] if self._options.intercepted else []
        endpoints: list[Resource] = []
        for key in self._keys:
            service, facts, wanted = self._services[key], self._facts[key], subsets.get(key, ())
            traffic = self._traffic[key]
            upstreams = self._options.dns_upstreams if facts.outside else ()
            clusters += memo.get(("clusters", key), (facts, wanted, outbound, traffic, upstreams), service_clusters)
            inputs = (service, facts, wanted, outbound, traffic, self._snapshot.settings.warning_instances)
            endpoints += memo.get(("endpoints", key), inputs, service_endpoints)
            self._faults += memo.get(("unusable", key), (service,), unusable_instances)
            if traffic.scopes:
                self._faults += memo.get(("orders", key), (facts, wanted, outbound, traffic), unusable_policies)
                found = memo.get(("approaches", key), (key, facts.ports, wanted, traffic), approaches)
                self._approaches.update(found)
        return clusters, endpoints

    def _outbound_listeners(self, resolved: _Resolved) -> list[Resource]:
        memo, options = self._memo, self._options
        result: list[Resource] = []
        if options.intercepted:
            result.append(memo.get("virtualOutbound", (options, self._passes_unknown), virtual_outbound))
        elif options.bind_outbound is None:
            return []
        http_ports = self._http_ports(resolved)
        if options.captures_foreign:
            result += self._port_listeners(http_ports, resolved)
        else:
            result += [memo.get(("http listener", port), (port, options), http_listener) for port in http_ports]
        bound = dict.fromkeys(http_ports, "HTTP")
        for key, ports in resolved.items():
            vip = self._snapshot.vips.get(key)
            for port, rules in ports:
                if port.protocol.is_http or (options.intercepted and vip is None):
                    continue
                if not options.intercepted and self._is_bound(key, port, bound):
                    continue
                inputs = (key, port.number, vip, rules, options, self._approaches_of(key, port, rules))
                result.append(memo.get(("tcp listener", key, port.number), inputs, tcp_listener))
                self._faults += memo.get(("tunnels", key, port.number), (key, rules, inputs[-1]), tunnel_faults)
        return result

    def _port_listeners(self, http_ports: Collection[int], resolved: _Resolved) -> list[Resource]:
        """Return the listeners of port numbers that foreign traffic comes to too."""
        chains: dict[int, list[Chain]] = {number: [] for number in http_ports}
        for key, ports in resolved.items():
            for port, rules in ports if key.is_outside else ():
                inputs = (self._services[key], port, rules, self._approaches_of(key, port, rules))
                known = self._memo.get(("chains", key, port.number), inputs, chains_of)
                if isinstance(known, Fault):
                    self._faults.append(known)
                elif known and port.number not in self._capture_ports:
                    chains.setdefault(port.number, []).extend(known)
        result = []
        for number, found in sorted(chains.items()):
            wanted = (number, number in http_ports, tuple(found), self._options, self._passes_unknown)
            made = self._memo.get(("port listener", number), wanted, port_listener)
            result.append(made.resource)
            self._faults += made.faults
        return result

    def _passing(self, key: ServiceKey) -> tuple[list[Resource], list[Resource]]:
        """Return clusters and listeners of what no rule declares of a host outside: it goes on as without a rule."""
        facts = self._memo.get(("undeclared", key), (self._services[key],), undeclared)
        vip = self._snapshot.vips.get(key)
        if facts is None or vip is None:
            return [], []
        inputs = (facts, (), self._outbound, ServiceTraffic.unsaid(), self._options.dns_upstreams)
        clusters = self._memo.get(("passing clusters", key), inputs, service_clusters)
        listeners = []
        for port in facts.ports:
            wanted = (key, port.number, vip, ResolvedPort((), True), self._options)
            listeners.append(self._memo.get(("passing listener", key, port.number), wanted, tcp_listener))
        return [*clusters], listeners

    def _approaches_of(self, key: ServiceKey, port: Port, rules: ResolvedPort) -> tuple[tuple[str, Approach], ...]:
        """Return what the clusters that a port leads to need of its routes or its listener."""
        if not self._approaches:
            return ()
        names_used = {
            names.outbound_cluster(key, port.number),
            *(name for route in rules.all_routes for name in route.clusters),
        }
        return tuple((name, self._approaches[name]) for name in sorted(names_used & self._approaches.keys()))

    def _is_bound(self, key: ServiceKey, port: Port, bound: dict[int, str]) -> bool:
        """Tell, and report, whether something else has this port of the one address that all are bound to."""
        owner = bound.setdefault(port.number, str(key))
        if owner == str(key):
            return False
        where = f"{self._options.bind_outbound}:{port.number}"
        reason = f"TCP port {port.number} has no listener: {where} is bound for {owner}"
        self._faults.append(Fault(f"service {key}", reason))
        return True

    def _http_ports(self, resolved: _Resolved) -> list[int]:
        """Return the numbers that are an HTTP port of some service; Envoy's own capture ports can't be."""
        numbers = {port.number for ports in resolved.values() for port, _ in ports if port.protocol.is_http}
        return sorted(numbers - self._capture_ports)

    @property
    def _capture_ports(self) -> set[int]:
        options = self._options
        return {options.inbound_port, options.outbound_port} if options.intercepted else set()

    def _route_tables(self, resolved: _Resolved) -> list[Resource]:
        if not self._options.intercepted and self._options.bind_outbound is None:
            return []
        hosts = self._memo.get("hosts", (self._named, self._caller.namespace), hosts_in_tables)
        tables: dict[int, list[VirtualHost]] = {number: [] for number in self._http_ports(resolved)}
        for key, ports in resolved.items():
            for port, rules in ports:
                if port.protocol.is_http and port.number in tables:
                    vip, ways = self._snapshot.vips.get(key), self._approaches_of(key, port, rules)
                    inputs = (key, port.number, hosts[key], vip, rules, ways)
                    host = self._memo.get(("virtual host", key, port.number), inputs, virtual_host)
                    self._faults += host.faults
                    if host.message.domains:  # Envoy refuses the whole table for one without
                        tables[port.number].append(host)
        passes = self._passes_unknown and self._options.intercepted
        return [
            self._memo.get(("route table", number), (number, tuple(members), passes), route_table)
            for number, members in tables.items()
        ] + self._detected_tables(resolved)

    def _detected_tables(self, resolved: _Resolved) -> list[Resource]:
        """Return the route table of each service port where HTTP is detected."""
        result = []
        for key, ports in resolved.items():
            for port, rules in ports:
                if rules.requests is not None:
                    inputs = (key, port.number, rules.requests, self._approaches_of(key, port, rules))
                    table, faults = self._memo.get(("detected table", key, port.number), inputs, service_table)
                    self._faults += faults
                    result.append(table)
        return result

    def _inbound(self) -> tuple[list[Resource], list[Resource]]:
        options, trust_domain = self._options, self._security.trust_domain
        ports, faults = inbound_ports(
            self._snapshot.workloads, self._snapshot.sidecars, trust_domain, options.bind_inbound
        )
        self._faults += faults
        clusters, listeners = self._memo.get("inbound", (ports, self._security, options), inbound_resources)
        return [*clusters], [*listeners]

    def _secrets(self) -> list[Resource]:
        memo, snapshot = self._memo, self._snapshot
        secrets = []
        for identity, held in sorted(snapshot.certificates.items()):
            name = names.certificate_secret(identity, snapshot.settings.trust_domain)
            secrets.append(memo.get(("secret", name), (name, held), certificate))
        if snapshot.trust_bundle_pem:
            secrets.append(memo.get("trust bundle", (snapshot.trust_bundle_pem,), trust_bundle))
        for name, credential in sorted(snapshot.credentials.items()):
            secrets += memo.get(("credential", name), (name, credential), credential_resources)
        return secrets

    def _dns_hosts(self) -> str:
        """Return the names dnsmasq gives out; the address table is compared whole, it changes seldom."""
        if self._options.gateway is not None:
            return ""  # nothing captures connections to virtual addresses there
        inputs = (self._named, self._snapshot.vips, self._caller.namespace, self._scope.unseen)
        return self._memo.get("dns", inputs, hosts_file)

    def _netfilter(self) -> NetfilterText:
        interception = self._options.interception
        if interception is None:
            return NetfilterText("", "")
        if self._options.capture_inbound and not interception.inbound_ports:
            proxied = (workload for workload in self._snapshot.workloads if workload.proxied)
            numbers = {port.number for workload in proxied for port in workload.ports}
            interception = structs.replace(interception, inbound_ports=tuple(sorted(numbers)))
        return self._memo.get("netfilter", (interception,), ruleset)


def _unruled(ports: tuple[Port, ...]) -> tuple[tuple[Port, ResolvedPort], ...]:
    return tuple((port, unruled(port)) for port in ports)


def _callable(sidecar: Sidecar, facts: ServiceFacts, resolved: _ResolvedPorts) -> _ResolvedPorts:
    ports = sidecar.ports_of(facts)
    return tuple((port, rules) for port, rules in resolved if port in ports)


def _also_unseen(keys: tuple[ServiceKey, ...], unseen: frozenset[ServiceKey]) -> tuple[ServiceKey, ...]:
    return tuple(sorted(unseen.union(keys))) if unseen else keys


def _seen(keys: tuple[ServiceKey, ...], unseen: frozenset[ServiceKey]) -> tuple[ServiceKey, ...]:
    return tuple(key for key in keys if key not in unseen) if unseen else keys
