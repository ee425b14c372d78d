"""TLS that a gateway passes on to services by the server names of callers in the mesh (AUTO_PASSTHROUGH). Pure.

A caller asks for `outbound_.9080_.v1_.reviews.default.svc.cluster.local`: the port 9080 and the subset v1 of a service.
It speaks to the service's own Envoy from end to end, so the clusters here add no TLS of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from msgspec import Struct

from agent.mesh.gateway import GatewayServer, common_host
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, canonical_host, outbound_cluster, qualified_hosts, server_name
from agent.mesh.routes import Subset
from agent.mesh.service import Resolution, ServiceKey
from agent.mesh.snapshot import Resource
from agent.translate.facts import ServiceFacts, ServiceSubset
from agent.translate.guard import Guard
from agent.translate.resolve import Target
from agent.translate.resource import resource
from agent.translate.tcp import connection_chain


class Passed(Struct, frozen=True):
    """A service's port, or a subset by a port, as callers ask for it."""

    cluster: str
    """That of the gateway's own requests."""
    server_names: tuple[str, ...]

    @property
    def passing_cluster(self) -> str:
        """Return the cluster that the connections go to as they are."""
        return server_name(self.cluster)


def subsets_by_port(
    facts: Mapping[ServiceKey, ServiceFacts], declared: Iterable[tuple[ServiceKey, tuple[Subset, ...]]]
) -> Iterator[tuple[ServiceKey, ServiceSubset]]:
    """Yield every subset that is declared, by each port of its service."""
    for key, subsets in declared:
        for port in facts[key].ports if key in facts else ():
            yield from ((key, ServiceSubset(port.number, subset)) for subset in subsets)


def passed_through(
    server: GatewayServer,
    facts: Mapping[ServiceKey, ServiceFacts],
    declared: Iterable[tuple[ServiceKey, tuple[Subset, ...]]],
) -> tuple[Passed, ...]:
    """Return what a server lets callers ask for: the services of its hosts."""
    subsets = dict(declared)
    found: list[Passed] = []
    for key, service in facts.items():
        outside = service.outside
        if _is_served(server, key) and not (outside and outside.resolution is Resolution.ORIGINAL):
            for port in service.ports:
                wanted = (None, *subsets.get(key, ()))
                found += [_passed(key, port.number, subset) for subset in wanted]
    return tuple(found)


def passing_clusters(passed: Iterable[Passed], clusters: Mapping[str, Resource]) -> Iterator[Resource]:
    """Yield the clusters to pass on to: as those of the gateway's own requests, without their TLS."""
    for one in passed:
        cluster = cluster_pb2.Cluster.FromString(clusters[one.cluster].value)
        for field in ("transport_socket", "transport_socket_matches", "typed_extension_protocol_options"):
            cluster.ClearField(field)
        cluster.name = one.passing_cluster
        cluster.alt_stat_name = one.passing_cluster.replace(".", "_")
        references = []
        if cluster.type == cluster_pb2.Cluster.EDS:
            cluster.eds_cluster_config.service_name = one.cluster
            references.append((ENDPOINT_TYPE, one.cluster))
        yield resource(CLUSTER_TYPE, cluster.name, cluster, references)


def passing_chains(stat_prefix: str, passed: Iterable[Passed], taken: Iterable[str], guard: Guard) -> Iterator[Any]:
    """Yield a filter chain (envoy.config.listener.v3.FilterChain) for each; `taken` names have another one."""
    others = set(taken)
    for one in passed:
        if names := [name for name in one.server_names if name not in others]:
            others.update(names)
            chain = connection_chain(stat_prefix, one.passing_cluster, (Target(one.passing_cluster, 100),), {}, guard)
            chain.filter_chain_match.server_names.extend(names)
            yield chain


def _is_served(server: GatewayServer, key: ServiceKey) -> bool:
    names = {canonical_host(key), *(() if key.is_outside else qualified_hosts(key))}
    return any(
        namespace in ("*", key.namespace) and any(common_host(host, name) == name for name in names)
        for namespace, host in server.hosts
    )


def _passed(key: ServiceKey, port: int, subset: Subset | None) -> Passed:
    """Say how it is asked for: by hostmesh's own clients, and by Istio's."""
    hosts = dict.fromkeys((canonical_host(key), *(() if key.is_outside else qualified_hosts(key)[-1:])))
    names = (f"outbound_.{port}_.{subset.name if subset else ''}_.{host}".lower() for host in hosts)
    return Passed(outbound_cluster(key, port, subset), tuple(names))
