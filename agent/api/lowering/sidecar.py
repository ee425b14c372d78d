"""Sidecars to the mesh's own. Pure; only for specs that validation found nothing wrong with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.api.checks.addresses import is_unix
from agent.api.envelope import Document
from agent.api.lowering.traffic_policy import traffic_scope
from agent.mesh.service import Protocol, labels_of
from agent.mesh.settings import OutboundTrafficPolicy
from agent.mesh.sidecar import ANY, LOCALHOST, EgressListener, HostPattern, IngressListener, Sidecar
from agent.mesh.traffic_policy import ConnectionPool

_NOWHERE = "~"


def lower_sidecar(document: Document) -> Sidecar:
    """Return what a Sidecar says."""
    spec, namespace = document.spec, document.namespace
    selector = (spec.get("workloadSelector") or {}).get("labels")
    mode = (spec.get("outboundTrafficPolicy") or {}).get("mode")
    return Sidecar(
        document.ref,
        labels_of(selector) if selector else None,
        tuple(_egress(listener, namespace) for listener in spec.get("egress") or ()),
        tuple(_ingress(listener) for listener in spec.get("ingress") or ()),
        _pool(spec.get("inboundConnectionPool")),
        OutboundTrafficPolicy(mode) if mode else None,
    )


def _egress(listener: Mapping[str, Any], namespace: str) -> EgressListener:
    patterns = (host_pattern(host, namespace) for host in listener["hosts"])
    port = (listener.get("port") or {}).get("number")
    return EgressListener(tuple(pattern for pattern in patterns if pattern is not None), port)


def host_pattern(host: str, own: str) -> HostPattern | None:
    """Return what an egress host (NAMESPACE/HOST) in an object of this namespace means, None: nothing (`~`)."""
    namespace, _, name = host.partition("/")
    if namespace == _NOWHERE:
        return None
    return HostPattern(own if namespace == "." else namespace, name.rstrip(".").lower() if name != ANY else ANY)


def _ingress(listener: Mapping[str, Any]) -> IngressListener:
    port = listener["port"]
    declared = port.get("protocol")
    address, target = _endpoint(listener.get("defaultEndpoint") or "")
    return IngressListener(
        port["number"],
        Protocol.from_name(declared) if declared else None,
        address,
        target,
        _pool(listener.get("connectionPool")),
    )


def _endpoint(text: str) -> tuple[str, int]:
    """Return the address and port of `127.0.0.1:PORT`, `[::1]:PORT`, `:PORT`…; a Unix socket has no port."""
    if not text or is_unix(text):
        return text, 0
    host, _, number = text.rpartition(":")
    return host.strip("[]") or LOCALHOST, int(number)


def _pool(plain: Mapping[str, Any] | None) -> ConnectionPool | None:
    return None if plain is None else traffic_scope({"connectionPool": plain}).policy.connections
