"""The port and label arguments of `hostmesh register`, as istioctl's (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from agent.errors import UserError
from agent.mesh.ports import LISTENER_PORTS
from agent.mesh.service import UDP_REFUSAL, Labels, Port, Protocol, labels_of, means_udp

WELL_KNOWN = {80: "http", 443: "https", 3306: "mysql", 6379: "redis", 8080: "http", 9080: "http", 27017: "mongo"}
"""Names of bare ports; the name says the protocol (Istio's port naming convention)."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


def parse_ports(arguments: Iterable[str]) -> tuple[Port, ...]:
    """Return the ports that `[name:]number …` mean, in the order given; raises UserError."""
    ports: list[Port] = []
    for argument in arguments:
        port = _parse_port(argument)
        if port.number in LISTENER_PORTS:
            raise UserError(f"port {port.number} is one of Envoy's own on every host; use another one")
        if any(port.number == other.number for other in ports):
            raise UserError(f"port {port.number} is given twice; give each port once")
        if any(port.name == other.name for other in ports):
            port = Port(port.number, f"{port.name}-{port.number}", port.protocol)
        ports.append(port)
    return tuple(ports)


def parse_pairs(values: Sequence[str], what: str, *, bare: bool = False) -> Labels:
    """Return the pairs of `-l env=prod,version=v2 -l …`; `bare` allows a key alone. Raises UserError."""
    pairs: dict[str, str] = {}
    for item in (item.strip() for value in values for item in value.split(",")):
        key, equals, value = item.partition("=")
        if not key or not (equals or bare):
            raise UserError(f"{what} {item!r}: not key=value; write for example env=prod,version=v2")
        pairs[key] = value
    return labels_of(pairs)


def _parse_port(argument: str) -> Port:
    name, colon, digits = argument.rpartition(":")
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits) <= 65535:
        raise UserError(f"port {argument!r}: not [name:]number with a number from 1 to 65535, for example http:7000")
    number = int(digits)
    if not colon:
        name = WELL_KNOWN.get(number, f"tcp-{number}")
    elif not _NAME.match(name):
        raise UserError(
            f"port {argument!r}: the name may have lower-case letters, digits and dashes, for example grpc-api"
        )
    if means_udp(name):
        raise UserError(f"port {argument!r}: {UDP_REFUSAL}")
    return Port(number, name, Protocol.from_name(name))
