"""What operators and functions take and give, and what they are worth."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any

from msgspec import Struct

from agent.mesh.expressions.tree import Type, Value

SAME = None
"""In a signature: any type, but all that say so the same one."""


class Function(Struct, frozen=True):
    """An operator or function. `|`, `&&`, `||`, `[]` and `conditional` don't ask all their operands: evaluate.py."""

    takes: tuple[Type | None, ...]
    gives: Type | None
    worth: Callable[..., Value]
    """Raises ValueError, with a reason for people, if the operands mean nothing."""
    only: frozenset[Type] = frozenset(Type)
    """The types that SAME may be."""


_ORDERED = frozenset({Type.STRING, Type.INT64, Type.DOUBLE, Type.TIMESTAMP, Type.DURATION})
_ADDED = frozenset({Type.STRING, Type.INT64, Type.DOUBLE, Type.DURATION})
_SUBTRACTED = _ADDED - {Type.STRING}


def glob(text: str, pattern: str) -> bool:
    """Tell whether a text is the pattern, or begins or ends as it does where it ends or begins with `*`."""
    if pattern.endswith("*"):
        return text.startswith(pattern[:-1])
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    return text == pattern


def instant(text: str) -> datetime:
    """Read a time of RFC 3339."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or "T" not in text:
        raise ValueError(f'"{text}" is not a time of RFC 3339, such as 2015-01-02T15:04:35Z')
    return found


def _address(text: str) -> Value:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None


def _searched(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error as error:
        raise ValueError(f'"{pattern}" is not a regular expression: {error}') from None


_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


def dns_name(text: str) -> str:
    """Read a DNS name; the root's dot at its end goes."""
    name = text.removesuffix(".")
    if not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.removeprefix("*.").split(".")):
        raise ValueError(f'"{text}" is not a DNS name')
    return name.lower()


def _email(text: str) -> str:
    local, at, domain = text.rpartition("@")
    if not local or not at or any(char.isspace() for char in text):
        raise ValueError(f'"{text}" is not an e-mail address')
    return f"{local}@{dns_name(domain)}"


def _uri(text: str) -> str:
    if not text or any(char.isspace() for char in text):
        raise ValueError(f'"{text}" is not a URI')
    return text


def _sum(left: Any, right: Any) -> Value:
    found: Value = left + right
    return _in_range(found)


def _difference(left: Any, right: Any) -> Value:
    found: Value = left - right
    return _in_range(found)


def _in_range(value: Value) -> Value:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("the sum is not a number of 64 bits")
    return value


def _never(*_operands: Value) -> Value:
    raise AssertionError("evaluated by its own rule")


_STRING, _BOOL = Type.STRING, Type.BOOL

FUNCTIONS: Mapping[str, Function] = {
    "==": Function((SAME, SAME), _BOOL, operator.eq),
    "!=": Function((SAME, SAME), _BOOL, operator.ne),
    "<": Function((SAME, SAME), _BOOL, operator.lt, _ORDERED),
    "<=": Function((SAME, SAME), _BOOL, operator.le, _ORDERED),
    ">": Function((SAME, SAME), _BOOL, operator.gt, _ORDERED),
    ">=": Function((SAME, SAME), _BOOL, operator.ge, _ORDERED),
    "&&": Function((_BOOL, _BOOL), _BOOL, _never),
    "||": Function((_BOOL, _BOOL), _BOOL, _never),
    "|": Function((SAME, SAME), SAME, _never),
    "+": Function((SAME, SAME), SAME, _sum, _ADDED),
    "-": Function((SAME, SAME), SAME, _difference, _SUBTRACTED),
    "[]": Function((Type.STRING_MAP, _STRING), _STRING, _never),
    "match": Function((_STRING, _STRING), _BOOL, glob),
    "matches": Function((_STRING, _STRING), _BOOL, _searched),
    "startsWith": Function((_STRING, _STRING), _BOOL, str.startswith),
    "endsWith": Function((_STRING, _STRING), _BOOL, str.endswith),
    "toLower": Function((_STRING,), _STRING, str.lower),
    "reverse": Function((_STRING,), _STRING, lambda text: text[::-1]),
    "size": Function((_STRING,), Type.INT64, len),
    "ip": Function((_STRING,), Type.IP_ADDRESS, _address),
    "timestamp": Function((_STRING,), Type.TIMESTAMP, instant),
    "email": Function((_STRING,), Type.EMAIL_ADDRESS, _email),
    "uri": Function((_STRING,), Type.URI, _uri),
    "dnsName": Function((_STRING,), Type.DNS_NAME, dns_name),
    "emptyStringMap": Function((), Type.STRING_MAP, dict),
    "conditional": Function((_BOOL, SAME, SAME), SAME, _never),
}
"""By name; of `matches` the first operand is the pattern, as in Mixer (`"svc.*".matches(destination.service)`)."""

ALIASES = {"dns.name": "dnsName"}
"""Another spelling → the name."""

_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def duration(text: str) -> timedelta | None:
    """Read a duration of Go (`1h30m`, `0ms`, `-1.5s`); None if it is none."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return timedelta(0)
    parts = list(_PART.finditer(rest))
    if not parts or "".join(part[0] for part in parts) != rest:
        return None
    try:
        total = timedelta(seconds=sum(float(part[1]) * _SECONDS[part[2]] for part in parts))
    except OverflowError:
        return None
    return -total if text.startswith("-") else total
