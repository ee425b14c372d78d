"""The one long-poll loop: Consul's index rules, back-off, and the notion of Consul being away. Knows no endpoint.

Index rules (Consul's documentation, "Blocking Queries"): start over when the index goes backwards, never wait on an
index below 1, limit the rate. Start over after every error too: a Consul that lost its state would block on an index
it only reaches tomorrow.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from agent.adapters.consul.lanes import WAIT, Answer, Lane
from agent.errors import ConsulRefused, ConsulUnavailable, HostmeshError

log = logging.getLogger(__name__)

BACKOFF_FIRST = 0.1
BACKOFF_CAP = 5.0
REFUSED_WAIT = 15.0
"""Seconds until a refused request is tried again: somebody has to change an ACL first."""


class Backoff:
    """Delays in seconds that double up to a cap, each drawn once between half and whole."""

    def __init__(self, first: float = BACKOFF_FIRST, cap: float = BACKOFF_CAP) -> None:
        self._first, self._cap = first, cap
        self._failures = 0

    @property
    def failures(self) -> int:
        """Return how many failures came since the last success."""
        return self._failures

    def next(self) -> float:
        """Count a failure and return how long to wait after it."""
        whole = min(self._cap, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(whole / 2, whole)  # spreads clients, no secret

    def reset(self) -> None:
        """Count a success."""
        self._failures = 0


class Link:
    """Whether Consul answers: the leading poll decides, followers wait; one log line on loss, one on return."""

    def __init__(self, subject: str, on_lost: Callable[[str], None], on_recovered: Callable[[], None]) -> None:
        self._subject = subject
        self._on_lost, self._on_recovered = on_lost, on_recovered
        self.up = asyncio.Event()
        self.up.set()
        self.losses = 0
        """An index that was read before the last loss is worth nothing: Consul may have lost its state."""

    def failed(self, reason: str) -> None:
        """Note that Consul does not answer."""
        if self.up.is_set():
            self.up.clear()
            self.losses += 1
            log.warning("%s: lost: %s; the last known state is served on", self._subject, reason)
            self._on_lost(reason)

    def succeeded(self) -> None:
        """Note that Consul answers."""
        if not self.up.is_set():
            self.up.set()
            log.info("%s: back", self._subject)
            self._on_recovered()


class Follower:
    """Follows one blocking endpoint and yields each answer that may be new.

    `leads`: its errors and successes decide the link; otherwise it waits while the link is down.
    `first_read` bounds how many followers read their first (non-blocking) answer at a time. With an `index` that was
    read before it waits for what is newer.
    """

    def __init__(
        self,
        lane: Lane,
        link: Link,
        path: str,
        params: Mapping[str, Any] | None = None,
        *,
        leads: bool = False,
        min_interval: float = 0.05,
        first_read: asyncio.Semaphore | None = None,
        index: int = 0,
        on_trouble: Callable[[HostmeshError], None] | None = None,
    ) -> None:
        self._lane, self._link = lane, link
        self._path, self._params = path, params or {}
        self._leads = leads
        self._min_interval = min_interval
        self._first_read = first_read or asyncio.Semaphore(1)
        self._on_trouble = on_trouble
        self._backoff = Backoff()
        self.index = index
        """What the next poll waits on; 0: it reads afresh."""
        self.patience = WAIT
        """Seconds the next poll may wait."""
        self.stopped = False
        """Set, it ends after the poll under way: one cut off would hold its place at Consul until its wait is over."""

    async def answers(self) -> AsyncIterator[Answer]:
        """Yield the first answer, and then one whenever the index moved, until stopped; raises only on cancellation."""
        loop = asyncio.get_running_loop()
        while not self.stopped:
            started = loop.time()
            try:
                answer = await self._poll(self.index)
            except (ConsulUnavailable, ConsulRefused) as error:
                self.index = 0
                await self._rest(error)
                continue
            self._backoff.reset()
            if self._leads:
                self._link.succeeded()
            if self.stopped:
                return
            before, self.index = self.index, next_index(self.index, answer.index)
            if answer.index != before or before == 0:
                yield answer
            await asyncio.sleep(max(0.0, started + self._min_interval - loop.time()))

    async def _poll(self, index: int) -> Answer:
        if index:
            return await self._lane.poll(self._path, self._params, index, patience=self.patience)
        if not self._leads:
            await self._link.up.wait()
        # A server that has just been elected after a restart answers before it has read its own log: an empty catalog,
        # unless it is asked for a consistent answer, which waits for that.
        is_doubtful = self._link.losses or self._backoff.failures
        async with self._first_read:
            return await self._lane.poll(self._path, {**self._params, **({"consistent": ""} if is_doubtful else {})})

    async def _rest(self, error: ConsulUnavailable | ConsulRefused) -> None:
        delay = self._backoff.next()
        # One failure alone is silent: Consul closes idle connections, and a poll may be the one to find out.
        if self._backoff.failures > 1 or isinstance(error, ConsulRefused):
            if self._leads:
                self._link.failed(str(error))
            if self._on_trouble and not self.stopped:
                self._on_trouble(error)
        await asyncio.sleep(REFUSED_WAIT if isinstance(error, ConsulRefused) else delay)


def next_index(previous: int, answered: int) -> int:
    """Return the index to wait on after an answer; 0 means: read afresh, without waiting."""
    if answered < previous:
        return 0
    return max(1, answered)
