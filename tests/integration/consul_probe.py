"""Collects what a watch says and waits for conditions on it, with a deadline and never with a fixed sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")


class Probe(Generic[_T]):
    """A sink that remembers everything; `until` waits until some condition of the whole list holds."""

    def __init__(self) -> None:
        self.updates: list[_T] = []
        self._changed = asyncio.Event()

    def __call__(self, update: _T) -> None:
        self.updates.append(update)
        self._changed.set()

    async def until(self, condition: Callable[[list[_T]], object], seconds: float = 15.0) -> list[_T]:
        """Return the updates once the condition is true of them; raises AssertionError with them after the deadline."""
        try:
            async with asyncio.timeout(seconds):
                while not condition(self.updates):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise AssertionError(f"never came true; the last of {len(self.updates)}: {self.updates[-3:]}") from error
        return self.updates


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Any]) -> AsyncIterator[asyncio.Task[Any]]:
    """Run a coroutine for the length of the block; its failure fails the block."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if task.done() and not task.cancelled():
            task.result()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
