"""Keeps what was last known of the mesh on disk, so that a host serves after a boot while Consul is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.runtime.state import LastKnown

log = logging.getLogger(__name__)

SAVE_INTERVAL_SECONDS = 10.0

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LastKnown)


def encode(last: LastKnown) -> bytes:
    """Return the state as bytes."""
    return _encoder.encode(last)


def decode(data: bytes) -> LastKnown:
    """Return the state these bytes hold; raises ValueError if they hold none."""
    return _decoder.decode(data)


class LastKnownFile:
    """The file of the last known state (mode 0600)."""

    def __init__(self, path: Path) -> None:
        self.on_written: Callable[[HostError | None], None] = lambda _: None
        """Takes how it went, whenever the state was to be saved."""
        self._path = path
        self._saved: bytes | None = None
        self._is_final = False

    def load(self) -> tuple[LastKnown | None, tuple[Fault, ...]]:
        """Return the state, None if there is none; one that can't be read is a fault and counts as none."""
        try:
            self._saved = read_optional(self._path)
            return (decode(self._saved) if self._saved is not None else None), ()
        except (HostError, ValueError) as error:
            return None, (Fault(str(self._path), f"the last known state cannot be read and is not used: {error}"),)

    async def keep(self, current: Callable[[], LastKnown], changes: Callable[[], int]) -> None:
        """Save every ten seconds if `changes` has counted on, until cancelled; what a full disk refused, again."""
        saved = changes()
        while True:
            await asyncio.sleep(SAVE_INTERVAL_SECONDS)
            count = changes()
            if count != saved and await self.save(current()):
                saved = count

    async def save_finally(self, last: LastKnown) -> None:
        """Save this state, and none after it: what a host says when it leaves is not what it shall boot with."""
        await self.save(last)
        self._is_final = True

    async def save(self, last: LastKnown) -> bool:
        """Save this state now if it differs from what is saved; tell whether it is on the disk."""
        data = encode(last)
        if data == self._saved or self._is_final:
            return True
        try:
            await asyncio.to_thread(write_atomic, self._path, data)
        except HostError as error:
            log.warning("the last known state is not saved: %s", error)
            self.on_written(error)
            return False
        self._saved = data
        self.on_written(None)
        return True
