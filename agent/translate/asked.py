"""Servers that filters ask by themselves: authorizers and those of key sets; which cluster leads there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from envoy.config.cluster.v3 import cluster_pb2
from msgspec import Struct

from agent.mesh.authorizer import GrpcAuthorizer
from agent.mesh.key_set import NO_KEYS, usable_keys
from agent.mesh.mixer import PolicyRule
from agent.mesh.mixer_logs import LogRule
from agent.mesh.names import CLUSTER_DOMAIN, CLUSTER_TYPE, CONSUL_DOMAIN, DEFAULT_NAMESPACE, outbound_cluster
from agent.mesh.routes import Fault
from agent.mesh.security import WorkloadRules
from agent.mesh.service import Port, ServiceKey
from agent.mesh.settings import MeshSettings
from agent.mesh.snapshot import Resource
from agent.mesh.traffic_policy import ClientTls, TlsMode
from agent.translate.clusters import CONNECT_TIMEOUT_SECONDS
from agent.translate.custom import Asked
from agent.translate.facts import ServiceFacts
from agent.translate.key_sets import KeySource, agent_cluster, fetch_listener, from_agent
from agent.translate.log_lines import Streams
from agent.translate.mixer_guard import Mixing
from agent.translate.options import PlanOptions
from agent.translate.outside import dns_discovery
from agent.translate.resource import packed, resource, seconds, socket_address
from agent.translate.tls import foreign_socket

Known = Callable[[ServiceKey], ServiceFacts | None]
"""What this host knows of a service."""


class AskedServers(Struct, frozen=True):
    """Whom the filters of this host's workloads can ask, and whom they tell."""

    trust_domains: tuple[str, ...] = ()
    key_sources: Mapping[str, KeySource] = {}
    """By a key set's address."""
    authorizers: Mapping[str, Asked] = {}
    """By the provider's name; one that is not here cannot be asked, and nobody passes."""
    resources: tuple[Resource, ...] = ()
    """Clusters that no service has, and the agent's way to key sets."""
    faults: tuple[Fault, ...] = ()
    decision_log: str = ""
    """File to which AUDIT and dry runs tell; empty: standard output."""
    mixed: tuple[Mixing, ...] = ()
    """What Mixer's rules decide, made once for all ports."""
    logged: tuple[Streams, ...] = ()
    """What they write, likewise."""
    entry_log: str = ""
    """File for that; empty: standard output."""

    def mixing(self, rules: tuple[PolicyRule, ...]) -> Mixing | None:
        """Return what some rules of Mixer decide; None: nothing."""
        return next((each for each in self.mixed if each.rules == rules), None)

    def streams(self, rules: tuple[LogRule, ...]) -> Streams | None:
        """Return what some rules of Mixer write; None: nothing."""
        return next((each for each in self.logged if each.rules == rules), None)


def asked_servers(
    rules: Iterable[WorkloadRules],
    settings: MeshSettings,
    trust_domains: tuple[str, ...],
    known: Known,
    options: PlanOptions,
) -> AskedServers:
    """Return whom the rules of this host's workloads want to be asked."""
    every = tuple(rules)
    uris = {rule.keys_uri for one in every for rule in one.token_rules if rule.keys_uri and not rule.keys}
    if options.key_sets is not None:
        uris |= {source.uri for one in every for rule in one.policies for _, source in rule.fetching}
    key_servers, made = {}, {}
    for uri in sorted(uris):
        parts = urlsplit(uri)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        served = None if secure else service_port(host, port, known)
        if served is None:
            own = own_cluster(host, port, secure, options.dns_upstreams)
            made[own.name] = own
        key_servers[uri] = outbound_cluster(served[0], port) if served else own.name
    authorizers, faults = {}, list(_without_keys(every))
    for provider, wanting in sorted(_providers(every).items()):
        asked = _authorizer(provider, settings, known)
        if isinstance(asked, Asked):
            authorizers[provider] = asked
        else:
            faults.append(Fault(wanting, f"{asked}: what it is about is refused"))
    sources = {uri: KeySource(uri, cluster) for uri, cluster in key_servers.items()}
    resources = list(made.values())
    if key_servers and options.key_sets is not None:
        sources = {uri: from_agent(uri) for uri in key_servers}
        resources += [agent_cluster(options.key_sets), fetch_listener(options.key_sets, key_servers)]
    return AskedServers(trust_domains, sources, authorizers, tuple(resources), tuple(faults), options.decision_log)


