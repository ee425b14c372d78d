"""Keeps Python's garbage collector from stopping the agent. Knows nothing of the mesh.

A full collection looks at every object: at 10,000 instances that took 130 to 350 ms, about one in two seconds at ten
changes a second. What stays is therefore frozen (left out of collections) again and again; what is
replaced is freed by its reference count, frozen or not.
"""

from __future__ import annotations

import asyncio
import gc
from typing import NoReturn

YOUNG_OBJECTS = 20_000
"""New objects until the youngest generation is looked at: a plan of 1,000 services makes about as many."""
FREEZE_SECONDS = 30.0
GROWTH = 1.1
"""A full collection when there are so many times the objects that the last one left. Frozen ones that refer to each
other in a circle, as a lost connection's exceptions and the frames they were raised in, are freed by nothing else."""


def begin() -> None:
    """Freeze what the imports made: nothing of it will ever be garbage."""
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)
    gc.freeze()


async def keep_short(ready: asyncio.Event) -> NoReturn:
    """Freeze what the first sync made, and from then on what has come since; ends by cancellation."""
    await ready.wait()
    while True:
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        bound = gc.get_freeze_count() * GROWTH
        while gc.get_freeze_count() <= bound:
            await asyncio.sleep(FREEZE_SECONDS)
            gc.collect(1)  # what is young and garbage shall not be frozen
            gc.freeze()
