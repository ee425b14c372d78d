"""The shape of a hostmesh registration in Consul's catalog: service IDs, meta keys and tags.

Pure; `decode` is its reverse.

Consul takes only letters, digits, `-` and `_` in meta keys (and refuses the whole registration otherwise), at most 64
pairs: ports are `port-<name>`, and a label whose key or length doesn't fit goes as the tag `key=value`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from agent.adapters.consul.active_check import written
from agent.mesh.names import DEFAULT_NAMESPACE
from agent.mesh.service import ActiveCheck, Labels, Port, PortModes, ServiceKey

PROTOCOL = "protocol"
NAMESPACE = "namespace"
ACCOUNT = "service-account"
TLS = "hostmesh-tls"
OWN_PREFIX = "hostmesh-"
ACTIVE_CHECK = "hostmesh-active-check"
ANNOTATION_PREFIX = "hostmesh-annotation-"
AUTH_PREFIX = "hostmesh-auth-"
"""`hostmesh-auth-9080` = `NONE` or `MUTUAL_TLS`: the annotation `auth.istio.io/9080`, a name that Consul refuses."""
PORT_PREFIX = "port-"
RESERVED = frozenset({PROTOCOL, NAMESPACE, ACCOUNT})

REGION, ZONE, SUBZONE = "region", "zone", "subzone"
"""Keys of a node's own meta (`node_meta` of the Consul agent); without a region, Consul's datacenter is it."""

MAX_PAIRS, MAX_VALUE = 64, 512
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PORT_VALUE = re.compile(r"(\d{1,5})/([a-z0-9-]{1,32})")


_UNCHECKED = ActiveCheck()


class Registration(Struct, frozen=True):
    """What a service's catalog entry carries besides name, address and port."""

    meta: Mapping[str, str]
    tags: tuple[str, ...]


def service_id(key: ServiceKey, port: int) -> str:
    """Return the Consul service ID of an instance: `hostmesh-reviews-9080`, the namespace appended unless default."""
    namespace = "" if key.namespace == DEFAULT_NAMESPACE else f"-{key.namespace}"
    return f"hostmesh-{key.name}-{port}{namespace}"


def registration(
    key: ServiceKey,
    ports: Iterable[Port],
    labels: Labels,
    account: str,
    *,
    proxied: bool = False,
    active_check: ActiveCheck = _UNCHECKED,
    annotations: Mapping[str, str] | None = None,
    port_modes: PortModes = (),
) -> Registration:
    """Return the meta and tags of an instance; what Consul can't take as meta becomes a tag."""
    ports = tuple(ports)
    meta = {NAMESPACE: key.namespace, ACCOUNT: account}
    if ports:
        meta[PROTOCOL] = ports[0].protocol.value
    if proxied:
        meta[TLS] = "true"
    if active_check.kind:
        meta[ACTIVE_CHECK] = written(active_check)
    meta.update((f"{PORT_PREFIX}{port.name}", f"{port.number}/{port.protocol.value}") for port in ports)
    meta.update((f"{AUTH_PREFIX}{port}", mode.value) for port, mode in port_modes)
    for name, text in (annotations or {}).items():
        if _fits(ANNOTATION_PREFIX + name, text):
            meta[ANNOTATION_PREFIX + name] = text
    # The list of all services has tags and no meta: whoever follows a namespace only learns from it where to look.
    tags = [f"{NAMESPACE}={key.namespace}"] if key.namespace != DEFAULT_NAMESPACE else []
    for label, value in labels:
        if len(meta) < MAX_PAIRS and _fits(label, value) and not is_reserved(label, value):
            meta[label] = value
        else:
            tags.append(f"{label}={value}")
    return Registration(meta, tuple(tags))


def is_reserved(key: str, value: str) -> bool:
    """Tell whether a meta pair is hostmesh's own and so no label."""
    return key in RESERVED or key.startswith(OWN_PREFIX) or port_of(key, value) is not None


def port_of(key: str, value: str) -> tuple[str, int, str] | None:
    """Return (name, number, protocol text) if the meta pair declares a port, else None (then it is a label)."""
    match = _PORT_VALUE.fullmatch(value) if key.startswith(PORT_PREFIX) else None
    if match is None or not 0 < int(match[1]) < 65536:
        return None
    return key.removeprefix(PORT_PREFIX), int(match[1]), match[2]


def _fits(key: str, value: str) -> bool:
    return _KEY.fullmatch(key) is not None and len(value.encode()) <= MAX_VALUE and "=" not in key
