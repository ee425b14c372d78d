"""What Envoy has taken, as it says so: for tools that wait for one resource. Decides nothing, holds nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from msgspec import Struct

MAX_BEHIND = 10_000
"""Acknowledgements that wait for a slow reader; past that it is cut off rather than taking the agent's memory."""

Taken = tuple[tuple[str, str, str], ...]
"""(type URL, name, version) of resources that Envoy holds from now on; an empty version: it holds none."""


class Acknowledgement(Struct, frozen=True):
    """One ACK of Envoy's."""

    time: float
    """CLOCK_MONOTONIC, seconds."""
    settled: bool
    """Nothing that was published is unanswered now."""
    taken: Taken


class AckFeed:
    """Hands each acknowledgement to whoever follows; costs nothing while nobody does."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Acknowledgement]] = set()

    @property
    def is_followed(self) -> bool:
        """Tell whether anybody follows."""
        return bool(self._queues)

    def tell(self, acknowledgement: Acknowledgement) -> None:
        """Hand this to all followers; one that is too far behind gets no more."""
        for queue in list(self._queues):
            try:
                queue.put_nowait(acknowledgement)
            except asyncio.QueueFull:
                self._queues.discard(queue)

    async def follow(self, first: Callable[[], Acknowledgement]) -> AsyncGenerator[Acknowledgement, None]:
        """Yield `first()`, then each acknowledgement; ends when the reader was too slow."""
        queue: asyncio.Queue[Acknowledgement] = asyncio.Queue(MAX_BEHIND)
        self._queues.add(queue)
        try:
            yield first()
            while queue in self._queues or not queue.empty():
                yield await queue.get()
        finally:
            self._queues.discard(queue)
