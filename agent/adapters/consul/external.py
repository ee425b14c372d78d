"""`hostmesh register|deregister`: instances on hosts without an agent, entered straight into the catalog. Synchronous.

Each address becomes a node of its own (`external-node` in its meta, as Consul's external service monitor knows them),
because no Consul agent stands behind it: nothing overwrites it, and Consul checks nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.decode import decode_instances, name_fault
from agent.adapters.consul.meta import ANNOTATION_PREFIX, MAX_VALUE, registration, service_id
from agent.adapters.consul.store import KvConnection
from agent.errors import ConflictError, ConsulRefused
from agent.mesh.service import (
    AUTH_ANNOTATION,
    ActiveCheck,
    Instance,
    Labels,
    Port,
    ServiceKey,
    annotated_modes,
    annotation_fault,
)

NODE_PREFIX = "hostmesh-external-"
NODE_META = {"external-node": "true", "external-probe": "false", "hostmesh-external": "true"}
NOT_FOUND = 404


class ExternalInstance(Struct, frozen=True):
    """An instance on a host without an agent."""

    service: ServiceKey
    address: str
    ports: tuple[Port, ...]
    labels: Labels = ()
    annotations: tuple[tuple[str, str], ...] = ()
    service_account: str = "default"
    active_check: ActiveCheck = ActiveCheck()


class ExternalInstances:
    """The catalog entries that `hostmesh register` makes. Methods raise ConsulUnavailable and ConsulRefused."""

    def __init__(self, address: ConsulAddress) -> None:
        self._kv = KvConnection(address)

    def register(self, instance: ExternalInstance) -> str:
        """Enter (or replace) an instance and return its node's name in the catalog."""
        fault = name_fault(instance.service.name)
        if fault or not instance.ports:
            raise ConsulRefused(
                f"{fault.subject}: {fault.reason}" if fault else f"{instance.service}: give at least one port"
            )
        node, first = node_name(instance.address), instance.ports[0]
        shape = registration(
            instance.service,
            instance.ports,
            instance.labels,
            instance.service_account,
            active_check=instance.active_check,
            annotations={name: value for name, value in instance.annotations if not name.startswith(AUTH_ANNOTATION)},
            port_modes=annotated_modes(dict(instance.annotations)),
        )
        for name, value in instance.annotations:
            if name.startswith(AUTH_ANNOTATION):
                if wrong := annotation_fault(name.removeprefix(AUTH_ANNOTATION), value):
                    raise ConsulRefused(f"annotation {wrong}")
            elif ANNOTATION_PREFIX + name not in shape.meta:
                raise ConsulRefused(
                    f"annotation {name[:60]!r}: Consul takes letters, digits, '-' and '_' as its name, and at most "
                    f"{MAX_VALUE} bytes as its value"
                )
        entry = _service(instance, first.number, shape.meta, shape.tags)
        body = {"Node": node, "Address": instance.address, "NodeMeta": NODE_META, "Service": entry}
        self._kv.send("put", "/v1/catalog/register", data=json.dumps(body))
        return node

    def deregister(self, service: ServiceKey, address: str) -> list[str]:
        """Take every entry of that service at that address out and return their IDs; or raise ConflictError."""
        node = node_name(address)
        services = self._services(node)
        mine = [
            name
            for name, entry in services.items()
            if entry.get("Service") == service.name
            and (entry.get("Meta") or {}).get("namespace", "default") == service.namespace
        ]
        if not mine:
            raise ConflictError(
                f"{service} is not registered at {address} by `hostmesh register`; see the list of services"
            )
        for name in mine:
            self._take_out({"Node": node, "ServiceID": name})
        if len(mine) == len(services):
            self._take_out({"Node": node})
        return sorted(mine)

    def list(self) -> tuple[Instance, ...]:
        """Return every instance entered by `hostmesh register`."""
        answer = self._kv.send("get", "/v1/catalog/nodes", [("node-meta", "hostmesh-external:true")])
        nodes = {node["Node"] for node in json.loads(answer.body) or ()}
        names = {entry["Service"] for node in nodes for entry in self._services(node).values()}
        found: list[Instance] = []
        for name in sorted(names):
            body = self._kv.send("get", f"/v1/health/service/{quote(name, safe='')}").body
            found += [
                instance for instance in decode_instances(name, body.encode()).instances if instance.node in nodes
            ]
        return tuple(found)

    def _services(self, node: str) -> dict[str, Any]:
        answer = self._kv.send("get", f"/v1/catalog/node/{node}")
        content = json.loads(answer.body) if answer.code != NOT_FOUND else None
        services: dict[str, Any] = (content or {}).get("Services") or {}
        return services

    def _take_out(self, body: Mapping[str, str]) -> None:
        self._kv.send("put", "/v1/catalog/deregister", data=json.dumps(body))


def node_name(address: str) -> str:
    """Return the catalog's node name for an address; raises ConsulRefused if it is no IP address."""
    try:
        parsed = ip_address(address)
    except ValueError as error:
        raise ConsulRefused(f"{address!r} is no IP address; give the host's IPv4 or IPv6 address") from error
    return NODE_PREFIX + str(parsed).replace(".", "-").replace(":", "-")


def _service(instance: ExternalInstance, port: int, meta: Mapping[str, str], tags: Iterable[str]) -> dict[str, Any]:
    return {
        "ID": service_id(instance.service, port),
        "Service": instance.service.name,
        "Address": instance.address,
        "Port": port,
        "Meta": dict(meta),
        "Tags": list(tags),
    }
