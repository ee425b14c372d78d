"""Objects that are frozen while they live and become garbage in circles are freed before they are many."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress

import pytest

from agent.runtime import garbage
from tests.waiting import eventually


class Circle:
    def __init__(self) -> None:
        self.own = self


async def test_frozen_circles_are_freed_once_they_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "FREEZE_SECONDS", 0.001)
    ready = asyncio.Event()
    ready.set()
    thresholds = gc.get_threshold()
    keeping = asyncio.create_task(garbage.keep_short(ready))
    try:
        await eventually(lambda: _is(gc.get_freeze_count()))
        few, many = gc.get_freeze_count() // 20, gc.get_freeze_count() // 5
        circles, before = [Circle() for _ in range(few)], gc.get_freeze_count()
        last = weakref.ref(circles[-1])
        await eventually(lambda: _is(gc.get_freeze_count() > before + few // 2))
        circles.clear()
        assert last() is not None, "it is frozen"
        circles += [Circle() for _ in range(many)]
        await eventually(lambda: _is(last() is None))
    finally:
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        gc.unfreeze()
        gc.set_threshold(*thresholds)


async def _is(value: object) -> object:
    return value
