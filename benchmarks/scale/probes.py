"""When was a change seen? A probe runs whatever is measured in a process of its own and answers that question.

`WatcherProbe` measures the catalog watch alone; `agent_probe.AgentProbe` the whole agent,
up to Envoy's acknowledgement.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import Protocol

import msgspec
from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from benchmarks.scale.catalog_load import Change


class Probe(Protocol):
    """Something that follows the catalog in a process of its own."""

    name: str

    async def start(self) -> float:
        """Start following and return the monotonic time of the process's start."""
        ...

    async def synced(self) -> float:
        """Return the monotonic time at which everything had been seen."""
        ...

    async def seen(self, change: Change) -> float:
        """Wait until the change was seen and return the monotonic time of that; called before the change is made."""
        ...

    @property
    def processes(self) -> Mapping[str, int]:
        """Return name → pid of the processes whose CPU time and memory count."""
        ...

    async def differences(self, serving: Mapping[str, frozenset[str]]) -> int | None:
        """Return of how many services it knows other endpoints than these (service → `IP:port`); None: can't tell."""

    async def stop(self) -> None:
        """End the process."""


class Seen(Struct, frozen=True, array_like=True):
    """One line of the watcher: a service as it is from now on; the time is CLOCK_MONOTONIC, as in all processes."""

    time: float
    service: str
    instances: tuple[tuple[str, bool, str], ...]
    """(id, critical, version label)."""


SYNCED = "*synced"
"""In place of a service's name: the first sync is complete."""


class WatcherProbe:
    """Runs `benchmarks.scale.watcher`, which prints each update of the catalog watch."""

    name = "catalog watch"

    def __init__(self, consul: ConsulAddress) -> None:
        self._consul = consul
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._synced: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._wanted: dict[asyncio.Future[float], Change] = {}

    @property
    def processes(self) -> Mapping[str, int]:
        """Return the watcher's pid."""
        assert self._process is not None
        return {self.name: self._process.pid}

    async def differences(self, _serving: Mapping[str, frozenset[str]]) -> int | None:
        """Return None: it hasn't got the addresses."""
        return None

    async def start(self) -> float:
        """Start the watcher."""
        started = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.scale.watcher", self._consul.url, stdout=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        return started

    async def synced(self) -> float:
        """Return when the watch was complete."""
        return await self._synced

    async def seen(self, change: Change) -> float:
        """Return when the watcher told of the change."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._wanted[future] = change
        try:
            return await future
        finally:
            del self._wanted[future]

    async def stop(self) -> None:
        """End the watcher."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        if self._reader is not None:
            await self._reader

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        decode = msgspec.json.Decoder(Seen).decode
        async for line in self._process.stdout:
            self._note(decode(line))

    def _note(self, seen: Seen) -> None:
        if seen.service == SYNCED:
            self._synced.set_result(seen.time)
        for future, change in self._wanted.items():
            if change.service == seen.service and _shows(seen, change) and not future.done():
                future.set_result(seen.time)


def _shows(seen: Seen, change: Change) -> bool:
    found = next((instance for instance in seen.instances if instance[0] == change.instance), None)
    if change.kind.removes:
        return found is None
    return found == (change.instance, change.critical, change.version)
