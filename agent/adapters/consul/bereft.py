"""A service that lost its last instances together with their node: called for a while yet, as they may well serve on.

A Consul agent that is stopped (an upgrade, `systemctl restart consul`) leaves the cluster, and its node's services are
gone from the catalog at once, though nothing has happened to them; one that is not heard of any more makes them
critical. Where another instance is left, that one serves; where none is, an instance that may be there is better than
none. What was deregistered while its node stayed, or fails its own check, is gone, and so is what was entered for a
node that never ran a Consul agent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import StrEnum

from agent.mesh.service import Health, Instance

log = logging.getLogger(__name__)


class Loss(StrEnum):
    """What became of an instance's node."""

    LEFT = "has left the cluster"
    SILENT = "is not heard of"


HOLD_SECONDS = {Loss.LEFT: 60.0, Loss.SILENT: 10.0}
"""How long an instance is called yet. A restart of Consul's agent and the first check after it take less than a minute;
a node that is silent may have announced that it leaves, which some hear later than that it is gone, or be dead."""


class Bereft:
    """Decides which instances of one catalog name count; `is_node` asks Consul whether it knows a node."""

    def __init__(
        self,
        is_node: Callable[[str], Awaitable[bool]],
        over: Callable[[], None],
        hold: Mapping[Loss, float] = HOLD_SECONDS,
    ) -> None:
        self._is_node, self._over, self._hold = is_node, over, hold
        self._last: tuple[Instance, ...] = ()
        self._held: dict[Instance, Loss] = {}
        self._end: asyncio.TimerHandle | None = None

    async def counting(
        self, found: tuple[Instance, ...], members: Collection[str], silent: Collection[tuple[str, str]] = ()
    ) -> tuple[Instance, ...]:
        """Return the instances to call now that the catalog has these, on nodes of which `members` run a Consul agent.

        `silent` are those (node, ID) that only their node makes critical. When the time of what is held is up, `over`
        is called.
        """
        before, self._last = self._last, tuple(one for one in found if one.node in members and _serves(one))
        served = {instance.service for instance in found if _serves(instance)}
        self._held = {instance: loss for instance, loss in self._held.items() if instance.service not in served}
        present = {instance.node for instance in found}
        lost: dict[Instance, Loss] = {}
        for instance in (*before, *self._held):
            if instance.service not in served and self._held.get(instance) is not Loss.LEFT:
                if (instance.node, instance.id) in silent:
                    lost[instance] = Loss.SILENT
                elif instance.node not in present and not await self._is_node(instance.node):
                    lost[instance] = Loss.LEFT
        self._begin({instance: loss for instance, loss in lost.items() if self._held.get(instance) is not loss})
        held = {instance.service for instance in self._held}
        return tuple(sorted((*self._held, *(instance for instance in found if instance.service not in held))))

    def release(self) -> None:
        """Hold nothing any more."""
        self._held = {}
        self._stop_waiting()

    def _begin(self, lost: dict[Instance, Loss]) -> None:
        self._held |= lost
        if lost or not self._held:
            self._stop_waiting()
        if lost:
            seconds = max(self._hold[loss] for loss in self._held.values())
            self._end = asyncio.get_running_loop().call_later(seconds, self._let_go)
            _tell(lost, seconds)

    def _stop_waiting(self) -> None:
        if self._end:
            self._end.cancel()
            self._end = None

    def _let_go(self) -> None:
        self.release()
        self._over()


def _tell(lost: dict[Instance, Loss], seconds: float) -> None:
    for instance, loss in lost.items():
        text = "consul: %s has no instance left since the node %s %s: it is called there for %g s more"
        log.warning(text, instance.service, instance.node, loss, seconds)


def _serves(instance: Instance) -> bool:
    return instance.health is not Health.CRITICAL
