"""Long polls spread over loopback source addresses, so that Consul's limit of connections per client address holds.

Consul closes connections past `http_max_conns_per_client` (200) from one address. At a loopback address every
127.x.y.z of ours is a client of its own: a new lane opens when the present ones are full. Elsewhere there is one
lane: its polls then take turns with short waits, which is the same mechanism, only slower. Knows no catalog.

Consul does not notice that a waiting client is gone: the connection counts until the wait is over or something
wakes it. So a poll is never cancelled to make room (it is left to end), and every client takes source addresses of
its own, as a restarted agent would else find its predecessor's dead polls in its places.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp
from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.transport import Credentials, new_session, request

log = logging.getLogger(__name__)

POLLS_PER_LANE = 150
"""With FRONT_POLLS it leaves a tenth of Consul's default limit for connections it has not seen closed yet."""
FRONT_POLLS = 30
"""Places of the polls that must not queue behind the services': names, rules, settings, own registrations."""
POLLS_OF_ONLY_LANE = 70
"""Twice as many, with as many of a predecessor's dead ones, stay under Consul's limit."""
MAX_LANES = 64
WAIT = 300.0
ONLY_LANE_WAIT = 15.0
"""Seconds a poll may wait where its address is shared with others, and how long a dead one counts there."""
TURN_WAIT = 1.0
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

    def __init__(
        self,
        session: aiohttp.ClientSession,
        credentials: Credentials,
        url: str,
        capacity: int,
        longest_wait: float,
    ) -> None:
        self._session, self._credentials = session, credentials
        self._url = url
        self._slots = asyncio.Semaphore(capacity)
        self._longest_wait = longest_wait
        self._warned = False
        self.capacity = capacity
        self.members = 0

    @contextmanager
    def member(self) -> Iterator[Lane]:
        """Count a follower as one of this lane's for as long as it follows."""
        self.members += 1
        if self.members > self.capacity and not self._warned:
            self._warned = True
            log.warning(
                "consul: more than %d long polls from one address: they take turns, so changes are seen later; "
                "let the agent reach Consul at a 127.x.x.x address",
                self.capacity,
            )
        try:
            yield self
        finally:
            self.members -= 1

    async def poll(
        self, path: str, params: Mapping[str, Any], index: int = 0, content_hash: str = "", patience: float = WAIT
    ) -> Answer:
        """Ask once; with an index (or hash) block until something newer is there, for `patience` seconds at most.

        Raises ConsulUnavailable and ConsulRefused.
        """
        query = dict(params)
        async with self._slots:
            wait = 0.0
            if index or content_hash:
                wait = min(patience, self._longest_wait, TURN_WAIT if self.members > self.capacity else WAIT)
                query |= {"hash": content_hash} if content_hash else {"index": index}
                query["wait"] = f"{math.ceil(wait * 1000)}ms"
            return await self._ask(path, query, wait)

    async def _ask(self, path: str, query: Mapping[str, Any], wait: float) -> Answer:
        # Consul adds up to wait/16 of jitter of its own (its documentation, "Blocking queries").
        timeout = wait + wait / 16 + ANSWER_MARGIN
        url = f"{self._url}/v1/{path}"
        response = await request(self._session, self._credentials, "GET", url, tuple(query.items()), timeout=timeout)
        index = response.headers.get("X-Consul-Index", "0")
        return Answer(
            status=response.code,
            index=int(index) if index.isdecimal() else 0,
            content_hash=response.headers.get("X-Consul-Contenthash", ""),
            body=response.body,
        )

    async def close(self) -> None:
        """Close the lane's connections."""
        await self._session.close()


class Lanes:
    """Hands out the least crowded lane, opening lanes where Consul's address allows several."""

    def __init__(
        self,
        address: ConsulAddress,
        credentials: Credentials,
        polls_per_lane: int = POLLS_PER_LANE,
        max_lanes: int = MAX_LANES,
    ) -> None:
        self._address, self._credentials = address, credentials
        self._limit = max_lanes if address.is_loopback_v4 else 1
        self._capacity = polls_per_lane if self._limit > 1 else min(polls_per_lane, POLLS_OF_ONLY_LANE)
        self._lanes: list[Lane] = []
        self._front: Lane | None = None
        # 127.0.0.0/24 is left to everybody else on this host: its connections are not ours alone.
        self._network = f"127.{random.randrange(64, 255)}.{random.randrange(256)}"

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
        only = self._limit == 1
        session = new_session(None if only else f"{self._network}.{number + 1}")
        return Lane(session, self._credentials, self._address.url, capacity, ONLY_LANE_WAIT if only else WAIT)

    async def close(self) -> None:
        """Close every lane."""
        for lane in (*self._lanes, self._front):
            if lane is not None:
                await lane.close()
