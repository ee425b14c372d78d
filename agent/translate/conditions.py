"""Conditions of Envoy's unified matchers (xds.type.matcher.v3), joined; always and never are kept apart. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import cel_pb2, http_inputs_pb2, matcher_pb2, string_pb2

from agent.translate.cel import Cel, Constant, expression
from agent.translate.resource import packed

_Predicate = matcher_pb2.Matcher.MatcherList.Predicate


class Condition(Struct, frozen=True):
    """A condition: always, never, or what a matcher says."""

    always: bool | None = None
    """None: the matcher says it."""
    matcher: Any = None
    """xds.type.matcher.v3.Matcher.MatcherList.Predicate."""


ANY, NONE = Condition(True), Condition(False)


def single(
    name: str, data: Any, text: Mapping[str, str] | None = None, matcher: tuple[str, Any] | None = None
) -> Condition:
    """Return a condition on one thing that Envoy knows: by a text's form, or by a matcher of its own."""
    predicate = _Predicate()
    one = predicate.single_predicate
    one.input.CopyFrom(
        extension_pb2.TypedExtensionConfig(name=f"envoy.matching.inputs.{name}", typed_config=packed(data))
    )
    if text is not None:
        one.value_match.CopyFrom(string_pb2.StringMatcher(**text))
    elif matcher is not None:
        one.custom_match.CopyFrom(extension_pb2.TypedExtensionConfig(name=matcher[0], typed_config=packed(matcher[1])))
    return Condition(None, predicate)


def asked_in_cel(asked: Cel) -> Condition:
    """Return the condition that an expression of CEL is true of a request."""
    if isinstance(asked, Constant):
        return ANY if asked.value else NONE
    matcher: Any = cel_pb2.CelMatcher()
    matcher.expr_match.cel_expr_parsed.expr.CopyFrom(expression(asked))
    data = http_inputs_pb2.HttpAttributesCelMatchInput()
    return single("cel_data_input", data, matcher=("envoy.matching.matchers.cel_matcher", matcher))


def all_of(conditions: Iterable[Condition]) -> Condition:
    """Return what holds if all do."""
    parts = [one for one in conditions if one.always is not True]
    if any(one.always is False for one in parts):
        return NONE
    if len(parts) < 2:
        return parts[0] if parts else ANY
    return Condition(None, _Predicate(and_matcher={"predicate": [one.matcher for one in parts]}))


def both_of(first: Condition, second: Condition) -> Condition:
    """Return what holds if both do."""
    return all_of((first, second))


def any_of(conditions: Iterable[Condition]) -> Condition:
    """Return what holds if one does."""
    parts = [one for one in conditions if one.always is not False]
    if any(one.always is True for one in parts):
        return ANY
    if len(parts) < 2:
        return parts[0] if parts else NONE
    return Condition(None, _Predicate(or_matcher={"predicate": [one.matcher for one in parts]}))


def negated(condition: Condition) -> Condition:
    """Return what holds if it does not."""
    if condition.always is not None:
        return NONE if condition.always else ANY
    return Condition(None, _Predicate(not_matcher=condition.matcher))
