"""Mixer's quotas → Envoy's local rate limits: a token bucket for each tuple of dimension values. Pure.

A bucket holds `maxAmount` tokens and is refilled with as many in `validDuration`, continuously. It is full at first: in
the first `validDuration` up to twice the amount passes, then the amount in each. Each chain of a port counts by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from envoy.type.v3 import http_status_pb2, token_bucket_pb2
from google.protobuf import wrappers_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Call, Expression, Literal, Nothing, Type
from agent.mesh.mixer import Limit, PolicyRule, Quota
from agent.translate import cel
from agent.translate.cel import FALSE, TRUE, Cel, Constant, both, choice, either, equal, inverse
from agent.translate.conditions import Condition
from agent.translate.mixer_cel import NoForm, in_cel
from agent.translate.mixer_peers import Peers
from agent.translate.resource import packed, seconds

MAX_COUNTERS = 10_000
"""For the tuples of dimension values of a quota; the one that was longest unused goes first."""
_PEER = cel.at(
    cel.at(cel.name("metadata.filter_metadata"), Constant("envoy.filters.http.rbac")),
    Constant("mixer_peer_shadow_effective_policy_id"),
)
"""The number of the caller, as the filter before has found it."""
_MOST = 2**32 - 1
_NO_LIMIT = "none"

Variant = tuple[Condition, tuple[int, ...] | None, PolicyRule]


class Counted(Struct, frozen=True):
    """A rule's quota as Envoy counts it."""

    name: str
    limit: Cel
    """The number of the limit that counts for a request, or `none`."""
    dimensions: tuple[tuple[str, Cel], ...]
    """Name and value of those that are not the same for all requests."""
    limits: tuple[Limit, ...]
    asks_callers: bool


def quota_of(rule: PolicyRule, quota: Quota, peers: tuple[Peers, ...], variants: Iterable[Variant]) -> Counted:
    """Return how a quota is counted; raises NoForm."""
    number = rule.checks.index(quota)
    forms = [(numbers, _form(left, number)) for _, numbers, left in variants]
    limit, *values = _merged(forms, len(quota.dimensions))
    named = dict(zip((name for name, _ in quota.dimensions), values, strict=True))
    varying = tuple((name, value) for name, value in named.items() if not isinstance(value, Constant))
    name = f"{rule.origin.namespace}/{rule.origin.name}/{number}"
    asks = any(numbers is not None for numbers, _ in forms)
    return Counted(name, limit, varying, quota.limits, asks)


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


def quota_filter(counted: Iterable[Counted]) -> Any:
    """Return the filter that counts."""
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
        config.rate_limits.append(_asked(each))
        config.descriptors.extend(_bucket(each, place) for place in range(len(each.limits)))
    name = "envoy.filters.http.local_ratelimit"
    return http_connection_manager_pb2.HttpFilter(name=name, typed_config=packed(config))


def _asked(counted: Counted) -> Any:
    """Return what of a request is looked up among the buckets."""
    message = route_components_pb2.RateLimit()
    for key, value in (("quota", Constant(counted.name)), ("limit", counted.limit), *counted.dimensions):
        config: Any = expr_pb2.Descriptor(descriptor_key=key)
        # The same message under an older name: Envoy's field was there before CEL had a home of its own.
        config.parsed.ParseFromString(cel.expression(value).SerializeToString())
        message.actions.add().extension.CopyFrom(_extension(config))
    return message


def _extension(config: Any) -> Any:
    return extension_pb2.TypedExtensionConfig(name="envoy.rate_limit_descriptors.expr", typed_config=packed(config))


def _bucket(counted: Counted, place: int) -> Any:
    limit = counted.limits[place]
    message = ratelimit_pb2.LocalRateLimitDescriptor()
    for key, value in (("quota", counted.name), ("limit", str(place)), *((name, "") for name, _ in counted.dimensions)):
        message.entries.add(key=key, value=value)
    amount = max(1, min(limit.amount, _MOST))
    message.token_bucket.max_tokens = amount
    message.token_bucket.tokens_per_fill.value = amount
    message.token_bucket.fill_interval.CopyFrom(seconds(limit.seconds))
    return message
