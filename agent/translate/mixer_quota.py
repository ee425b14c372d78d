"""Mixer's quotas → Envoy's local rate limits: a token bucket for each tuple of dimension values. Pure.

A bucket holds `maxAmount` tokens and is refilled with as many in `validDuration`, continuously. It is full at first: in
the first `validDuration` up to twice the amount passes, then the amount in each. Each chain of a port counts by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.type.v3 import http_status_pb2, token_bucket_pb2
from google.protobuf import wrappers_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Call, Expression, Literal, Nothing, Type
from agent.mesh.mixer import Limit, PolicyRule, Quota
from agent.translate import cel
from agent.translate.cel import FALSE, TRUE, Cel, Constant, both, choice, either, equal, inverse
from agent.translate.conditions import Condition
from agent.translate.mixer_cel import NoForm, in_cel
from agent.translate.mixer_dimensions import (
    METADATA,
    NOTE_SUFFIX,
    Dimension,
    Header,
    Said,
    computed,
    header_of,
    headers_of,
    in_words,
    lookups,
    too_many,
)
from agent.translate.mixer_peers import Peers
from agent.translate.resource import packed, seconds

MAX_COUNTERS = 10_000
"""For the tuples of dimension values of a quota; the one that was longest unused goes first."""
_PEER = cel.at(
    cel.at(cel.name("metadata.filter_metadata"), Constant(METADATA)),
    Constant(f"mixer_peer_{NOTE_SUFFIX}"),
)
"""The number of the caller, as the filter before has found it."""
_MOST = 2**32 - 1
_NO_LIMIT = "none"
_NOBODY = "nobody"
"""Of callers for whom the rule never holds."""

Variant = tuple[Condition, tuple[int, ...] | None, PolicyRule]


class Counted(Struct, frozen=True):
    """A rule's quota as Envoy counts it."""

    name: str
    limit: Cel
    """The number of the limit that counts for a request, or `none`."""
    dimensions: tuple[tuple[str, Dimension], ...]
    """Name and value of those that are not the same for all requests."""
    limits: tuple[Limit, ...]

    @property
    def asks_callers(self) -> bool:
        """Tell whether CEL wants the caller's number."""
        every = (self.limit, *(value for _, value in self.dimensions))
        return any(cel.mentions(one, _PEER) for one in every if not isinstance(one, Header | Said))

    @property
    def said(self) -> Iterator[Said]:
        """Yield what must be noted of callers."""
        return (value for _, value in self.dimensions if isinstance(value, Said))


def quota_of(rule: PolicyRule, quota: Quota, peers: tuple[Peers, ...], variants: Iterable[Variant]) -> Counted:
    """Return how a quota is counted; raises NoForm."""
    number = rule.checks.index(quota)
    lefts = [(numbers, left) for _, numbers, left in variants]
    limit, *values = _merged([(numbers, _form(left, number)) for numbers, left in lefts], len(quota.dimensions))
    native = [
        _native([(numbers, _dimension(left, number, place)) for numbers, left in lefts]) for place in range(len(values))
    ]
    chosen: list[Dimension] = [one if one is not None else value for one, value in zip(native, values, strict=True)]
    if too_many(chosen):
        chosen = list(values)
    named = zip((name for name, _ in quota.dimensions), chosen, strict=True)
    varying = tuple((name, value) for name, value in named if not isinstance(value, Constant))
    ordered = tuple(sorted(varying, key=lambda one: not isinstance(one[1], Header)))
    return Counted(f"{rule.origin.namespace}/{rule.origin.name}/{number}", limit, ordered, quota.limits)


def _dimension(rule: PolicyRule, number: int, place: int) -> Expression:
    check = rule.checks[number]
    assert isinstance(check, Quota)
    return check.dimensions[place][1]


def _native(each: list[tuple[tuple[int, ...] | None, Expression]]) -> Dimension | None:
    """Return a dimension, by what it is for callers of each kind, as Envoy has it natively; None: it has not."""
    first = each[0][1] if each else Literal("", Type.STRING)
    if all(one == first for _, one in each):
        return header_of(first)
    texts: dict[str, list[int]] = {}
    other = _NOBODY
    for numbers, one in each:
        if not isinstance(one, Literal) or not (text := _text(one)):
            return None
        if numbers is None:
            other = text
        else:
            texts.setdefault(text, []).extend(numbers)
    return Said(tuple((text, tuple(numbers)) for text, numbers in sorted(texts.items())), other)


