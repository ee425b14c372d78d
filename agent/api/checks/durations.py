"""Durations as Istio takes them: `1h30m`, `2s`, `250ms`, in whole milliseconds. Pure."""

from __future__ import annotations

import re
from fractions import Fraction

from agent.api.problem import one_line

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|us|ns|m|s)")
_WHOLE = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|us|ns|m|s))+")
_MILLISECONDS = {
    "h": Fraction(3_600_000),
    "m": Fraction(60_000),
    "s": Fraction(1000),
    "ms": Fraction(1),
    "us": Fraction(1, 1000),
    "ns": Fraction(1, 1_000_000),
}
_MAX_LENGTH = 40
_MAX = 10 * 366 * 24 * 3_600_000
"""Ten years."""


def duration(text: str) -> str | None:
    """Want a duration of at least 1 ms, in whole milliseconds (Istio's ValidateDuration)."""
    value = _milliseconds(text)
    if value is None:
        return f'"{one_line(text, 40)}" is not a duration (for example 5s or 250ms)'
    if value < 1 or value.denominator != 1:
        return f"{text} is no duration that can be kept (at least 1ms, in whole milliseconds)"
    return None if value <= _MAX else f"{text} is longer than ten years"


def duration_or_zero(text: str) -> str | None:
    """Want such a duration, or zero."""
    return None if _milliseconds(text) == 0 else duration(text)


def seconds(text: str) -> float:
    """Return the seconds of a text that `duration` or `duration_or_zero` finds nothing wrong with."""
    return float((_milliseconds(text) or 0) / 1000)


def _milliseconds(text: str) -> Fraction | None:
    if len(text) > _MAX_LENGTH:
        return None
    if text == "0":
        return Fraction(0)
    if not _WHOLE.fullmatch(text):
        return None
    return sum((Fraction(amount) * _MILLISECONDS[unit] for amount, unit in _PART.findall(text)), Fraction(0))
