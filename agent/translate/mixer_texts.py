"""Conditions on one header of a request as Envoy's own string matchers, a fraction of what CEL costs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from envoy.type.matcher.v3 import http_inputs_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal
from agent.mesh.mixer import ListCheck, ListKind
from agent.translate.conditions import ANY, Condition, any_of, both_of, negated, single
from agent.translate.mixer_dimensions import ALWAYS, header_name

MAX_ENTRIES = 64
"""Of a list that becomes one pattern; CEL looks through longer ones."""
_ANYTHING = {"safe_regex": {"regex": "(?s).*", "google_re2": {}}}


class Text(Struct, frozen=True):
    """A header's value."""

    header: str
    missing: str | None = None
    """What it is worth where there is no such header; None: it has no value then."""
    is_always: bool = False
    """There is always such a header."""


class Likeness(Struct, frozen=True):
    """What a text is to be like."""

    matcher: dict[str, Any]
    """Fields of a StringMatcher."""
    holds: Callable[[str], bool]


def text_of(expression: Expression) -> Text | None:
    """Return an expression as a header's value; None: it is another thing."""
    match expression:
        case Attribute(name=name) if name in ALWAYS:
            return Text(ALWAYS[name], is_always=True)
        case Call(function="|", operands=(left, Literal(value=str(default)))):
            header = header_name(left)
            return Text(header, default) if header else None
    header = header_name(expression)
    return Text(header, "" if isinstance(expression, Call) else None) if header else None


def likeness(function: str, part: str) -> Likeness | None:
    """Return what `==`, `startsWith`, `endsWith` and `match` ask of a text; None: it is another function."""
    match function:
        case "==":
            return Likeness({"exact": part}, lambda text: text == part)
        case "startsWith":
            return Likeness({"prefix": part} if part else _ANYTHING, lambda text: text.startswith(part))
        case "endsWith":
            return Likeness({"suffix": part} if part else _ANYTHING, lambda text: text.endswith(part))
        case "match" if part.endswith("*"):
            return likeness("startsWith", part[:-1])
        case "match" if part.startswith("*"):
            return likeness("endsWith", part[1:])
        case "match":
            return likeness("==", part)
    return None


def listed(check: ListCheck) -> Likeness | None:
    """Return what a list asks of a text; None: it is longer, or of another kind."""
    entries = check.entries
    if not 0 < len(entries) <= MAX_ENTRIES or check.kind not in (ListKind.STRINGS, ListKind.CASE_INSENSITIVE_STRINGS):
        return None
    strict = check.kind is ListKind.STRINGS
    pattern = f"{'' if strict else '(?i)'}{'|'.join(map(re.escape, entries))}"
    known = set(entries) if strict else {entry.lower() for entry in entries}
    return Likeness(
        {"exact": entries[0]} if strict and len(entries) == 1 else {"safe_regex": {"regex": pattern, "google_re2": {}}},
        lambda text: (text if strict else text.lower()) in known,
    )


def is_like(text: Text, like: Likeness, *, wanted: bool = True) -> Condition:
    """Return the condition that a text has a value, and is like that or (`wanted` false) is not."""
    if text.is_always and like.matcher is _ANYTHING:
        return ANY if wanted else negated(ANY)
    here = _matching(text, like.matcher)
    if text.is_always:
        return here if wanted else negated(here)
    there = _matching(text, _ANYTHING)
    if text.missing is None:
        return here if wanted else both_of(there, negated(here))
    either = any_of((here, negated(there))) if like.holds(text.missing) else here
    return either if wanted else negated(either)


def _matching(text: Text, matcher: dict[str, Any]) -> Condition:
    return single("request_headers", http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=text.header), text=matcher)


def compared(left: Expression, right: Expression) -> tuple[Text, str] | None:
    """Return a header's value and what it is compared with; None: they are other things."""
    for one, other in ((left, right), (right, left)):
        text = text_of(one)
        if text is not None and isinstance(other, Literal) and isinstance(other.value, str):
            return text, other.value
    return None
