"""The parameters of a question for the graph: how far back, and whether silence is left out. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from agent.errors import UserError

DEFAULT_HORIZON = "5m"
MAX_DAYS = 31
_UNITS = {"ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6, "d": 8.64e7}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ms|[smhd])", re.ASCII)
_TRUE, _FALSE = ("true", "1", "t", "yes"), ("false", "0", "f", "no", "")


class Question(Struct, frozen=True):
    """What is asked for."""

    milliseconds: int
    filter_empty: bool


def read_question(parameters: Mapping[str, str]) -> Question:
    """Return what time_horizon (`5m`, `1h30m`) and filter_empty (`true`) ask for; raises UserError."""
    text = parameters.get("filter_empty", "").lower()
    if text not in (*_TRUE, *_FALSE):
        raise UserError(f"filter_empty={text[:40]}: must be true or false")
    return Question(read_horizon(parameters.get("time_horizon") or DEFAULT_HORIZON), text in _TRUE)


def read_horizon(text: str) -> int:
    """Return a duration in Go's form in milliseconds, one second to 31 days; raises UserError."""
    parts = _PART.findall(text[:40])
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 1e3 <= total <= MAX_DAYS * _UNITS["d"]:
        raise UserError(f"time_horizon={text[:40]}: must be a duration like 30s, 5m or 1h30m, {MAX_DAYS} days at most")
    return round(total)
