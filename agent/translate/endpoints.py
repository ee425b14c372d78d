"""Endpoints: where the serving instances of a service port or subset are. The only messages that know health. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2

from agent.mesh.names import ENDPOINT_TYPE, outbound_cluster
from agent.mesh.routes import Fault, Subset
from agent.mesh.service import Instance, Service, selects
from agent.mesh.settings import MtlsMode
from agent.mesh.snapshot import Resource
from agent.translate.facts import ClientSecurity, ServiceFacts, ServiceSubset
from agent.translate.resource import is_ip, resource
from agent.translate.tls import mesh_metadata

_MESH_METADATA = mesh_metadata()


def service_endpoints(
    service: Service, facts: ServiceFacts, subsets: tuple[ServiceSubset, ...], security: ClientSecurity
) -> tuple[Resource, ...]:
    """Return the endpoints of each cluster of a service, named as the clusters.

    Only serving instances with an IP address; without a certificate under `strict` only those that are not proxied.
    """
    callable_ = [i for i in service.instances if i.is_serving and is_ip(i.address)]
    if security.withholds_proxied:
        callable_ = [instance for instance in callable_ if not instance.proxied]
    marks = security.mode is not MtlsMode.DISABLED
    wanted: list[tuple[int, Subset | None]] = [(port.number, None) for port in facts.ports]
    wanted += [(s.port, s.subset) for s in subsets]
    return tuple(_assignment(facts, port, subset, callable_, marks) for port, subset in wanted)


def unusable_instances(service: Service) -> tuple[Fault, ...]:
    """Return a fault for each instance whose address Envoy would refuse, with all its siblings."""
    return tuple(
        Fault(f"service {service.key}", f"instance {i.id} is left out: its address {i.address!r} is not an IP address")
        for i in service.instances
        if not is_ip(i.address)
    )


def _assignment(
    facts: ServiceFacts, port: int, subset: Subset | None, instances: Iterable[Instance], marks: bool
) -> Resource:
    name = outbound_cluster(facts.key, port, subset)
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    chosen = instances if subset is None else [i for i in instances if selects(subset.labels, i.labels)]
    locality = assignment.endpoints.add()
    for address, number, proxied in _addresses(chosen, port):
        _add(locality, address, number, proxied and marks)
    if not locality.lb_endpoints:
        del assignment.endpoints[:]
    return resource(ENDPOINT_TYPE, name, assignment)


def _addresses(instances: Iterable[Instance], port: int) -> Iterator[tuple[str, int, bool]]:
    """Yield each address once: of two entries for one address, the first in the catalog's order counts."""
    seen = set()
    for instance in instances:
        number = instance.target_port(port)
        if number is not None and (instance.address, number) not in seen:
            seen.add((instance.address, number))
            yield instance.address, number, instance.proxied


def _add(locality: Any, address: str, port: int, mesh_tls: bool) -> None:
    endpoint = locality.lb_endpoints.add()
    socket = endpoint.endpoint.address.socket_address
    socket.address = address
    socket.port_value = port
    if mesh_tls:
        endpoint.metadata.CopyFrom(_MESH_METADATA)
