"""Values of security rules with a `*` first or last, as Envoy matches them. Pure."""

from __future__ import annotations

import re
from typing import Any

from envoy.type.matcher.v3 import string_pb2


def pattern(value: str, *, ignore_case: bool = False) -> Any:
    """Return the matcher of a value: `*` is anything but nothing, `*end`, `start*`, or the value itself."""
    matcher = string_pb2.StringMatcher(ignore_case=ignore_case)
    if value == "*":
        matcher.ignore_case = False  # which a regular expression cannot have
        matcher.safe_regex.regex = ".+"
    elif value.startswith("*"):
        matcher.suffix = value[1:]
    elif value.endswith("*"):
        matcher.prefix = value[:-1]
    else:
        matcher.exact = value
    return matcher


def pattern_text(value: str, anything: str) -> str:
    """Return a value as a part of a regular expression; `anything` stands for its `*`."""
    if value.startswith("*"):
        return anything + re.escape(value[1:])
    if value.endswith("*"):
        return re.escape(value[:-1]) + anything
    return re.escape(value)
