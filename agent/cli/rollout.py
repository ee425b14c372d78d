"""`--wait`: follow the agents' status documents until every connected one has acknowledged a revision. Reads only."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable

from msgspec import Struct

from agent.adapters.consul.store import NodeStatuses
from agent.cli.connection import Connection
from agent.errors import HostmeshError
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus

_POLL = 5.0
"""Seconds of one long poll."""


class RolloutFailed(HostmeshError):
    """An Envoy refused what was written, or not every agent acknowledged it in time; its text says who and why."""


class Rollout(Struct, frozen=True):
    """How far a revision has come."""

    acknowledged: tuple[str, ...]
    pending: tuple[str, ...]
    """Connected nodes that have not acknowledged yet."""
    away: tuple[str, ...]
    """Nodes whose agent has no Envoy connected: nothing to wait for."""
    refused: tuple[str, ...]
    """`NODE: resource: reason` of each resource that an Envoy refused since the write."""


def progress(statuses: Iterable[NodeStatus], revision: int, before: Collection[tuple[str, Fault]]) -> Rollout:
    """Return how far a revision has come; `before` are the refusals that were there already (pure)."""
    connected = [status for status in statuses if status.proxy.connected]
    acknowledged = [status.node for status in connected if status.proxy.acked_revision >= revision]
    refused = [
        f"{status.node}: {nack.subject}: {nack.reason}"
        for status in connected
        if status.proxy.config_revision >= revision
        for nack in status.proxy.nacks
        if (status.node, nack) not in before
    ]
    return Rollout(
        tuple(acknowledged),
        tuple(status.node for status in connected if status.node not in acknowledged),
        tuple(status.node for status in statuses if not status.proxy.connected),
        tuple(refused),
    )


class RolloutWatch:
    """Knows the refusals from before a write, so that only new ones fail it."""

    def __init__(self, connection: Connection) -> None:
        self._statuses = NodeStatuses(connection.consul())
        statuses, _ = self._statuses.read()
        self._before = {(status.node, nack) for status in statuses for nack in status.proxy.nacks}
        self._started = time.monotonic()

    def wait(self, revision: int, timeout: float, clock: Callable[[], float] = time.monotonic) -> list[str]:
        """Return the lines that say who acknowledged and who was slowest; raises RolloutFailed.

        `revision` is Consul's index of the newest object written, `timeout` in seconds.
        """
        deadline = clock() + timeout
        index, slowest, done = 0, ("", 0.0), set[str]()
        while True:
            index, statuses = self._statuses.watch(index, min(_POLL, max(0.1, deadline - clock())))
            state = progress(statuses, revision, self._before)
            for node in state.acknowledged:
                if node not in done:
                    done.add(node)
                    slowest = (node, clock() - self._started)
            if state.refused:
                raise RolloutFailed("refused by Envoy, which keeps what it had: " + "; ".join(state.refused[:5]))
            if not state.pending:
                return _summary(state, slowest)
            if clock() >= deadline:
                raise RolloutFailed(_late(state, revision, timeout))


def _summary(state: Rollout, slowest: tuple[str, float]) -> list[str]:
    lines = []
    if state.acknowledged:
        count = len(state.acknowledged)
        nodes = f"{count} node{'s' if count != 1 else ''}"
        lines.append(f"Acknowledged by {nodes}, the slowest {slowest[0]} after {slowest[1]:.2f} s")
    else:
        lines.append("No agent is connected: nothing to wait for")
    if state.away:
        lines.append(f"Not waited for (no Envoy connected): {', '.join(state.away)}")
    return lines


def _late(state: Rollout, revision: int, timeout: float) -> str:
    pending = ", ".join(state.pending[:10])
    return (
        f"revision {revision} is written, but after {timeout:g} s {len(state.pending)} of "
        f"{len(state.pending) + len(state.acknowledged)} connected nodes have not acknowledged it: {pending} "
        "(see `hostmesh proxy-status`)"
    )
