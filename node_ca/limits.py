"""How many calls a caller may make, and all together: token buckets. Pure; time comes from outside.

May not know what a call is about.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from node_ca.errors import Refusal

_MAX_CALLERS = 50_000
"""So many callers are remembered; those who were quiet longest are forgotten first, and have a full bucket again."""


@dataclass(frozen=True)
class Rate:
    """So many calls a second for long, and so many at once before that counts."""

    per_second: float
    burst: int


class _Bucket:
    """What a caller may still do; fills up with time."""

    __slots__ = ("level", "since")

    def __init__(self, level: float, since: float) -> None:
        self.level = level
        self.since = since

    def take(self, rate: Rate, now: float) -> bool:
        self.level = min(float(rate.burst), self.level + max(0.0, now - self.since) * rate.per_second)
        self.since = now
        if self.level < 1.0:
            return False
        self.level -= 1.0
        return True


class Limits:
    """The calls of every caller and of all together."""

    def __init__(self, each: Rate, total: Rate, now: Callable[[], float]) -> None:
        self._each = each
        self._total = total
        self._now = now
        self._callers: OrderedDict[str, _Bucket] = OrderedDict()
        self._all = _Bucket(total.burst, now())

    def admit(self, caller: str) -> None:
        """Count a call; raises Refusal (RESOURCE_EXHAUSTED), first of the caller, so that none eats up all calls."""
        now = self._now()
        bucket = self._callers.pop(caller, None) or _Bucket(self._each.burst, now)
        self._callers[caller] = bucket
        if len(self._callers) > _MAX_CALLERS:
            self._callers.popitem(last=False)
        if not bucket.take(self._each, now):
            raise Refusal.too_much(f"too many calls from {caller}; come again later")
        if not self._all.take(self._total, now):
            raise Refusal.too_much("too many calls in all; come again later")


def caller_of(peer: str) -> str:
    """Return who a gRPC peer (`ipv4:10.0.0.1:4711`, `ipv6:%5B::1%5D:4711`) counts as: its address, in IPv6 its /64."""
    family, _, rest = peer.partition(":")
    if family not in ("ipv4", "ipv6"):
        return family
    text = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]").partition("%25")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
