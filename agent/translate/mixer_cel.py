"""Expressions of Mixer → CEL, as Envoy evaluates it on a request. Pure.

In CEL an error on one side of `&&` or `||` is overruled by the other side; in Mixer what is absent on the left decides.
So each expression becomes two: whether it has a value, which never fails, and the value, only looked at where it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Nothing, Type
from agent.mesh.mixer_vocabulary import SCHEME, USERS, is_user, may_be_user, user_pattern
from agent.translate import cel
from agent.translate.cel import FALSE, TRUE, Cel, Constant, both, choice, either

IDENTITY = SCHEME
_SAN = cel.name("connection.uri_san_peer_certificate")
_HEADERS = cel.name("request.headers")
_CODE = cel.name("response.code")
OF_HEADERS = {
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
_COMPARED = ("==", "!=", "<", "<=", ">", ">=", "startsWith")
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
            first, second = _default_of(left), in_cel(right)
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
            return _chosen(expression) or _applied(expression)


def _chosen(call: Call) -> Asked | None:
    """Return a function of a choice that may be a user as the choice of what it gives; None: there is none.

    Users have a scheme here, and what they are compared with must be given it where, and only where, it is one.
    """
    for place, operand in enumerate(call.operands):
        if isinstance(operand, Call) and may_be_user(operand):
            *condition, left, right = operand.operands
            first, second = (in_cel(_with(call, place, each)) for each in (left, right))
            asked = in_cel(condition[0]) if condition else None
            is_first = asked.value if asked else _default_of(left).defined
            defined = both(asked.defined if asked else TRUE, choice(is_first, first.defined, second.defined))
            return Asked(defined, choice(is_first, first.value, second.value))
    return None


def _default_of(left: Expression) -> Asked:
    """Return what stands at the left of `|`: there alone a key that a map lacks is absent."""
    return _index(left) if isinstance(left, Call) and left.function == "[]" else in_cel(left)


def _with(call: Call, place: int, operand: Expression) -> Call:
    operands = (*call.operands[:place], operand, *call.operands[place + 1 :])
    return Call(call.function, operands, call.type)


def _attribute(attribute: Attribute) -> Asked:
    name = attribute.name
    if name in _PLAIN:
        return Asked(TRUE, cel.name(_PLAIN[name]))
    if name in USERS:
        return Asked(cel.is_there(_SAN), _SAN)
    if name == "response.code":  # of logs alone: no rule that decides may ask for it
        return Asked(TRUE, choice(cel.is_there(_CODE), _CODE, Constant(0)))
    if name in OF_HEADERS:
        return _header(OF_HEADERS[name])
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
    """Return the operands; what a user is compared with gets the scheme, which users have in Envoy."""
    users = [is_user(one) for one in call.operands]
    if not any(users) or all(users):
        return call.operands
    match call.function, call.operands:
        case "endsWith", (_, Literal()):
            return call.operands
        case "matches", (Literal(value=str(pattern)), user):
            within = user_pattern(pattern)
            if within is not None:
                return Literal(within, Type.STRING), user
        case function, _ if function in _COMPARED:
            return tuple(_scheme_before(one) for one in call.operands)
    raise NoForm("a caller's user can be compared with what is written down, and no more")


def _scheme_before(operand: Expression) -> Expression:
    if isinstance(operand, Literal):
        return Literal(SCHEME + str(operand.value).removeprefix(SCHEME), Type.STRING)
    if is_user(operand) or isinstance(operand, Nothing):
        return operand
    raise NoForm("a caller's user can be compared with what is written down, and no more")


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
