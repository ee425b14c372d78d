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

MIN_GAP_SECONDS = 0.005
"""For what comes in the same moment: a change often shows in several polls."""
MAX_GAP_SECONDS = 1.0
CPU_SHARE = 0.2
"""Of a core, for rounds one after the other."""
CPU_BURST_SECONDS = 0.25
"""What rounds may take beyond that at once: a health flip shall not wait because a service came just before it."""


class Budget:
    """How long to rest after a round, so that rounds never take more than CPU_SHARE for long. Times in seconds."""

    def __init__(self) -> None:
        self._debt = 0.0
        self._since = 0.0

    def rest(self, cost: float, now: float) -> float:
        """Return the rest after a round of that cost (CPU time) that ended at that monotonic time."""
        self._debt = max(0.0, self._debt - (now - self._since) * CPU_SHARE) + cost
        self._since = now
        return min(max(MIN_GAP_SECONDS, (self._debt - CPU_BURST_SECONDS) / CPU_SHARE), MAX_GAP_SECONDS)


class Reconciler:
    """Folds events into the state and turns it into the desired state of this host.

    The first change goes at once. What comes while it is worked on, or in the rest that follows, goes together: the
    rest is short until the budget is spent, so that a change waits for milliseconds and a storm is bounded.
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
        self._budget = Budget()

    def set_options(self, options: PlanOptions) -> None:
        """Plan otherwise from the next round on."""
        self._options = options

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            events = await self.mailbox.take()
            # The rest depends on CPU time: on a busy machine the clock runs on while others work.
            started, worked = time.perf_counter(), time.thread_time()
            self.state.apply(events)
            if self.state.is_complete:
                self._reconcile_or_keep()
            self._after_round()
            self.last_round_seconds = time.perf_counter() - started
            self.rounds += 1
            await asyncio.sleep(self._budget.rest(time.thread_time() - worked, time.monotonic()))

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
        faults = desired.faults + tuple(Fault("plan", line) for line in desired.dangling)
        self.state.apply([FaultsChanged("plan", faults)])
        if desired.dangling:
            log.error("kept the old configuration: %s", "; ".join(desired.dangling[:3]))
            return
        self._publish(snapshot, desired, self.state.revision)
