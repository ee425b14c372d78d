"""Time as a thing that is passed in, so that what depends on it can be tested without waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def now(self) -> float:
        """Return the wall clock time: Unix time, seconds."""

    def monotonic(self) -> float:
        """Return a time that never jumps, seconds, without a meaningful zero."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; zero or less only lets other tasks run."""


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        """Return the wall clock time: Unix time, seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return a time that never jumps, seconds, without a meaningful zero."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; zero or less only lets other tasks run."""
        await asyncio.sleep(max(0.0, seconds))
