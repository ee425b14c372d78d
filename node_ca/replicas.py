"""What CAs with shared records tell each other of their issuers, in Consul's KV: a step is safe only if all know it.

Below `hostmesh/ca/replicas/`, one key for each CA. May not decide when a step may be taken (rotation.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec
from msgspec import Struct

from node_ca.consul import Consul, ConsulFault, Operation
from node_ca.errors import InventoryError
from node_ca.issuer_book import Entry

_TOP = "hostmesh/ca/replicas/"
FORGET_SECONDS = 7 * 86400.0
"""A CA that has not been there for so long counts as gone for good."""


class Replica(Struct, frozen=True):
    """One CA, as it said of itself."""

    host: str
    seen_at: float
    """Unix time, seconds: when it said so."""
    issuers: tuple[Entry, ...]

    def entry(self, issuer: str) -> Entry | None:
        """Return what an issuer is to this CA, None if it does not know it."""
        return next((entry for entry in self.issuers if entry.id == issuer), None)


class Replicas:
    """The CAs that share their records with this one; every call raises InventoryError."""

    def __init__(self, consul: Consul, own: str, host: str, now: Callable[[], float] = time.time) -> None:
        """Take this CA's lasting name among the keys, and the host that people know it by."""
        self._consul = consul
        self._own = own
        self._host = host
        self._now = now

    async def announce(self, issuers: Iterable[Entry]) -> None:
        """Tell the others which issuers this CA has."""
        said = msgspec.json.encode(Replica(self._host, self._now(), tuple(issuers)))
        try:
            await self._consul.transact([Operation("set", _TOP + self._own, said)])
        except ConsulFault as error:
            raise InventoryError(f"inventory: {error}") from error

    async def others(self) -> list[Replica]:
        """Return the other CAs; those that have been away for a week are forgotten."""
        try:
            found = await self._consul.read_all(_TOP)
            others = [
                msgspec.json.decode(stored.value, type=Replica) for stored in found if stored.key != _TOP + self._own
            ]
        except (ConsulFault, msgspec.DecodeError) as error:
            raise InventoryError(f"inventory: {error}") from error
        return [other for other in others if self._now() - other.seen_at < FORGET_SECONDS]

    async def close(self) -> None:
        """Close the connections to Consul."""
        await self._consul.close()
