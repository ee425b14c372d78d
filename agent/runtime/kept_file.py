"""Keeps a file like a value that changes. A disk that takes nothing is told and asked again; it costs nothing else.

May not know what the value is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.runtime.events import FaultsChanged

T = TypeVar("T")

RETRY_SECONDS = 5.0


class DiskFault:
    """Tells, each once, that a file cannot be written, and that it can again."""

    def __init__(self, file: str, consequence: str, post: Callable[[FaultsChanged], None]) -> None:
        """`consequence`: what it costs while it is so."""
        self._source = f"disk: {file}"
        self._consequence = consequence
        self._post = post
        self._told: str | None = ""  # what was told of the file's content when it was read is over once it is written

    def note(self, error: HostError | None) -> None:
        """Take how it went, None if it is written."""
        text = str(error) if error else None
        if text != self._told:
            self._told = text
            self._post(FaultsChanged(self._source, (Fault("disk", f"{text} ({self._consequence})"),) if text else ()))


class KeptFile(Generic[T]):
    """One file; written beside the loop, as a disk may take its time."""

    def __init__(self, write: Callable[[T], None], fault: DiskFault) -> None:
        """`write` puts a value on the disk and raises HostError."""
        self._write = write
        self._fault = fault
        self._newest: asyncio.Queue[T] = asyncio.Queue(maxsize=1)

    def keep(self, value: T) -> None:
        """Have this value on the disk, in the place of all before it."""
        if self._newest.full():
            self._newest.get_nowait()
        self._newest.put_nowait(value)

    async def run(self) -> NoReturn:
        """Write what is to be kept, until cancelled."""
        while True:
            value = await self._newest.get()
            try:
                await asyncio.to_thread(self._write, value)
            except HostError as error:
                self._fault.note(error)
                await asyncio.sleep(RETRY_SECONDS)
                if self._newest.empty():
                    self._newest.put_nowait(value)
            else:
                self._fault.note(None)
