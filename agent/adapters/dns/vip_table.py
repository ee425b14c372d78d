"""Keeps the table of virtual addresses on disk, so that a service has the same ones after a restart."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip


class _Entry(Struct, frozen=True):
    namespace: str
    name: str
    v4: str
    v6: str


class _Table(Struct, frozen=True):
    version: int
    vips: tuple[_Entry, ...]


class VipTable:
    """The table's file (JSON, mode 0600)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> tuple[dict[ServiceKey, Vip], tuple[Fault, ...]]:
        """Return the table, empty if there is none yet; an unreadable one counts as empty and gives a Fault."""
        try:
            data = read_optional(self.path)
            return (_decode(data) if data is not None else {}), ()
        except (HostError, ValueError) as error:  # msgspec's and ipaddress's errors are ValueErrors
            reason = f"the table of virtual addresses can't be read, services get addresses anew: {error}"
            return {}, (Fault(str(self.path), reason),)

    def save(self, vips: Mapping[ServiceKey, Vip]) -> None:
        """Replace the file; raises HostError."""
        entries = tuple(_Entry(key.namespace, key.name, str(vip.v4), str(vip.v6)) for key, vip in sorted(vips.items()))
        write_atomic(self.path, msgspec.json.encode(_Table(1, entries)) + b"\n")


def _decode(data: bytes) -> dict[ServiceKey, Vip]:
    table = msgspec.json.decode(data, type=_Table)
    if table.version != 1:
        raise ValueError(f"version {table.version} is not known (this agent writes 1)")
    return {ServiceKey(e.namespace, e.name): Vip(IPv4Address(e.v4), IPv6Address(e.v6)) for e in table.vips}
