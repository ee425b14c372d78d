"""When a rule of Mixer holds: conditions of Envoy's matchers on the caller, and CEL on the request. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Nothing, Type
from agent.mesh.mixer import ListCheck, ListKind
from agent.mesh.mixer_vocabulary import SCHEME, USERS, is_user, may_be_user
from agent.translate import cel
from agent.translate.cel import FALSE, Cel, Constant, both
from agent.translate.conditions import ANY, NONE, Condition, all_of, any_of, asked_in_cel, both_of, negated
from agent.translate.mixer_cel import NoForm, in_cel
from agent.translate.mixer_peers import at_addresses, has_name
from agent.translate.mixer_texts import compared, is_like, likeness, listed, text_of


class Conditions:
    """Conditions on requests, or (`requests` false) on whole connections, of which only the caller is known."""

    def __init__(self, *, requests: bool) -> None:
        self._requests = requests

    def holds(self, expression: Expression) -> Condition:
        """Return the condition that it is true; raises NoForm."""
        return self._is(expression, wanted=True)

    def listed(self, check: ListCheck) -> Condition:
        """Return the condition that a list has the value; one that there is not is on no list."""
        value = check.value
        if isinstance(value, Nothing):
            return NONE
        if isinstance(value, Literal):
            return ANY if is_listed(check, str(value.value)) else NONE
        if check.kind is ListKind.IP_ADDRESSES:
            if _is_attribute(value, "source.ip"):
                return at_addresses(check.entries) if check.entries else NONE
            raise NoForm("of a list of addresses only source.ip can be asked")
        if is_user(value) and check.kind is ListKind.STRINGS:
            return any_of(has_name(exact=_name(entry)) for entry in check.entries)
        if may_be_user(value):
            if check.kind is not ListKind.STRINGS:
                patterns = tuple(_as_pattern(entry, check.kind) for entry in check.entries)
                found = (Call("matches", (Literal(one, Type.STRING), value), Type.BOOL) for one in patterns)
            else:
                texts = (Literal(entry, Type.STRING) for entry in check.entries)
                found = (Call("==", (value, text), Type.BOOL) for text in texts)
            return any_of(self.holds(one) for one in found)
        text, like = text_of(value), listed(check)
        if text is not None and like is not None and self._requests:
            return is_like(text, like)
        return self._in_cel(self._listed_in_cel(check))

    def _listed_in_cel(self, check: ListCheck) -> Cel:
        asked = in_cel(check.value)
        if not check.entries:
            return FALSE
        if check.kind is ListKind.STRINGS:
            return both(asked.defined, cel.among(asked.value, check.entries))
        if check.kind is ListKind.REGEX:
            pattern = "|".join(f"(?:{entry})" for entry in check.entries)
        else:
            pattern = "|".join(_as_pattern(entry, check.kind) for entry in check.entries)
        return both(asked.defined, cel.method(asked.value, "matches", Constant(pattern)))

    def _is(self, expression: Expression, *, wanted: bool) -> Condition:
        match expression:
            case Nothing():
                return NONE
            case Literal():
                return ANY if expression.value is wanted else NONE
            case Call(function="&&" | "||" as function, operands=(left, right)):
                decides = function == "||"
                skips, goes_on = self._is(left, wanted=decides), self._is(left, wanted=not decides)
                other = both_of(goes_on, self._is(right, wanted=wanted))
                return any_of((skips, other)) if wanted is decides else other
            case Call(function="|", operands=(left, right), type=Type.BOOL):
                known = any_of(self._is(left, wanted=each) for each in (True, False))
                other = both_of(negated(known), self._is(right, wanted=wanted))
                return any_of((self._is(left, wanted=wanted), other))
            case Call(function="==" | "!=" as function, operands=(left, right)):
                found = self._caller(left, right) or self._caller(right, left)
                if found is not None:
                    return _compared(*found, wanted=(function == "==") is wanted)
                header = compared(left, right) if self._requests else None
                if header is not None:
                    equal = likeness("==", header[1])
                    assert equal is not None
                    return is_like(header[0], equal, wanted=(function == "==") is wanted)
            case Call(
                function="startsWith" | "endsWith" | "match" as function, operands=(text, Literal(value=str(part)))
            ):
                if _is_attribute(text, *USERS):
                    return _compared(_user_like(function, part), has_name(prefix=SCHEME), wanted=wanted)
                asked_for, like = text_of(text), likeness(function, part)
                if asked_for is not None and like is not None and self._requests:
                    return is_like(asked_for, like, wanted=wanted)
        asked = in_cel(expression)
        return self._in_cel(both(asked.defined, asked.value if wanted else cel.inverse(asked.value)))

    def _caller(self, asked: Expression, value: Expression) -> tuple[Condition, Condition] | None:
        """Return when a caller's address or name is a value, and when it is known at all; None: it is neither."""
        if not isinstance(value, Literal):
            return None
        if _is_attribute(asked, "source.ip"):
            return at_addresses((str(value.value),)), ANY
        if _is_attribute(asked, *USERS):
            return has_name(exact=_name(str(value.value))), has_name(prefix=SCHEME)
        return None

    def _in_cel(self, asked: Cel) -> Condition:
        if not self._requests and not isinstance(asked, Constant):
            raise NoForm("of a connection only its caller is known")
        return asked_in_cel(asked)


def _as_pattern(entry: str, kind: ListKind) -> str:
    return entry if kind is ListKind.REGEX else f"^(?i:{re.escape(entry)})$"


def _compared(alike: Condition, known: Condition, *, wanted: bool) -> Condition:
    return alike if wanted else all_of((known, negated(alike)))


def _is_attribute(expression: Expression, *names: str) -> bool:
    return isinstance(expression, Attribute) and expression.name in names


def _name(user: str) -> str:
    return SCHEME + user.removeprefix(SCHEME)


def _user_like(function: str, part: str) -> Condition:
    if function == "match":
        if part.endswith("*"):
            function, part = "startsWith", part[:-1]
        elif part.startswith("*"):
            function, part = "endsWith", part[1:]
        else:
            return has_name(exact=_name(part))
    if function == "endsWith":
        return has_name(suffix=part) if part else has_name(prefix=SCHEME)
    return has_name(prefix=_name(part))


def is_listed(check: ListCheck, value: str) -> bool:
    """Tell whether a list has a value that is known."""
    match check.kind:
        case ListKind.STRINGS:
            return value in check.entries
        case ListKind.CASE_INSENSITIVE_STRINGS:
            return value.lower() in {entry.lower() for entry in check.entries}
        case ListKind.REGEX:
            return any(re.search(entry, value) for entry in check.entries)
        case ListKind.IP_ADDRESSES:
            return _is_within(value, check.entries)


def _is_within(value: str, ranges: Iterable[str]) -> bool:
    try:
        address = ip_address(value)
    except ValueError:
        return False
    return any(address in ip_network(each, strict=False) for each in ranges)
