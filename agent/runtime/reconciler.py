"""The one owner of the mesh state: takes events, plans, hands the desired state to whoever applies it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agent.mesh.routes import Fault
from agent.mesh.snapshot import Desired, MeshSnapshot
from agent.runtime.events import FaultsChanged
from agent.runtime.mailbox import Mailbox
from agent.runtime.state import Event, MeshState
from agent.translate.options import PlanOptions
from agent.translate.plan import Planner

log = logging.getLogger(__name__)

MIN_GAP_SECONDS = 0.02
MAX_GAP_SECONDS = 1.0
COST_FACTOR = 4.0
"""After a round the owner rests this many times its cost, so that planning never takes more than a fifth of a core."""


class Reconciler:
    """Folds events into the state and turns it into the desired state of this host.

    The first change goes at once. What comes while it is worked on, or in the rest that follows, goes together: the
    rest is proportional to the work, so that a change waits for milliseconds on a small mesh and a storm is bounded.
    """

    def __init__(
        self,
        state: MeshState,
        options: PlanOptions,
        publish: Callable[[MeshSnapshot, Desired, int], None],
        after_round: Callable[[], None],
    ) -> None:
        self.mailbox: Mailbox[Event] = Mailbox()
        self.state = state
        self.rounds = 0
        self.last_round_seconds = 0.0
        self._options = options
        self._publish = publish
        self._after_round = after_round
        self._planner = Planner()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            events = await self.mailbox.take()
            started = time.perf_counter()
            self.state.apply(events)
            if self.state.is_complete:
                self._reconcile_or_keep()
            self._after_round()
            self.last_round_seconds = time.perf_counter() - started
            self.rounds += 1
            await asyncio.sleep(min(max(MIN_GAP_SECONDS, COST_FACTOR * self.last_round_seconds), MAX_GAP_SECONDS))

    def _reconcile_or_keep(self) -> None:
        try:
            self._reconcile()
        except Exception as error:
            # The last line of defence: a flaw of ours that some rule or catalog entry brings to light must not end the
            # agent, whose successor would meet the same input; the certificates would stop rotating.
            log.exception("planning failed; the old configuration serves on")
            self.state.apply([FaultsChanged("plan", (Fault("plan", f"a flaw in hostmesh: {error!r}; see the log"),))])
            self._planner = Planner()

    def _reconcile(self) -> None:
        snapshot = self.state.snapshot()
        desired = self._planner.plan(snapshot, self._options)
        dangling = desired.resources.dangling()
        faults = desired.faults + tuple(Fault("plan", line) for line in dangling)
        self.state.apply([FaultsChanged("plan", faults)])
        if dangling:
            log.error("kept the old configuration: %s", "; ".join(dangling[:3]))
            return
        self._publish(snapshot, desired, self.state.revision)
