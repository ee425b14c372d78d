"""The nodes of an expression, and its text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct

Value = str | int | float | bool | datetime | timedelta | IPv4Address | IPv6Address | Mapping[str, str]


class Type(StrEnum):
    """Types of values, by Istio's names."""

    STRING = "STRING"
    INT64 = "INT64"
    DOUBLE = "DOUBLE"
    BOOL = "BOOL"
    TIMESTAMP = "TIMESTAMP"
    DURATION = "DURATION"
    IP_ADDRESS = "IP_ADDRESS"
    EMAIL_ADDRESS = "EMAIL_ADDRESS"
    URI = "URI"
    DNS_NAME = "DNS_NAME"
    STRING_MAP = "STRING_MAP"


class Literal(Struct, frozen=True):
    """A value that is written down, or has become known."""

    value: Value
    type: Type


class Attribute(Struct, frozen=True):
    """A value that each request or connection has its own of, or lacks."""

    name: str
    type: Type


class Call(Struct, frozen=True):
    """An operator or function with its operands; a map's index is the operator `[]`."""

    function: str
    operands: tuple[Expression, ...]
    type: Type


class Nothing(Struct, frozen=True):
    """What has no value, whatever the request: what is left of a question about something absent. Has no syntax."""

    type: Type


Expression = Literal | Attribute | Call | Nothing

LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"||"}),
    frozenset({"&&"}),
    frozenset({"==", "!=", "<", "<=", ">", ">="}),
    frozenset({"|", "+", "-"}),
)
"""Operators between two operands, the loosest first; those of a level go from left to right, as in Go."""
METHODS = frozenset({"matches", "startsWith", "endsWith"})
"""Functions that are written after their first operand."""
CONVERSIONS = {
    Type.IP_ADDRESS: "ip",
    Type.TIMESTAMP: "timestamp",
    Type.EMAIL_ADDRESS: "email",
    Type.URI: "uri",
    Type.DNS_NAME: "dnsName",
}
"""Types without literals of their own → the function that makes such a value of a string."""
_LEVEL = {operator: level for level, operators in enumerate(LEVELS) for operator in operators}
_ATOM = len(LEVELS)
_UNITS = (("h", 3600), ("m", 60))


def attributes(expression: Expression) -> Iterator[Attribute]:
    """Yield every attribute that it asks for, as often as it does."""
    match expression:
        case Attribute():
            yield expression
        case Call():
            for operand in expression.operands:
                yield from attributes(operand)


def text(expression: Expression) -> str:
    """Return it in Mixer's syntax: parsed again, it is the same tree (a map that has become known has no syntax)."""
    return _text(expression, 0)


def _text(expression: Expression, level: int) -> str:
    match expression:
        case Literal():
            return _literal(expression)
        case Attribute():
            return expression.name
        case Call(function="[]", operands=(of, key)):
            return f"{_text(of, _ATOM)}[{_text(key, 0)}]"
        case Call(function=function, operands=operands) if function in _LEVEL:
            own = _LEVEL[function]
            written = f"{_text(operands[0], own)} {function} {_text(operands[1], own + 1)}"
            return f"({written})" if own < level else written
        case Call(function=function, operands=(first, *more)) if function in METHODS:
            return f"{_text(first, _ATOM)}.{function}({', '.join(_text(operand, 0) for operand in more)})"
        case Call(function=function, operands=operands):
            return f"{function}({', '.join(_text(operand, 0) for operand in operands)})"
        case Nothing():
            return "<absent>"


def _literal(literal: Literal) -> str:
    value = literal.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return f'timestamp("{value.astimezone(UTC).isoformat().replace("+00:00", "Z")}")'
    if isinstance(value, timedelta):
        return f'"{duration_text(value)}"'
    if isinstance(value, Mapping):
        return "emptyStringMap()" if not value else json.dumps(dict(value), ensure_ascii=False, sort_keys=True)
    if isinstance(value, int | float):
        return repr(value)
    written = json.dumps(str(value), ensure_ascii=False)
    conversion = CONVERSIONS.get(literal.type)
    return f"{conversion}({written})" if conversion else written


def duration_text(value: timedelta) -> str:
    """Return a duration as Go writes it, exact to the microsecond: `1h30m0s`, `1.5s`, `0s`, `-5s`."""
    sign, rest = ("-", -value) if value < timedelta(0) else ("", value)
    seconds, microseconds = divmod(rest // timedelta(microseconds=1), 1_000_000)
    whole = ""
    for unit, size in _UNITS:
        count, seconds = divmod(seconds, size)
        whole += f"{count}{unit}" if count or whole else ""
    fraction = f".{microseconds:06d}".rstrip("0") if microseconds else ""
    return f"{sign}{whole}{seconds}{fraction}s"
