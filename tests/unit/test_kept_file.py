"""A file that is kept: only the newest value counts, and a disk that takes nothing is told once and asked again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from agent.errors import HostError
from agent.runtime import kept_file
from agent.runtime.events import FaultsChanged
from agent.runtime.kept_file import DiskFault, KeptFile
from tests.waiting import eventually

FULL = HostError("/var/lib/x: cannot be written: No space left on device")


class Disk:
    """A disk that may be full."""

    def __init__(self) -> None:
        self.full = False
        self.tries = 0
        self.written: list[int] = []

    def write(self, value: int) -> None:
        self.tries += 1
        if self.full:
            raise FULL
        self.written.append(value)


@asynccontextmanager
async def kept(disk: Disk, told: list[FaultsChanged]) -> AsyncIterator[KeptFile[int]]:
    file = KeptFile(disk.write, DiskFault("x", "numbers are lost", told.append))
    running = asyncio.create_task(file.run())
    try:
        yield file
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_only_the_newest_value_is_written() -> None:
    disk = Disk()
    async with kept(disk, []) as file:
        for value in (1, 2, 3):
            file.keep(value)
        await eventually(lambda: _is(disk.written == [3]))


async def test_a_full_disk_is_told_once_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_file, "RETRY_SECONDS", 0.001)
    disk, told = Disk(), list[FaultsChanged]()
    disk.full = True
    async with kept(disk, told) as file:
        file.keep(1)
        await eventually(lambda: _is(disk.tries > 3))
        file.keep(2)
        disk.full = False
        await eventually(lambda: _is(disk.written[-1:] == [2] and len(told) == 2))
    assert [[str(fault) for fault in event.faults] for event in told] == [[str(told[0].faults[0])], []]
    assert told[0].faults[0].reason == f"{FULL} (numbers are lost)"
    assert {event.source for event in told} == {"disk: x"}


async def test_what_was_told_of_a_spoilt_file_is_over_once_it_is_written() -> None:
    told: list[FaultsChanged] = []
    fault = DiskFault("x", "numbers are lost", told.append)
    fault.note(None)
    fault.note(None)
    assert told == [FaultsChanged("disk: x", ())]


async def _is(value: object) -> object:
    return value