def _without_keys(rules: Iterable[WorkloadRules]) -> Iterator[Fault]:
    """Yield a fault for each key set in a rule by which no token can be verified."""
    for origin, rule in dict.fromkeys(
        (one.origin, rule) for each in rules for one in each.tokens for rule in one.rules
    ):
        if rule.keys and usable_keys(rule.keys) is None:
            yield Fault(str(origin), f'the jwks of the issuer "{rule.issuer}" {NO_KEYS}: its tokens are refused')


def _providers(rules: Iterable[WorkloadRules]) -> dict[str, str]:
    """Return the providers that policies want, each with one of the policies."""
    return {policy.provider: str(policy.origin) for one in rules for policy in one.authorizations if policy.provider}


def _authorizer(name: str, settings: MeshSettings, known: Known) -> Asked | str:
    """Return an authorizer of the mesh's settings, or why it cannot be asked."""
    provider = next((each for each in settings.extension_providers if each.name == name), None)
    authorizer = provider.authorizer if provider else None
    if authorizer is None:
        return f"the mesh has no extensionProviders entry {name!r} that is an authorizer"
    served = service_port(authorizer.host, authorizer.port, known)
    if served is None:
        return (
            f"the provider {name!r} is {authorizer.host}:{authorizer.port}, which is no service that this host can call"
        )
    key, port = served
    if isinstance(authorizer, GrpcAuthorizer) and not port.protocol.is_http2:
        return (
            f"the provider {name!r} is asked by gRPC, but {key} says that its port {port.number} speaks {port.protocol}"
        )
    return Asked(name, authorizer, outbound_cluster(key, port.number))


def server_cluster(host: str, port: int, known: Known, upstreams: tuple[str, ...]) -> tuple[str, Resource | None]:
    """Return the cluster of a server that is named HOST:PORT, and (of one that is no service of the mesh) its own."""
    served = service_port(host, port, known)
    if served is not None:
        return outbound_cluster(served[0], port), None
    own = own_cluster(host, port, False, upstreams)
    return own.name, own


def service_port(host: str, port: int, known: Known) -> tuple[ServiceKey, Port] | None:
    """Return the service with that name and port, None: there is none."""
    for key in _meant(host.lower().rstrip(".")):
        facts = known(key)
        found = next((each for each in facts.ports if each.number == port), None) if facts else None
        if found is not None:
            return key, found
    return None


def _meant(host: str) -> Iterator[ServiceKey]:
    """Yield the services that a host can mean, the likeliest first."""
    name, _, rest = host.partition(".")
    if rest in ("", CONSUL_DOMAIN):
        yield ServiceKey(DEFAULT_NAMESPACE, name)
    namespace = rest.removesuffix(CLUSTER_DOMAIN).removesuffix(".").removesuffix(".svc")
    if namespace and "." not in namespace:
        yield ServiceKey(namespace, name)
    yield ServiceKey("", host)


def own_cluster(host: str, port: int, secure: bool, upstreams: tuple[str, ...]) -> Resource:
    """Return a cluster for a server outside of the mesh, whose name is looked up."""
    cluster: Any = cluster_pb2.Cluster(
        name=f"asked|{port}|{'tls' if secure else ''}|{host}", connect_timeout=seconds(CONNECT_TIMEOUT_SECONDS)
    )
    cluster.alt_stat_name = cluster.name.replace(".", "_")
    cluster.wait_for_warm_on_init.value = False
    if _is_address(host):
        cluster.type = cluster_pb2.Cluster.STATIC
    else:
        cluster.cluster_type.name = "envoy.clusters.dns"
        cluster.cluster_type.typed_config.CopyFrom(packed(dns_discovery(False, upstreams)))
    cluster.load_assignment.cluster_name = cluster.name
    endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.CopyFrom(socket_address(host, port))
    if secure:
        names = ClientTls(TlsMode.SIMPLE, sni="" if _is_address(host) else host, subject_alt_names=(host,))
        cluster.transport_socket.CopyFrom(foreign_socket(names, http2=False))
    return resource(CLUSTER_TYPE, cluster.name, cluster)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
