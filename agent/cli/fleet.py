"""What the agents tell of themselves in Consul, and which nodes ought to tell something. Reads only."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from agent.adapters.consul.decode import decode_instances, decode_names
from agent.adapters.consul.meta import TLS
from agent.adapters.consul.store import KvConnection, NodeStatuses
from agent.cli.connection import Connection
from agent.mesh.names import KV_STATUS
from agent.mesh.service import Instance, Service, ServiceKey
from agent.mesh.status import NodeStatus

_PARALLEL = 8
"""Requests at a time: fast enough for a thousand services, far from Consul's limit of connections."""


def read_statuses(connection: Connection) -> list[NodeStatus]:
    """Return every node's status document; one that can't be read becomes a status that says so."""
    statuses, faults = NodeStatuses(connection.consul()).read()
    unreadable = [
        NodeStatus(fault.subject.removeprefix(KV_STATUS), updated_at=1.0, faults=(fault,)) for fault in faults
    ]
    return [*statuses, *unreadable]


def read_proxied_nodes(connection: Connection) -> Mapping[str, str]:
    """Return node → address of every node with an instance that an agent marked as proxied."""
    consul = KvConnection(connection.consul())
    names = _service_names(consul)

    def ask(name: str) -> list[tuple[str, str]]:
        params = [("filter", f'ServiceMeta["{TLS}"] == "true"')]
        answer = consul.send("get", f"/v1/catalog/service/{quote(name, safe='')}", params)
        return [(entry["Node"], entry["ServiceAddress"] or entry["Address"]) for entry in json.loads(answer.body) or ()]

    with ThreadPoolExecutor(_PARALLEL) as pool:
        return dict(sorted(pair for found in pool.map(ask, names) for pair in found))


def read_nodes(connection: Connection) -> list[str]:
    """Return the names of all nodes in Consul's catalog."""
    answer = KvConnection(connection.consul()).send("get", "/v1/catalog/nodes")
    return sorted(entry["Node"] for entry in json.loads(answer.body) or ())


def read_services(connection: Connection, excluded: Collection[str] = ()) -> dict[ServiceKey, Service]:
    """Return every mesh service of the catalog with its instances and their health."""
    consul = KvConnection(connection.consul())

    def ask(name: str) -> tuple[Instance, ...]:
        answer = consul.send("get", f"/v1/health/service/{quote(name, safe='')}")
        return decode_instances(name, answer.body.encode()).instances

    names = [name for name in _service_names(consul) if name not in excluded]
    by_key: dict[ServiceKey, list[Instance]] = {}
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for instances in pool.map(ask, names):
            for instance in instances:
                by_key.setdefault(instance.service, []).append(instance)
    return {key: Service.from_instances(key, found) for key, found in sorted(by_key.items())}


def _service_names(consul: KvConnection) -> list[str]:
    return sorted(decode_names(consul.send("get", "/v1/catalog/services").body.encode()))
