"""The least that each role needs of Consul's ACLs, as policies in Consul's own language (HCL). Pure text.

Keys are those of `agent.mesh.names`; what a role may not do is as much tested as what it may.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.mesh.names import AGENT_SERVICE, KV_CONFIG, KV_MESH, KV_STATUS, KV_TICKETS

KV_CA = "hostmesh/ca/"
"""Where several hostmesh-ca keep their common records."""

_CATALOG = ('node_prefix "" { policy = "read" }', 'service_prefix "" { policy = "read" }')


def agent_policy(node: str, services: Iterable[str]) -> str:
    """Return the policy of hostmesh-agent on a node: it writes its own status, tickets and services, nobody else's."""
    return _text(
        f"hostmesh-agent on the node {node}. Operators know it by its status and tickets: no other may write them.",
        _prefix(KV_CONFIG, "read"),
        _key(KV_MESH, "read"),
        _key(KV_STATUS + node, "write"),
        _prefix(f"{KV_TICKETS}{node}/", "write"),
        f'session "{node}" {{ policy = "write" }}',
        f'agent "{node}" {{ policy = "read" }}',
        *_CATALOG,
        *(f'service "{name}" {{ policy = "write" }}' for name in (AGENT_SERVICE, *services)),
    )


def ca_policy() -> str:
    """Return the policy of hostmesh-ca where several keep their records in Consul; a single one needs no token."""
    return _text("hostmesh-ca, one of several with common records (ca.yaml: replicas).", _prefix(KV_CA, "write"))


def viewer_policy() -> str:
    """Return the policy of who may see rules, settings, services and the state of proxies, and change nothing."""
    return _text("A viewer of the mesh.", *_viewing())


def operator_policy(namespace: str, *, proxies: bool) -> str:
    """Return the policy of who writes one namespace's rules; `proxies`: may look into every Envoy of the mesh, too."""
    return _text(
        f"The operators of the namespace {namespace}.",
        _prefix(f"{KV_CONFIG}{namespace}/", "write"),
        *_viewing(),
        *([_prefix(KV_TICKETS, "write")] if proxies else []),
    )


def administrator_policy() -> str:
    """Return the policy of who operates the whole mesh.

    Nobody but an agent may write a status: it says by which certificate the agent is known.
    """
    return _text(
        "The administrators of the mesh: all rules and settings, a look into every Envoy, `hostmesh register`.",
        _prefix(KV_CONFIG, "write"),
        _key(KV_MESH, "write"),
        _prefix(KV_STATUS, "read"),
        _prefix(KV_TICKETS, "write"),
        'node_prefix "" { policy = "read" }',
        'node_prefix "hostmesh-external-" { policy = "write" }',
        'service_prefix "" { policy = "write" }',
    )


def _viewing() -> tuple[str, ...]:
    return _prefix(KV_CONFIG, "read"), _key(KV_MESH, "read"), _prefix(KV_STATUS, "read"), *_CATALOG


def _prefix(prefix: str, policy: str) -> str:
    return f'key_prefix "{prefix}" {{ policy = "{policy}" }}'


def _key(key: str, policy: str) -> str:
    return f'key "{key}" {{ policy = "{policy}" }}'


def _text(title: str, *rules: str) -> str:
    return "\n".join((f"# Consul ACL policy. {title}", *rules, ""))
