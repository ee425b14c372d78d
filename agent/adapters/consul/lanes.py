"""Long polls spread over loopback source addresses, so that Consul's limit of connections per client address holds.

Consul closes connections past `http_max_conns_per_client` (200) from one address. At a loopback address every
127.0.0.N of ours is a client of its own: a new lane opens when the present ones are full. Elsewhere there is one
lane: its polls then take turns with short waits, which is the same mechanism, only slower. Knows no catalog.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.transport import new_session, request

log = logging.getLogger(__name__)

POLLS_PER_LANE = 150
"""With FRONT_POLLS it leaves a tenth of Consul's default limit for connections it has not seen closed yet."""
FRONT_POLLS = 30
"""Places of the polls that must not queue behind the services': names, rules, settings, own registrations."""
MAX_LANES = 64
WAIT = 300.0
SHORT_WAIT = 1.0
"""Seconds a poll holds its place while others queue for it."""
ANSWER_MARGIN = 15.0


class Answer(Struct, frozen=True):
    """One answer of a blocking query."""

    status: int
    index: int
    """X-Consul-Index; 0 where the endpoint has none."""
    content_hash: str
    body: bytes


class Lane:
    """The polls that share one source address, at most `capacity` of them on the wire at a time."""

    def __init__(self, session: aiohttp.ClientSession, url: str, capacity: int) -> None:
        self._session = session
        self._url = url
        self._slots = asyncio.Semaphore(capacity)
        self._waiting: set[asyncio.Timeout] = set()
        self.capacity = capacity
        self.members = 0

    @contextmanager
    def member(self) -> Iterator[Lane]:
        """Count a follower as one of this lane's for as long as it follows."""
        self.members += 1
        if self.members == self.capacity + 1:
            self._end_long_waits()
        try:
            yield self
        finally:
            self.members -= 1

    async def poll(self, path: str, params: Mapping[str, Any], index: int = 0, content_hash: str = "") -> Answer | None:
        """Ask once; block until something newer than index (or hash) is there. None: asked to make room.

        Raises ConsulUnavailable and ConsulRefused.
        """
        query = dict(params)
        blocking = bool(index or content_hash)
        async with self._slots:
            wait = SHORT_WAIT if self.members > self.capacity else WAIT
            if blocking:
                query |= {"hash": content_hash} if content_hash else {"index": index}
                query["wait"] = f"{math.ceil(wait * 1000)}ms"
            try:
                async with asyncio.timeout(None) as room:
                    self._waiting.add(room)
                    try:
                        return await self._ask(path, query, wait if blocking else 0.0)
                    finally:
                        self._waiting.discard(room)
            except TimeoutError:
                return None

    async def _ask(self, path: str, query: Mapping[str, Any], wait: float) -> Answer:
        # Consul adds up to wait/16 of jitter of its own (its documentation, "Blocking queries").
        timeout = wait + wait / 16 + ANSWER_MARGIN
        response = await request(self._session, "GET", f"{self._url}/v1/{path}", tuple(query.items()), timeout=timeout)
        index = response.headers.get("X-Consul-Index", "0")
        return Answer(
            status=response.code,
            index=int(index) if index.isdecimal() else 0,
            content_hash=response.headers.get("X-Consul-Contenthash", ""),
            body=response.body,
        )

    def _end_long_waits(self) -> None:
        """End every long wait: from now on places are taken in turns."""
        log.warning(
            "consul: more than %d long polls from one address: they take turns, so changes are seen later; "
            "let the agent reach Consul at a 127.x.x.x address",
            self.capacity,
        )
        now = asyncio.get_running_loop().time()
        for room in tuple(self._waiting):
            room.reschedule(now)

    async def close(self) -> None:
        """Close the lane's connections."""
        await self._session.close()


class Lanes:
    """Hands out the least crowded lane, opening lanes where Consul's address allows several."""

    def __init__(
        self, address: ConsulAddress, polls_per_lane: int = POLLS_PER_LANE, max_lanes: int = MAX_LANES
    ) -> None:
        self._address = address
        self._capacity = polls_per_lane
        self._lanes: list[Lane] = []
        self._front: Lane | None = None
        self._limit = max_lanes if address.is_loopback_v4 else 1

    def front(self) -> Lane:
        """Return the lane of the few polls that everything else waits for."""
        if self._front is None:
            self._front = self._new(0, FRONT_POLLS)
        return self._front

    def take(self) -> Lane:
        """Return a lane with room; a crowded one if no more may be opened."""
        lane = min(self._lanes, key=lambda lane: lane.members, default=None)
        if lane is None or (lane.members >= lane.capacity and len(self._lanes) < self._limit):
            lane = self._new(len(self._lanes), self._capacity)
            self._lanes.append(lane)
        return lane

    def _new(self, number: int, capacity: int) -> Lane:
        # 127.0.0.1 is left to everybody else on this host: its 200 connections are not ours alone.
        source = f"127.0.0.{number + 2}" if self._limit > 1 else None
        return Lane(new_session(self._address, source), self._address.url, capacity)

    async def close(self) -> None:
        """Close every lane."""
        for lane in (*self._lanes, self._front):
            if lane is not None:
                await lane.close()