def _form(rule: PolicyRule, number: int) -> tuple[Cel, ...]:
    """Return which limit counts, and what the rule's dimensions are worth."""
    check = rule.checks[number]
    assert isinstance(check, Quota)
    limit: Cel = Constant(str(len(check.limits) - 1))
    named = dict(check.dimensions)
    for place, each in reversed(list(enumerate(check.limits[:-1]))):
        fits: Cel = TRUE
        for name, value in each.dimensions:
            fits = both(fits, _fits(named[name], value) if name in named else FALSE)
        limit = choice(fits, Constant(str(place)), limit)
    values = (_value(dimension) for _, dimension in check.dimensions)
    return (choice(in_cel(rule.match).holds, limit, Constant(_NO_LIMIT)), *values)


def _value(dimension: Expression) -> Cel:
    if isinstance(dimension, Literal | Nothing):
        return Constant(_text(dimension) if isinstance(dimension, Literal) else "")
    asked = in_cel(dimension)
    return choice(asked.defined, _as_text(asked.value, dimension.type), Constant(""))


def _fits(dimension: Expression, value: str) -> Cel:
    """Return whether a dimension has a value; one without any is worth nothing."""
    if dimension.type is not Type.STRING or isinstance(dimension, Literal):
        return equal(_value(dimension), Constant(value))
    found = in_cel(Call("==", (dimension, Literal(value, Type.STRING)), Type.BOOL))
    return either(found.holds, inverse(in_cel(dimension).defined)) if value == "" else found.holds


def _text(literal: Literal) -> str:
    return str(literal.value).lower() if literal.type is Type.BOOL else str(literal.value)


def _as_text(value: Cel, type_: Type) -> Cel:
    """Return a value as text, which is all that a bucket is found by; raises NoForm: Envoy's CEL converts nothing."""
    if type_ is Type.BOOL:
        return choice(value, Constant("true"), Constant("false"))
    if type_ is not Type.STRING:
        raise NoForm(f"a {type_} cannot be counted by")
    return value


def _merged(forms: list[tuple[tuple[int, ...] | None, tuple[Cel, ...]]], dimensions: int) -> tuple[Cel, ...]:
    """Return one expression for each place, that chooses by the caller's number."""
    nobody: tuple[Cel, ...] = (Constant(_NO_LIMIT), *[Constant("")] * dimensions)
    merged = next((values for numbers, values in forms if numbers is None), nobody)
    for numbers, values in forms:
        if numbers is not None:
            these = cel.among(_PEER, (f"p{number}" for number in numbers))
            merged = tuple(choice(these, value, other) for value, other in zip(values, merged, strict=True))
    return merged


def quota_filter(counted: Iterable[Counted], notes: Mapping[Said, str]) -> Any:
    """Return the filter that counts; `notes` are the names under which it is noted what is said of callers."""
    every = tuple(counted)
    bucket = token_bucket_pb2.TokenBucket(max_tokens=_MOST, fill_interval=seconds(1))
    bucket.tokens_per_fill.value = _MOST
    config = local_rate_limit_pb2.LocalRateLimit(
        stat_prefix="mixer_quota", token_bucket=bucket, rate_limited_as_resource_exhausted=True
    )
    config.status.code = http_status_pb2.TooManyRequests
    for enabled in (config.filter_enabled, config.filter_enforced):
        enabled.default_value.numerator = 100
    config.always_consume_default_token_bucket.value = False
    config.max_dynamic_descriptors.CopyFrom(wrappers_pb2.UInt32Value(value=MAX_COUNTERS))
    for each in every:
        if isinstance(each.limit, Constant):
            which = in_words("quota", f"{each.name}/{each.limit.value}")
        else:
            which = computed("quota", _named_limit(each))
        config.rate_limits.extend(lookups(which, each.dimensions, notes))
        config.descriptors.extend(_bucket(each, place) for place in range(len(each.limits)))
    name = "envoy.filters.http.local_ratelimit"
    return http_connection_manager_pb2.HttpFilter(name=name, typed_config=packed(config))


def _named_limit(counted: Counted) -> Cel:
    """Return the whole name of the limit that counts."""
    found: Cel = Constant(_NO_LIMIT)
    for place in range(len(counted.limits)):
        is_it = equal(counted.limit, Constant(str(place)))
        found = choice(is_it, Constant(f"{counted.name}/{place}"), found)
    return found


def _bucket(counted: Counted, place: int) -> Any:
    limit = counted.limits[place]
    message = ratelimit_pb2.LocalRateLimitDescriptor()
    entries = [(name, "") for name, _ in counted.dimensions]
    entries.insert(headers_of(counted.dimensions), ("quota", f"{counted.name}/{place}"))
    for key, value in entries:
        message.entries.add(key=key, value=value)
    amount = max(1, min(limit.amount, _MOST))
    message.token_bucket.max_tokens = amount
    message.token_bucket.tokens_per_fill.value = amount
    message.token_bucket.fill_interval.CopyFrom(seconds(limit.seconds))
    return message
