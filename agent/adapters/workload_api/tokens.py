"""JWT-SVIDs that were asked for: each used again until half of its life, so that programs can ask before every call.

What is new is asked of the CA, by each Unix user at a bounded rate: the CA counts all calls of a host together, and no
program may use up what the host's certificates need.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from msgspec import Struct

from agent.errors import CaUnavailable

MAX_KEPT = 1000
PER_SECOND, BURST = 2.0, 20
"""Tokens that are new, of one user."""
_AT_ONCE = 4
_USABLE = 0.1
"""Of a token's life must be left for it to be given out while the CA is away."""


class IssuedJwt(Struct, frozen=True):
    """A JWT-SVID as the CA issued it."""

    token: str
    lifetime: float
    """Seconds from when it was issued to its end."""


Ask = Callable[[str, tuple[str, ...]], Awaitable[IssuedJwt]]
"""Gets a token for a SPIFFE ID and its audience; raises CaUnavailable or CaRefused."""


class TooMany(Exception):
    """A user has asked for too many tokens."""


class Tokens:
    """The tokens of this host."""

    def __init__(self, ask: Ask, monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._kept: OrderedDict[tuple[str, tuple[str, ...]], tuple[IssuedJwt, float]] = OrderedDict()
        self._levels: dict[int, tuple[float, float]] = {}
        """By user: how many more he may have at once, and when that was so."""
        self._places = asyncio.Semaphore(_AT_ONCE)

    def forget(self) -> None:
        """Let go of all: certificates or keys have changed."""
        self._kept.clear()

    async def get(self, uid: int, spiffe_id: str, audience: tuple[str, ...]) -> str:
        """Return a token for this identity; raises TooMany, or what asking raises."""
        key = spiffe_id, tuple(sorted(set(audience)))
        if self._share_left(key) > 0.5:
            return self._kept[key][0].token
        try:
            self._admit(uid)
            async with self._places:
                if self._share_left(key) <= 0.5:  # nobody else has asked meanwhile
                    self._keep(key, await self._ask(*key))
        except (CaUnavailable, TooMany):
            if self._share_left(key) <= _USABLE:
                raise
        return self._kept[key][0].token

    def _keep(self, key: tuple[str, tuple[str, ...]], issued: IssuedJwt) -> None:
        self._kept[key] = issued, self._monotonic()
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)

    def _share_left(self, key: tuple[str, tuple[str, ...]]) -> float:
        if key not in self._kept:
            return 0.0
        issued, since = self._kept[key]
        return 1 - (self._monotonic() - since) / issued.lifetime if issued.lifetime > 0 else 0.0

    def _admit(self, uid: int) -> None:
        now = self._monotonic()
        level, since = self._levels.get(uid, (float(BURST), now))
        level = min(float(BURST), level + (now - since) * PER_SECOND)
        if level < 1:
            raise TooMany(f"more than {PER_SECOND:g} new JWT-SVIDs a second for one Unix user; come again later")
        self._levels[uid] = level - 1, now
