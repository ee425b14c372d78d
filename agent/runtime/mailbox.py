"""The reconciler's mailbox: every source posts events, one owner takes them in bursts."""

from __future__ import annotations

import asyncio
import time
from typing import Generic, TypeVar

E = TypeVar("E")


class Mailbox(Generic[E]):
    """An unbounded queue of events that is emptied in one take.

    Sources never wait: the owner folds a burst into one state, so what matters is the last word, not every word.
    """

    def __init__(self) -> None:
        self._events: list[E] = []
        self._posted = asyncio.Event()
        self._oldest = 0.0

    @property
    def waiting_seconds(self) -> float:
        """Return how long the oldest event has waited."""
        return time.monotonic() - self._oldest if self._events else 0.0

    def post(self, event: E) -> None:
        """Add an event (from the event loop's own thread)."""
        if not self._events:
            self._oldest = time.monotonic()
        self._events.append(event)
        self._posted.set()

    async def take(self) -> list[E]:
        """Wait for the first event and return all that are there, oldest first."""
        await self._posted.wait()
        self._posted.clear()
        events, self._events = self._events, []
        return events
