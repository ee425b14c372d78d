"""Waiting for what another process does: until a condition holds or a deadline is over, never for a fixed time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T], what: str = "the condition", timeout: float = 20.0, interval: float = 0.02
) -> T:
    """Return the first true result; AssertionError (the condition's own, if it raises one) after timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            if value := condition():
                return value
            failure = AssertionError(f"not within {timeout:g} s: {what} (last: {value!r})")
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure
        time.sleep(interval)


async def eventually(condition: Callable[[], Awaitable[object]], timeout: float = 15.0) -> None:
    """Wait until the awaited condition is true; AssertionError after timeout seconds."""
    last: object = None
    try:
        async with asyncio.timeout(timeout):
            while not (last := await condition()):  # noqa: ASYNC110  # other processes change it
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise AssertionError(f"not within {timeout:g} s; last: {last!r}") from error
