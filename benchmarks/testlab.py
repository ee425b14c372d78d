"""A lab for one benchmark: a name and ports of its own, and no trace left, whatever ends the benchmark."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from agent.lab.lab import Lab
from agent.lab.plan import LabPlan
from tests.ports import free_ports

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def running(make_plan: Callable[[str, int, int], LabPlan]) -> Iterator[Lab]:
    """Bring up the lab of `make_plan(name, page port, consul port)`; take it down also on Ctrl-C, TERM and HUP.

    From the first of these signals on they are ignored, so that a second Ctrl-C cannot leave half a lab. Raises
    as Lab.up.
    """
    page, consul = free_ports(2)
    lab = Lab(make_plan(f"hmt-{uuid.uuid4().hex[:6]}", page, consul), lambda step: note(f"lab: {step}"))
    before = {number: signal.signal(number, _interrupt) for number in _ENDING}
    try:
        note(f"lab: {lab.plan.name}")
        lab.up()
        yield lab
    finally:
        _ignore_endings()
        lab.down()
        for number, handler in before.items():
            signal.signal(number, handler)


def note(line: str) -> None:
    """Tell the reader what goes on; standard output is the figures' alone."""
    sys.stderr.write(f"{line}\n")


def machine() -> str:
    """Return what figures depend on: cores, and how busy the machine is already (load average over 1 minute)."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Linux {os.uname().release}"


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _ignore_endings()
    raise SystemExit(128 + number)


def _ignore_endings() -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
