"""This agent as a unit of systemd: readiness, status line, watchdog (sd_notify(3))."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from agent.mesh.status import NodeStatus
from agent.runtime.notify import notify

SHOWN_FAULTS = 2
_LONGEST = 400


class Unit:
    """Tells systemd how the agent is; the same thing is told once."""

    def __init__(self, send: Callable[[str], None] = notify) -> None:
        self._send = send
        self._ready = False
        self._ending = False
        self._status = ""

    def ready(self) -> None:
        """Units that are ordered after this one may start."""
        if not self._ready:
            self._ready = True
            self._send("READY=1")

    def status(self, text: str) -> None:
        """Show this line in `systemctl status`."""
        if text != self._status and not self._ending:
            self._status = text
            self._send(f"STATUS={text}")

    def stopping(self, text: str) -> None:
        """The agent is about to end."""
        self._ending = True
        self._send(f"STOPPING=1\nSTATUS={text}")

    async def feed_watchdog(self, works: Callable[[], bool]) -> None:
        """Tell the watchdog, if the unit has one, as long as the agent works; for ever.

        This runs in the loop in which everything else does, so one that hangs is noticed too.
        """
        seconds = watchdog_seconds()
        while seconds > 0:
            if works():
                self._send("WATCHDOG=1")
            await asyncio.sleep(seconds / 4)


def watchdog_seconds() -> float:
    """Return how long systemd lets this process be silent; 0: it does not watch it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6


def status_line(status: NodeStatus, serving: bool, missing: tuple[str, ...]) -> str:
    """Return in one line what an operator wants to know first."""
    proxy, scope = status.proxy, status.scope
    if serving:
        text = f"serving: Envoy {proxy.version or 'is not running'}, {scope.services} of {scope.known} services"
    else:
        text = f"nothing is served yet, waiting for {', '.join(missing) or 'Envoy to acknowledge its configuration'}"
    if status.faults:
        said = "; ".join(f"{fault.subject}: {fault.reason}" for fault in status.faults[:SHOWN_FAULTS])
        text += f"; {len(status.faults)} fault{'s' * (len(status.faults) > 1)}: {said}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
