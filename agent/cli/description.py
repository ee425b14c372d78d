"""What the mesh knows of a service or an instance, as plain records that `describe` prints. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.api.analysis.analyze import analyze
from agent.api.analysis.world import World
from agent.api.lowering.lower import lower
from agent.mesh.authentication import PeerModes
from agent.mesh.names import hosts_by_service
from agent.mesh.reach import followed_routes
from agent.mesh.routes import Destination, Route, ServicePolicy
from agent.mesh.security import SecurityRules
from agent.mesh.service import Instance, Port, Service, ServiceKey
from agent.mesh.settings import MeshSettings
from agent.mesh.status import NodeStatus

Record = dict[str, Any]


def service_record(world: World, key: ServiceKey, namespace: str) -> Record:
    """Return a service of the catalog: ports, names, instances, the rules about it in order, and their faults."""
    services = world.services or {}
    lowered = lower(world.documents, world.catalog.services)
    policy = lowered.policies.get(key) or ServicePolicy.empty()
    policy = policy.seen_from(namespace)
    followed = followed_routes(policy, services[key].ports)
    return {
        "service": str(key),
        "names": list(hosts_by_service(services, namespace)[key]),
        "ports": _ports(services[key].ports),
        "mtls": _modes(world.settings, lowered.security, services[key]),
        "security": _guards(world.settings, lowered.security, services[key]),
        "instances": [_instance(each) for each in services[key].instances],
        "routes": [{**_route(route), "of": kind} for kind, routes in followed.items() for route in routes],
        "otherwise": _otherwise(policy, followed),
        "policies": [str(rule.origin) for rule in policy.connections],
        "subsets": [
            {"name": name, "labels": dict(labels), "serving": world.instances(key, labels)}
            for name, labels in sorted(world.subsets.get(key, {}).items())
        ],
        "findings": _findings(world, key),
    }


def _modes(settings: MeshSettings, rules: SecurityRules, service: Service) -> dict[str, list[str]]:
    """Return what instances accept, by the service's port."""
    peers = PeerModes.of(settings, rules.peers)
    return {
        str(port.number): sorted(
            {str(peers.of_instance(each, each.target_port(port.number) or port.number)) for each in service.instances}
        )
        or [str(settings.mtls)]
        for port in service.ports
    }


def _guards(settings: MeshSettings, rules: SecurityRules, service: Service) -> list[str]:
    """Return the policies that are for some of its instances."""
    found = set()
    for each in service.instances:
        own = rules.of_workload(each.service, each.labels, settings.root_namespace)
        found |= {
            f"{policy.origin} ({policy.action}{', dry run' if policy.dry_run else ''})" for policy in own.authorizations
        }
        found |= {str(tokens.origin) for tokens in own.tokens}
    return sorted(found)


def _otherwise(policy: ServicePolicy, followed: Mapping[str, tuple[Route, ...]]) -> str:
    """Return what becomes of what no route matches, for each kind of port if they differ."""
    ends = {
        kind: "all instances" if policy.default_route or not routes or kind == "tcp" else _UNMATCHED[kind]
        for kind, routes in followed.items()
    }
    if len(set(ends.values())) == 1:
        return next(iter(ends.values()))
    return ", ".join(f"{end} ({kind})" for kind, end in ends.items()) or "all instances"


_UNMATCHED = {"http": "404", "tls": "no connection"}


def instance_record(world: World, each: Instance, status: NodeStatus | None) -> Record:
    """Return an instance: where it is, its health and subsets, and what its node's agent reports."""
    subsets = sorted(
        name for name, labels in world.subsets.get(each.service, {}).items() if set(labels) <= set(each.labels)
    )
    return {
        **_instance(each),
        "service": str(each.service),
        "ports": _ports(each.ports),
        "serves": world.settings.warning_instances.serves(each.health),
        "subsets": subsets,
        "identity": f"{each.service.namespace}/{each.service_account}",
        "proxy": _proxy(status) if status and each.proxied else None,
    }


def _instance(each: Instance) -> Record:
    return {
        "id": each.id,
        "node": each.node,
        "address": each.address,
        "health": str(each.health),
        "proxied": each.proxied,
        "labels": dict(each.labels),
    }


def _ports(ports: tuple[Port, ...]) -> list[Record]:
    return [{"number": port.number, "name": port.name, "protocol": str(port.protocol)} for port in ports]


def _route(route: Route) -> Record:
    return {
        "rule": str(route.origin),
        "name": route.name,
        "matches": len(route.matches),
        "destinations": [{"weight": one.weight, "destination": _target(one.destination)} for one in route.destinations],
    }


def _target(destination: Destination) -> str:
    return f"{destination.service}/{destination.subset.name}" if destination.subset else str(destination.service)


def _proxy(status: NodeStatus) -> Record:
    faults = (*status.proxy.nacks, *status.faults)
    return {
        "state": status.state,
        "acknowledged": status.proxy.acked_revision,
        "sent": status.proxy.config_revision,
        "envoy": status.proxy.version,
        "scope": msgspec.to_builtins(status.scope),
        "faults": [f"{fault.subject}: {fault.reason}" for fault in faults],
    }


def _findings(world: World, key: ServiceKey) -> list[str]:
    about = {
        f"{document.kind} {document.name}.{document.namespace}"
        for document in world.documents
        if any(reference.service == key for reference in world.references(document))
    }
    return [one.line for one in analyze(world.documents, world.services, world.settings) if one.object in about]
