"""Endpoints: where the serving instances of a service port or subset are. The only messages that know health. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.endpoint.v3 import endpoint_pb2

from agent.mesh.authentication import PeerModes
from agent.mesh.names import ENDPOINT_TYPE, outbound_cluster
from agent.mesh.routes import Fault, Subset
from agent.mesh.service import NOWHERE, Instance, Service, selects
from agent.mesh.settings import WarningInstances
from agent.mesh.snapshot import Resource
from agent.mesh.traffic_policy import TrafficPolicy
from agent.translate.facts import ClientSecurity, ServiceFacts, ServiceSubset
from agent.translate.locality import Place, groups
from agent.translate.policies import ServiceTraffic
from agent.translate.resource import UNIX, any_address, is_ip, resource
from agent.translate.tls import mesh_metadata

_MESH_METADATA = mesh_metadata()


def service_endpoints(
    service: Service,
    facts: ServiceFacts,
    subsets: tuple[ServiceSubset, ...],
    security: ClientSecurity,
    traffic: ServiceTraffic,
    warning: WarningInstances = WarningInstances.SERVE,
) -> tuple[Resource, ...]:
    """Return the endpoints of each cluster of a service, named as the clusters.

    Only serving instances with an IP address; without a certificate none that refuse plain text, and none at all where
    this host cannot connect as a rule orders.
    """
    if not facts.has_endpoints:
        return ()
    callable_ = tuple(i for i in service.instances if warning.serves(i.health) and _is_address(service, i.address))
    wanted: list[tuple[int, Subset | None]] = [(port.number, None) for port in facts.ports]
    wanted += [(s.port, s.subset) for s in subsets]
    made = []
    for port, subset in wanted:
        policy = traffic.of(port, subset)
        chosen = () if security.obstacle(policy.tls) else _of_port(callable_, port, subset, security)
        name, checked = outbound_cluster(facts.key, port, subset), facts.active_check.port
        made.append(_assignment(name, port, chosen, policy, traffic.place, security.peers, checked))
    return tuple(made)


def unusable_instances(service: Service) -> tuple[Fault, ...]:
    """Return a fault for each instance whose address Envoy would refuse, with all its siblings."""
    return tuple(
        Fault(f"service {service.key}", f"instance {i.id} is left out: its address {i.address!r} is not an IP address")
        for i in service.instances
        if not _is_address(service, i.address)
    )


def _is_address(service: Service, text: str) -> bool:
    """Tell whether Envoy can call an address. Sockets of this host are for rules to name: the catalog is untrusted."""
    return is_ip(text) or (service.outside is not None and text.startswith(UNIX))


def _of_port(
    instances: Iterable[Instance], port: int, subset: Subset | None, security: ClientSecurity
) -> tuple[Instance, ...]:
    """Return who serves the port in the subset; of two entries for one address the first in the catalog's order."""
    by_address: dict[tuple[str, int], Instance] = {}
    for instance in instances:
        number = instance.target_port(port)
        if number is None or (security.certificate is None and security.withholds(instance, number)):
            continue
        if subset is None or selects(subset.labels, instance.labels):
            by_address.setdefault((instance.address, number), instance)
    return tuple(by_address.values())


def _assignment(
    name: str,
    port: int,
    instances: tuple[Instance, ...],
    policy: TrafficPolicy,
    caller: Place,
    peers: PeerModes,
    checked: int,
) -> Resource:
    """Return the endpoints of a cluster; `checked` is the service port that active checks look at, or 0."""
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for group in groups(instances, policy, caller):
        locality = assignment.endpoints.add(priority=group.priority)
        if group.locality != NOWHERE:
            locality.locality.region, locality.locality.zone = group.locality.region, group.locality.zone
            locality.locality.sub_zone = group.locality.subzone
        if group.weight is not None:
            locality.load_balancing_weight.value = group.weight
        for instance in group.instances:
            number = instance.target_port(port) or port
            _add(locality, instance, number, peers.takes_tls(instance, number))
            if checked not in (0, port):
                looked_at = locality.lb_endpoints[-1].endpoint.health_check_config
                looked_at.port_value = instance.target_port(checked) or 0  # 0: the endpoint's own
    return resource(ENDPOINT_TYPE, name, assignment)


def _add(locality: Any, instance: Instance, port: int, mesh_tls: bool) -> None:
    endpoint = locality.lb_endpoints.add()
    if instance.address.startswith(UNIX):
        endpoint.endpoint.address.CopyFrom(any_address(instance.address, port))
    else:
        socket = endpoint.endpoint.address.socket_address
        socket.address = instance.address
        socket.port_value = port
    if instance.weight != 1:
        endpoint.load_balancing_weight.value = instance.weight
    if mesh_tls:
        endpoint.metadata.CopyFrom(_MESH_METADATA)
