"""Consul's catalog JSON → mesh types. Pure.

Everything in it is untrusted: bounded, checked, skipped with a reason, never raised.

Only an answer that is no catalog answer at all raises (ConsulUnavailable), so that it can't pass for "no instances".
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

import msgspec
from msgspec import Struct

from agent.adapters.consul import meta
from agent.adapters.consul.active_check import read
from agent.errors import ConsulUnavailable
from agent.mesh.names import AGENT_SERVICE, DEFAULT_NAMESPACE
from agent.mesh.ports import LISTENER_PORTS
from agent.mesh.routes import Fault
from agent.mesh.service import (
    UDP_REFUSAL,
    ActiveCheck,
    Health,
    Instance,
    Labels,
    Locality,
    Port,
    PortModes,
    Protocol,
    ServiceKey,
    annotated_modes,
    annotation_fault,
    means_udp,
)

MAX_INSTANCES = 10_000
MAX_LABELS = 128
MAX_PORTS = 64
MAX_FAULTS = 20
_MEMBER_CHECK = "serfHealth"
"""Consul's own check of each member of its gossip."""
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_PLACE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")


class _Node(Struct, rename="pascal"):
    node: str
    address: str = ""
    datacenter: str = ""
    meta: dict[str, str] | None = None


class _Service(Struct, rename="pascal"):
    address: str = ""
    port: int = 0
    meta: dict[str, str] | None = None
    tags: list[str] | None = None
    id: str = msgspec.field(default="", name="ID")


class _Check(Struct, rename="pascal"):
    status: str = ""
    check_id: str = msgspec.field(default="", name="CheckID")


