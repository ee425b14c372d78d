"""Takes what hostmesh has put into Consul out again: of one node, or of the whole mesh. Synchronous.

First it is listed, then exactly that is removed: whatever was registered, locked or written since stays, and is told.
Only services that bear hostmesh's own ID are touched; other programs' stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.external import NODE_META
from agent.adapters.consul.generations import without_number
from agent.adapters.consul.meta import NAMESPACE, service_id
from agent.adapters.consul.store import CONFLICT, MAX_OPERATIONS, NOT_FOUND, KvConnection, Stored
from agent.errors import ConflictError
from agent.mesh.names import DEFAULT_NAMESPACE, status_key, ticket_key
from agent.mesh.service import ServiceKey

KV_TREE = "hostmesh/"
SESSION_NAME = "hostmesh-agent "


class Registered(Struct, frozen=True, order=True):
    """A service of hostmesh's in the catalog."""

    node: str
    id: str
    name: str
    revision: int
    """Consul's ModifyIndex; 0 in a Consul agent's own list, which has none."""
    alive: bool = False
    """The node's Consul agent lives, and would register it again."""


class Session(Struct, frozen=True, order=True):
    """A session of a hostmesh-agent."""

    id: str
    node: str


class Belongings(Struct, frozen=True):
    """What is there."""

    services: tuple[Registered, ...] = ()
    sessions: tuple[Session, ...] = ()
    keys: tuple[Stored, ...] = ()
    nodes: tuple[str, ...] = ()
    """Nodes that `hostmesh register` made."""

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to take out."""
        return not (self.services or self.sessions or self.keys or self.nodes)


class Departure:
    """Lists and removes; every method raises ConsulUnavailable, ConsulRefused, removals ConflictError too."""

    def __init__(self, address: ConsulAddress) -> None:
        self._kv = KvConnection(address)

    def of_this_node(self, node: str) -> Belongings:
        """Return what a hostmesh-agent has put into its own Consul agent and for its node."""
        entries = self._get("/v1/agent/services")
        services = tuple(
            sorted(Registered(node, id_, it["Service"], 0) for id_, it in entries.items() if _is_own(id_, it))
        )
        mine = f"{SESSION_NAME}{node}"
        status = self._kv.read_one(status_key(node))
        keys = (*((status,) if status else ()), *self._kv.read(ticket_key(node)))
        return Belongings(services, self._sessions(lambda name: name == mine), keys)

    def of_the_mesh(self) -> Belongings:
        """Return everything of hostmesh's in this Consul datacenter."""
        services: list[Registered] = []
        external: list[str] = []
        for node in self._get("/v1/catalog/nodes"):
            name = node["Node"]
            if (node.get("Meta") or {}).items() >= NODE_META.items():
                external.append(name)
            entries = self._entries(name)
            alive = bool(entries) and self._lives(name)
            services += [Registered(name, it["ID"], it["Service"], it["ModifyIndex"], alive) for it in entries]
        sessions = self._sessions(lambda name: name.startswith(SESSION_NAME))
        return Belongings(tuple(sorted(services)), sessions, tuple(self._kv.read(KV_TREE)), tuple(sorted(external)))

    def remove_local(self, services: Iterable[Registered]) -> None:
        """Deregister services of the local Consul agent, which tells the servers."""
        for service in services:
            self._kv.send("put", f"/v1/agent/service/deregister/{quote(service.id, safe='')}")

    def remove(self, found: Belongings, *, with_services: bool = True) -> None:
        """Remove what was found if it is still as it was; raises ConflictError naming the first that is not."""
        for session in found.sessions:
            self._kv.send("put", f"/v1/session/destroy/{session.id}")
        if with_services:
            self._change([_service_removal(service) for service in found.services])
        for node in found.nodes:
            self._remove_external(node)
        gone_with_sessions = {key.key: key for key in found.keys}
        left = [stored for stored in self._kv.read(KV_TREE) if stored.key in gone_with_sessions]
        changed = next((it for it in left if it.revision != gone_with_sessions[it.key].revision), None)
        if changed is not None:
            raise ConflictError(f"{changed.key} was written meanwhile; look who works there, and run it again")
        self._change([{"KV": {"Verb": "delete-cas", "Key": it.key, "Index": it.revision}} for it in left])

    def _remove_external(self, node: str) -> None:
        content = self._get(f"/v1/catalog/node/{quote(node, safe='')}")
        if content is None:
            return
        if content.get("Services"):
            raise ConflictError(f"node {node} has services that are not hostmesh's; take them out first")
        self._change([{"Node": {"Verb": "delete-cas", "Node": _numbered(content["Node"], "Node")}}])

    def _change(self, operations: list[dict[str, Any]]) -> None:
        for start in range(0, len(operations), MAX_OPERATIONS):
            part = operations[start : start + MAX_OPERATIONS]
            answer = self._kv.send("put", "/v1/txn", data=json.dumps(part))
            if answer.code == CONFLICT:
                failure = json.loads(answer.body)["Errors"][0]
                raise ConflictError(
                    f"{_name(part[failure['OpIndex']])} was changed meanwhile ({failure['What']}); "
                    "look who works there, and run it again"
                )

    def _sessions(self, is_own: Any) -> tuple[Session, ...]:
        found = self._get("/v1/session/list") or ()
        return tuple(sorted(Session(it["ID"], it["Node"]) for it in found if is_own(it.get("Name") or "")))

    def _entries(self, node: str) -> list[dict[str, Any]]:
        content = self._get(f"/v1/catalog/node/{quote(node, safe='')}") or {}
        return [entry for name, entry in (content.get("Services") or {}).items() if _is_own(name, entry)]

    def _lives(self, node: str) -> bool:
        checks = self._get(f"/v1/health/node/{quote(node, safe='')}") or ()
        return any(check["CheckID"] == "serfHealth" and check["Status"] == "passing" for check in checks)

    def _get(self, path: str) -> Any:
        answer = self._kv.send("get", path)
        return None if answer.code == NOT_FOUND else json.loads(answer.body)


def _is_own(name: str, entry: dict[str, Any]) -> bool:
    """Tell whether hostmesh registered it: its ID is made of its name, port and namespace as only hostmesh does."""
    namespace = (entry.get("Meta") or {}).get(NAMESPACE, DEFAULT_NAMESPACE)
    own = service_id(ServiceKey(namespace, entry["Service"]), entry.get("Port", 0))
    return own in (name, without_number(name))


def _service_removal(service: Registered) -> dict[str, Any]:
    body = {"ID": service.id, "Service": service.name, "ModifyIndex": service.revision}
    return {"Service": {"Verb": "delete-cas", "Node": service.node, "Service": body}}


def _numbered(entry: dict[str, Any], name: str) -> dict[str, Any]:
    return {name: entry[name], "ModifyIndex": entry["ModifyIndex"]}


def _name(operation: dict[str, Any]) -> str:
    if "KV" in operation:
        return str(operation["KV"]["Key"])
    if "Service" in operation:
        return f"service {operation['Service']['Service']['ID']} of node {operation['Service']['Node']}"
    return f"node {operation['Node']['Node']['Node']}"
