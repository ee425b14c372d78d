"""Expressions of Mixer → CEL, as Envoy evaluates it on a request. Pure.

In CEL an error on one side of `&&` or `||` is overruled by the other side; in Mixer what is absent on the left decides.
So each expression becomes two: whether it has a value, which never fails, and the value, only looked at where it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Nothing, Type
from agent.translate import cel
from agent.translate.cel import FALSE, TRUE, Cel, Constant, both, choice, either

IDENTITY = "spiffe://"
USERS = ("source.user", "source.principal")
_SAN = cel.name("connection.uri_san_peer_certificate")
_HEADERS = cel.name("request.headers")
_OF_HEADERS = {
    "request.id": "x-request-id",
    "request.useragent": "user-agent",
    "request.referer": "referer",
    "request.api_key": "x-api-key",
}
_PLAIN = {
    "request.path": "request.path",
    "request.url_path": "request.url_path",
    "request.host": "request.host",
    "request.method": "request.method",
    "request.scheme": "request.scheme",
    "request.size": "request.size",
    "request.total_size": "request.total_size",
    "request.time": "request.time",
    "context.time": "request.time",
    "connection.mtls": "connection.mtls",
}
_COMPARED = ("==", "!=", "startsWith", "match")
_OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "+", "-")


class NoForm(Exception):
    """CEL has no form for an expression; the text says of what."""


class Asked(Struct, frozen=True):
    """An expression in CEL."""

    defined: Cel
    """Whether it has a value; never fails."""
    value: Cel
    """Only where it has one."""

    @property
    def holds(self) -> Cel:
        """Return whether it has the value true."""
        return both(self.defined, self.value)


def in_cel(expression: Expression) -> Asked:
    """Return an expression in CEL; raises NoForm."""
    match expression:
        case Nothing():
            return Asked(FALSE, FALSE)
        case Literal():
            return Asked(TRUE, _literal(expression))
        case Attribute():
            return _attribute(expression)
        case Call(function="[]"):
            found = _index(expression)
            return Asked(TRUE, choice(found.defined, found.value, Constant("")))
        case Call(function="|", operands=(left, right)):
            first = _index(left) if isinstance(left, Call) and left.function == "[]" else in_cel(left)
            second = in_cel(right)
            return Asked(either(first.defined, second.defined), choice(first.defined, first.value, second.value))
        case Call(function="&&", operands=(left, right)):
            first, second = in_cel(left), in_cel(right)
            goes_on = either(cel.inverse(first.value), second.defined)
            return Asked(both(first.defined, goes_on), both(first.value, second.value))
        case Call(function="||", operands=(left, right)):
            first, second = in_cel(left), in_cel(right)
            return Asked(both(first.defined, either(first.value, second.defined)), either(first.value, second.value))
        case Call(function="conditional", operands=(condition, left, right)):
            asked, first, second = in_cel(condition), in_cel(left), in_cel(right)
            defined = both(asked.defined, choice(asked.value, first.defined, second.defined))
            return Asked(defined, choice(asked.value, first.value, second.value))
        case Call(function="match", operands=(text, Literal(value=str(pattern)))):
            return in_cel(_glob(text, pattern))
        case Call():
            return _applied(expression)


def _attribute(attribute: Attribute) -> Asked:
    name = attribute.name
    if name in _PLAIN:
        return Asked(TRUE, cel.name(_PLAIN[name]))
    if name in USERS:
        return Asked(cel.is_there(_SAN), _SAN)
    if name in _OF_HEADERS:
        return _header(_OF_HEADERS[name])
    raise NoForm(f"{name} is not known where requests are decided about")


def _header(name: str) -> Asked:
    key = Constant(name)
    return Asked(cel.within(key, _HEADERS), cel.at(_HEADERS, key))


def _index(call: Expression) -> Asked:
    """Return a map's index, without a value where the map lacks the key."""
    assert isinstance(call, Call)
    of, key = call.operands
    if isinstance(of, Attribute) and of.name == "request.headers":
        if not isinstance(key, Literal):
            raise NoForm("the name of a header must be written down")
        return _header(str(key.value).lower())
    if isinstance(of, Literal) and isinstance(of.value, Mapping):
        known, asked = cel.Table(tuple(sorted(of.value.items()))), in_cel(key)
        return Asked(both(asked.defined, cel.within(asked.value, known)), cel.at(known, asked.value))
    name = of.name if isinstance(of, Attribute) else "a map that is computed"
    raise NoForm(f"{name} is not known where requests are decided about")


def _applied(call: Call) -> Asked:
    operands = [in_cel(operand) for operand in _with_scheme(call)]
    defined: Cel = TRUE
    for operand in operands:
        defined = both(defined, operand.defined)
    values = [operand.value for operand in operands]
    if call.function in _OPERATORS:
        return Asked(defined, cel.call(f"_{call.function}_", *values))
    match call.function:
        case "startsWith" | "endsWith":
            return Asked(defined, cel.method(values[0], call.function, values[1]))
        case "matches":
            return Asked(defined, cel.method(values[1], "matches", values[0]))
        case "size":
            return Asked(defined, cel.call("size", values[0]))
    raise NoForm(f"{call.function}() cannot be asked of each request")


def _glob(text: Expression, pattern: str) -> Call:
    if pattern.endswith("*"):
        function, part = "startsWith", pattern[:-1]
    elif pattern.startswith("*"):
        function, part = "endsWith", pattern[1:]
    else:
        function, part = "==", pattern
    return Call(function, (text, Literal(part, Type.STRING)), Type.BOOL)


def _with_scheme(call: Call) -> tuple[Expression, ...]:
    """Return the operands; a text that a user is compared with gets the scheme, which users have in Envoy."""
    users = any(isinstance(one, Attribute) and one.name in USERS for one in call.operands)
    if call.function not in _COMPARED or not users:
        return call.operands
    return tuple(
        Literal(IDENTITY + str(one.value).removeprefix(IDENTITY), Type.STRING)
        if isinstance(one, Literal) and isinstance(one.value, str)
        else one
        for one in call.operands
    )


def _literal(literal: Literal) -> Cel:
    value = literal.value
    match value:
        case bool() | int() | float():
            return Constant(value)
        case datetime():
            text = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            return cel.call("timestamp", Constant(text))
        case timedelta():
            return cel.call("duration", Constant(f"{value.total_seconds():.6f}s"))
        case Mapping():
            raise NoForm("a whole map cannot be compared")
    return Constant(str(value))
