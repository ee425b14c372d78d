"""What the agents tell of themselves in Consul, and which nodes ought to tell something. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from agent.adapters.consul.meta import TLS
from agent.adapters.consul.store import KvConnection, NodeStatuses
from agent.cli.connection import Connection
from agent.mesh.names import KV_STATUS
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
    names = json.loads(consul.send("get", "/v1/catalog/services").body) or {}

    def ask(name: str) -> list[tuple[str, str]]:
        params = [("filter", f'ServiceMeta["{TLS}"] == "true"')]
        answer = consul.send("get", f"/v1/catalog/service/{quote(name, safe='')}", params)
        return [(entry["Node"], entry["ServiceAddress"] or entry["Address"]) for entry in json.loads(answer.body) or ()]

    with ThreadPoolExecutor(_PARALLEL) as pool:
        return dict(sorted(pair for found in pool.map(ask, names) for pair in found))
