"""When to renew a certificate: pure decisions on times and on random numbers that were drawn elsewhere, once.

All times are Unix seconds on this host's clock, all durations seconds. May not read a clock nor draw a number.
"""

from __future__ import annotations

from dataclasses import dataclass

JITTER = 0.1
"""Renewal is at half of the life, give or take this share of the half."""
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_SHORTEST_CAP = 0.25
_CLOCK_TOLERANCE = 1.0


@dataclass(frozen=True)
class Renew:
    """Ask for a new certificate now, by the present one."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do before `until`."""

    until: float


@dataclass(frozen=True)
class Expired:
    """The present certificate proves nothing any more: only a join token helps."""


@dataclass(frozen=True)
class Revoked:
    """The present certificate is refused by everybody, the CA too: only a join token helps."""


Decision = Renew | Wait | Expired | Revoked


def renewal_time(obtained_at: float, not_after: float, jitter: float) -> float:
    """Return when a certificate obtained then is to be renewed; jitter is a number from -1 to 1.

    Reckoned from when it was obtained, not from its first moment, which the CA sets back for slow clocks.
    """
    half = max(0.0, not_after - obtained_at) / 2
    return obtained_at + half * (1 + JITTER * jitter)


def decide(now: float, renew_at: float, not_after: float, obtained_at: float) -> Wait | Renew | Expired:
    """Return what to do with a certificate that is not revoked now."""
    if now >= not_after:
        return Expired()
    if now >= renew_at:
        return Renew()
    if now < obtained_at - _CLOCK_TOLERANCE:
        return Renew()  # the clock was set back since: its times say nothing of the certificate's real age
    return Wait(renew_at)


def retry_delay(failures: int, remaining: float, jitter: float) -> float:
    """Return how long to wait after that many failures in a row (from 1); jitter is a number from -1 to 1.

    Doubles up to half a minute, but to no more than an eighth of the certificate's remaining life: the nearer its end,
    the more eagerly we ask. `remaining` of zero or less (nothing valid left) sets no such limit.
    """
    cap = _LONGEST_DELAY if remaining <= 0 else min(_LONGEST_DELAY, max(_SHORTEST_CAP, remaining / 8))
    return float(min(cap, _FIRST_DELAY * 2 ** min(failures - 1, 10)) * (1 + 0.2 * jitter))