class _Entry(Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: list[_Check] | None = None


_ENTRIES = msgspec.json.Decoder(list[msgspec.Raw])
_ENTRY = msgspec.json.Decoder(_Entry)
_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TAGS = msgspec.json.Decoder(list[str])


class Decoded(Struct, frozen=True):
    """The instances of one catalog name, sorted, and what could not be used."""

    instances: tuple[Instance, ...]
    faults: tuple[Fault, ...]
    members: frozenset[str] = frozenset()
    """Their nodes that run a Consul agent, which other programs' entries need not."""
    silent: frozenset[tuple[str, str]] = frozenset()
    """Those (node, ID) that are critical only because Consul hears nothing of their node."""


class _Unusable(Exception):
    """An entry can't be an instance; its text is the reason."""


def decode_names(body: bytes) -> dict[str, bytes]:
    """Return service name → its tags, undecoded, in an answer of `catalog/services`, less the agents' own.

    Raises ConsulUnavailable if it is none.
    """
    try:
        return {name: bytes(tags) for name, tags in _NAMES.decode(body).items() if name != AGENT_SERVICE}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConsulUnavailable(_no_catalog("catalog/services", error)) from error


def decode_tags(tags: bytes) -> frozenset[str]:
    """Return the tags of a name in that answer; Consul gives them in any order."""
    try:
        return frozenset(_TAGS.decode(tags))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return frozenset()


def name_fault(name: str) -> Fault | None:
    """Return why a catalog name can't be a mesh service, or None: callers use it as host name, so it is a DNS label."""
    if _DNS_LABEL.fullmatch(name):
        return None
    return Fault(
        f"service {name[:80]!r}",
        "the name is no DNS label; register it with lower-case letters, digits and '-' (at most 63), or leave it "
        "out of the mesh (setting excludedServices)",
    )


def decode_instances(name: str, body: bytes) -> Decoded:
    """Return the instances in an answer of `health/service/NAME`; raises ConsulUnavailable if it is none.

    An instance without a port is no mesh instance and left out silently.
    """
    try:
        entries = _ENTRIES.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConsulUnavailable(_no_catalog(f"health/service/{name[:80]}", error)) from error
    instances: set[Instance] = set()
    members: set[str] = set()
    silent: set[tuple[str, str]] = set()
    faults: list[Fault] = []
    for raw in entries[:MAX_INSTANCES]:
        try:
            entry = _ENTRY.decode(raw)
            instance = _instance(name, entry)
            faults += _part_faults(name, entry)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            faults.append(Fault(f"service {name}", f"an instance can't be read: {_brief(str(error))}"))
        except _Unusable as error:
            faults.append(Fault(f"service {name}", str(error)))
        else:
            instances.update((instance,) if instance else ())
            own = [check for check in entry.checks or () if check.check_id != _MEMBER_CHECK]
            if len(own) < len(entry.checks or ()):
                members.add(entry.node.node)
            if instance and instance.health is Health.CRITICAL and _health(own) is not Health.CRITICAL:
                silent.add((instance.node, instance.id))
    if len(entries) > MAX_INSTANCES:
        faults.insert(
            0, Fault(f"service {name}", f"has {len(entries)} instances; only the first {MAX_INSTANCES} are used")
        )
    return Decoded(tuple(sorted(instances)), tuple(faults[:MAX_FAULTS]), frozenset(members), frozenset(silent))


def _instance(name: str, entry: _Entry) -> Instance | None:
    service, pairs = entry.service, entry.service.meta or {}
    where = f"instance {_brief(service.id)!r} on node {_brief(entry.node.node)!r}"
    ports = _ports(service.port, pairs)
    if not ports:
        return None
    for port in ports:
        if port.number in LISTENER_PORTS:
            raise _Unusable(f"{where}: port {port.number} is one of Envoy's own on every host; use another one")
    namespace, account = pairs.get(meta.NAMESPACE) or DEFAULT_NAMESPACE, pairs.get(meta.ACCOUNT) or "default"
    if not 0 < len(entry.node.node) <= 255 or len(service.id) > 512:
        raise _Unusable(f"{where}: the node's name or the service ID is empty or too long")
    if not _DNS_LABEL.fullmatch(namespace):
        raise _Unusable(f"{where}: meta namespace {_brief(namespace)!r} is no DNS label")
    if not _ACCOUNT.fullmatch(account):
        raise _Unusable(f"{where}: meta service-account {_brief(account)!r} is no account name")
    address = _address(service.address or entry.node.address)
    if address is None:
        text = _brief(service.address or entry.node.address)
        raise _Unusable(f"{where}: address {text!r} is no IP address of a host; register an IP address")
    return Instance(
        id=service.id,
        service=_key(namespace, name),
        node=sys.intern(entry.node.node),
        address=address,
        ports=ports,
        labels=_labels(pairs, service.tags or []),
        health=_health(entry.checks or []),
        proxied=pairs.get(meta.TLS) == "true",
        service_account=sys.intern(account),
        locality=_locality(entry.node),
        port_modes=_port_modes(pairs),
        active_check=ActiveCheck() if isinstance(check := _active_check(service.port, pairs, ports), str) else check,
    )


def _part_faults(name: str, entry: _Entry) -> list[Fault]:
    """Return what of an instance could not be used, beside its ports with names that can't be."""
    pairs = entry.service.meta or {}
    where = f"instance {_brief(entry.service.id)!r} on node {_brief(entry.node.node)!r}"
    reasons = []
    if numbers := _udp_ports(entry.service.port, pairs):
        reasons.append(f"port {', '.join(map(str, numbers))}: {UDP_REFUSAL}")
    if isinstance(check := _active_check(entry.service.port, pairs, _ports(entry.service.port, pairs)), str):
        reasons.append(check)
    wrong = (annotation_fault(port, value) for port, value in _auth_annotations(pairs).items())
    reasons += [f"{reason}; it says nothing" for reason in wrong if reason]
    return [Fault(f"service {name}", f"{where}: {reason}") for reason in reasons]


def _auth_annotations(pairs: Mapping[str, str]) -> dict[str, str]:
    return {
        key.removeprefix(meta.AUTH_PREFIX): value for key, value in pairs.items() if key.startswith(meta.AUTH_PREFIX)
    }


def _port_modes(pairs: Mapping[str, str]) -> PortModes:
    said = _auth_annotations(pairs)
    return annotated_modes(said) if said else ()


def _udp_ports(number: int, pairs: Mapping[str, str]) -> list[int]:
    declared = [found for key, value in pairs.items() if (found := meta.port_of(key, value))]
    numbers = {number for _, number, protocol in declared if means_udp(protocol)}
    if not declared and means_udp(pairs.get(meta.PROTOCOL, "")):
        numbers.add(number)
    return sorted(numbers)


def _active_check(port: int, pairs: Mapping[str, str], ports: tuple[Port, ...]) -> ActiveCheck | str:
    text = pairs.get(meta.ACTIVE_CHECK)
    check = ActiveCheck() if text is None else read(text, port)
    if isinstance(check, str) or not check.kind or not (wrong := check.obstacle(ports)):
        return check
    return f"meta {meta.ACTIVE_CHECK}: {wrong}"


def _locality(node: _Node) -> Locality:
    """Return where a node is: its datacenter, and zone and subzone from its meta; parts that can't be are left out."""
    pairs = node.meta or {}
    parts = [pairs.get(meta.REGION) or node.datacenter, pairs.get(meta.ZONE, ""), pairs.get(meta.SUBZONE, "")]
    return _place(*(part if _PLACE.fullmatch(part) else "" for part in parts))


def _ports(number: int, pairs: Mapping[str, str]) -> tuple[Port, ...]:
    declared = (meta.port_of(key, value) for key, value in pairs.items())
    ports = {
        found[1]: _port(found[1], found[0], found[2])
        for found in sorted(filter(None, declared))
        if _PORT_NAME.fullmatch(found[0]) and not means_udp(found[2])
    }
    spoken = pairs.get(meta.PROTOCOL, "")
    if not ports and 0 < number < 65536 and not means_udp(spoken):
        protocol = Protocol.from_name(spoken)
        return (_port(number, protocol.value, protocol.value),)
    # The registered port comes first in meaning but the tuple is sorted: every host must see the same value.
    return tuple(sorted(ports.values())[:MAX_PORTS])


def _labels(pairs: Mapping[str, str], tags: list[str]) -> Labels:
    labels: dict[str, str] = {}
    for tag in tags:
        cut = min((at for at in (tag.find("="), tag.find("|")) if at > 0), default=0)
        if cut and tag[:cut] != meta.NAMESPACE:
            labels.setdefault(tag[:cut], tag[cut + 1 :])
    labels.update((key, value) for key, value in pairs.items() if not meta.is_reserved(key, value))
    return _interned(
        tuple(
            sorted(
                (key, value)
                for key, value in labels.items()
                if _LABEL_KEY.fullmatch(key) and len(value) <= meta.MAX_VALUE
            )[:MAX_LABELS]
        )
    )


def _health(checks: list[_Check]) -> Health:
    # Maintenance mode is a critical check of Consul's own; a status this version doesn't know must not get traffic.
    statuses = {check.status for check in checks}
    if statuses - {"passing", "warning"}:
        return Health.CRITICAL
    return Health.WARNING if "warning" in statuses else Health.PASSING


# 10,000 instances repeat a few keys, ports, label sets and addresses: share one object of each.
@lru_cache(maxsize=16_384)
def _key(namespace: str, name: str) -> ServiceKey:
    return ServiceKey(sys.intern(namespace), sys.intern(name))


@lru_cache(maxsize=16_384)
def _place(region: str, zone: str, subzone: str) -> Locality:
    return Locality(sys.intern(region), sys.intern(zone), sys.intern(subzone))


@lru_cache(maxsize=16_384)
def _port(number: int, name: str, protocol: str) -> Port:
    return Port(number, sys.intern(name), Protocol.from_name(protocol))


@lru_cache(maxsize=16_384)
def _interned(labels: Labels) -> Labels:
    return tuple((sys.intern(key), sys.intern(value)) for key, value in labels)


@lru_cache(maxsize=16_384)
def _address(text: str) -> str | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if address.is_unspecified or address.is_multicast or "%" in text else sys.intern(str(address))


def _brief(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _no_catalog(path: str, error: Exception) -> str:
    return f"Consul: GET {path}: the answer is no catalog answer ({_brief(str(error))}); is something else listening?"
