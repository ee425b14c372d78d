"""Mixer's rules in front of a workload: refusals by RBAC, quotas by local rate limits; no call-out. Pure.

A rule that asks about its callers is folded for each kind of caller that the catalog knows, and for all others; what is
left for them is asked of the connection (addresses, certificate) and of the request (CEL).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Call, Expression, Value
from agent.mesh.mixer import (
    INTERNAL,
    NOT_FOUND,
    PERMISSION_DENIED,
    Denial,
    ListCheck,
    PolicyRule,
    Quota,
    Status,
)
from agent.mesh.routes import Fault
from agent.translate.cel import Constant, equal
from agent.translate.conditions import ANY, Condition, any_of, asked_in_cel, both_of, negated
from agent.translate.facts import distinct
from agent.translate.mixer_cel import NoForm
from agent.translate.mixer_conditions import Conditions
from agent.translate.mixer_dimensions import Said
from agent.translate.mixer_notes import NOBODY, Callers, first_of, note_filter
from agent.translate.mixer_peers import absent_source, are
from agent.translate.mixer_quota import Counted, quota_filter, quota_of
from agent.translate.resource import packed

HTTP_RBAC, NETWORK_RBAC = "envoy.filters.http.rbac", "envoy.filters.network.rbac"
PEER_NAMES = "mixer_peer_"
_HTTP_STATUS = (200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401)
"""By the code of google.rpc.Code."""
_EXHAUSTED = "RESOURCE_EXHAUSTED:Quota is exhausted"
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


class Reply(Struct, frozen=True):
    """What a refused client is told."""

    details: str
    """Envoy's own name for the refusal (`response.code_details`)."""
    status: int
    """Of HTTP."""
    body: str


class Mixed(Struct, frozen=True):
    """Filters that decide, before the workload's own."""

    filters: tuple[Any, ...] = ()
    replies: tuple[Reply, ...] = ()
    faults: tuple[Fault, ...] = ()


class Mixing(Struct, frozen=True):
    """What some rules decide, about requests and about connections that are none; where callers are known, and not."""

    rules: tuple[PolicyRule, ...]
    requests: Mixed
    connections: Mixed
    plain_requests: Mixed
    plain_connections: Mixed

    def of_requests(self, secured: bool) -> Mixed:
        """Return what is decided about requests; `secured`: over mutual TLS."""
        return self.requests if secured else self.plain_requests

    def of_connections(self, secured: bool) -> Mixed:
        """Return what is decided about connections."""
        return self.connections if secured else self.plain_connections

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return what cannot be decided."""
        every = (self.requests, self.connections, self.plain_requests, self.plain_connections)
        return distinct(fault for mixed in every for fault in mixed.faults)


def mixing(rules: tuple[PolicyRule, ...], callers: Callers) -> Mixing:
    """Return what rules decide.

    Envoy asks for a certificate's name only where there is one: a matcher whose input is missing refuses everything. So
    what is plain text has rules of its own, in which nothing is known of the caller, or what its address says.
    """
    nobody: dict[str, Value | None] = {"connection.mtls": False, "source.user": None, "source.principal": None}
    if callers.verified:
        nobody |= absent_source()
    known = tuple(left for rule in rules if (left := rule.within({"connection.mtls": True})) is not None)
    plain = tuple(left for rule in rules if (left := rule.within(nobody)) is not None)
    return Mixing(
        rules,
        http_mixed(known, callers),
        connection_mixed(known, callers),
        http_mixed(plain, callers),
        connection_mixed(plain, callers),
    )


class _Refusal(Struct, frozen=True):
    name: str
    condition: Condition
    reply: Reply


def asks_about_callers(rules: Iterable[PolicyRule]) -> bool:
    """Tell whether a rule wants to know of its callers what the catalog says."""
    absent = absent_source()
    return any(name in absent for rule in rules for name in _names(rule))


def http_mixed(rules: Iterable[PolicyRule], callers: Callers) -> Mixed:
    """Return what decides about requests."""
    known: dict[str, Value | None] = {"context.protocol": "http"}
    here = tuple(left for rule in rules if (left := rule.within(known)) is not None)
    refusals, counted, faults = list[_Refusal](), list[Counted](), list[Fault]()
    for rule in here:
        try:
            refusals += _refusals(rule, callers, Conditions(requests=True))
            counted += [quota_of(rule, check, callers.peers, _variants(rule, callers)) for check in _quotas(rule)]
        except NoForm as reason:
            faults.append(Fault(str(rule.origin), f"has no effect on requests: {reason}"))
    refusals += [refusal for each in counted for refusal in _closed(each)]
    everybody = [(f"p{number}", (number,)) for number in range(len(callers.peers))]
    asked = any(each.asks_callers for each in counted)
    filters = [note_filter(PEER_NAMES, everybody, NOBODY, callers)] if asked else []
    notes = {said: f"mixer_said_{number}_" for number, said in enumerate(dict.fromkeys(_said(counted)))}
    filters += [note_filter(prefix, said.texts, said.other, callers) for said, prefix in notes.items()]
    filters += [_http_filter(refusals)] if refusals else []
    replies = [each.reply for each in refusals]
    if counted:
        filters.append(quota_filter(counted, notes))
        replies.append(Reply("local_rate_limited", 429, _EXHAUSTED))
    return Mixed(tuple(filters), tuple(replies), tuple(faults))


def connection_mixed(rules: Iterable[PolicyRule], callers: Callers) -> Mixed:
    """Return what decides about connections that are no requests."""
    known: dict[str, Value | None] = {"context.protocol": "tcp"}
    here = [left for rule in rules if (left := rule.within(known)) is not None]
    refusals, faults = list[_Refusal](), list[Fault]()
    for rule in here:
        try:
            refusals += _refusals(rule, callers, Conditions(requests=False))
        except NoForm as reason:
            faults.append(Fault(str(rule.origin), f"has no effect on connections: {reason}"))
    if not refusals:
        return Mixed((), (), tuple(faults))
    config = network_rbac_pb2.RBAC(stat_prefix="mixer_", matcher=_matcher(refusals))
    found = listener_components_pb2.Filter(name=NETWORK_RBAC, typed_config=packed(config))
    return Mixed((found,), (), tuple(faults))


def _closed(counted: Counted) -> Iterator[_Refusal]:
    """Refuse what a limit of nothing is for: a bucket holds at least one token."""
    for place, limit in enumerate(counted.limits):
        if limit.amount == 0:
            name = f"{counted.name}/{place}"
            reply = Reply(_details(name), 429, _EXHAUSTED)
            yield _Refusal(name, asked_in_cel(equal(counted.limit, Constant(str(place)))), reply)


def _details(name: str) -> str:
    return f"rbac_access_denied_matched_policy[{name}]"


def _quotas(rule: PolicyRule) -> Iterator[Quota]:
    return (check for check in rule.checks if isinstance(check, Quota))


def _refusals(rule: PolicyRule, callers: Callers, conditions: Conditions) -> list[_Refusal]:
    """Return what the rule's checks refuse."""
    found = []
    for number, check in enumerate(rule.checks):
        status = _status(check)
        if status is None:
            continue
        variants = _variants(rule, callers)
        refused = any_of(both_of(who, _refused(left, number, conditions)) for who, _, left in variants)
        name = f"{rule.origin.namespace}/{rule.origin.name}/{number}"
        if refused.always is not False:
            body = f"{_CODES[status.code]}:{check.handler}:{status.message}"
            found.append(_Refusal(name, refused, Reply(_details(name), _HTTP_STATUS[status.code], body)))
    return found


def _status(check: Denial | ListCheck | Quota) -> Status | None:
    match check:
        case Denial(status=status):
            return status if status.code else None
        case ListCheck(is_missing=True):
            return Status(INTERNAL, "the list has not been had from its providerUrl yet")
        case ListCheck(blacklist=True):
            return Status(PERMISSION_DENIED, "the value is blacklisted")
        case ListCheck():
            return Status(NOT_FOUND, "the value is not whitelisted")
        case Quota():
            return None


def _refused(rule: PolicyRule, number: int, conditions: Conditions) -> Condition:
    check, matched = rule.checks[number], conditions.holds(rule.match)
    if not isinstance(check, ListCheck) or matched.always is False:
        return matched
    if check.is_missing and check.blacklist:
        return matched
    listed = conditions.listed(check)
    return both_of(matched, listed if check.blacklist else negated(listed))


def _variants(rule: PolicyRule, callers: Callers) -> list[tuple[Condition, tuple[int, ...] | None, PolicyRule]]:
    """Return the rule as it is for callers of each kind: who they are, their numbers (None: others), what is left."""
    if not asks_about_callers((rule,)):
        return [(ANY, None, rule)]
    by_rest: dict[str, tuple[PolicyRule, list[int]]] = {}
    domain = callers.trust_domains[0]
    for number, peers in enumerate(callers.peers):
        left = rule.within(peers.attributes(domain))
        if left is not None:
            by_rest.setdefault(repr((left.match, left.checks)), (left, []))[1].append(number)

    def who(numbers: Iterable[int]) -> Condition:
        return are((callers.peers[number] for number in numbers), callers.trust_domains, callers.verified)

    found: list[tuple[Condition, tuple[int, ...] | None, PolicyRule]] = [
        (who(numbers), tuple(numbers), left) for left, numbers in by_rest.values()
    ]
    left = rule.within(absent_source())
    if left is not None:
        found.append((negated(who(range(len(callers.peers)))), None, left))
    return found


def _names(rule: PolicyRule) -> Iterator[str]:
    yield from _asked(rule.match)
    for check in rule.checks:
        match check:
            case ListCheck(value=value):
                yield from _asked(value)
            case Quota(dimensions=dimensions):
                for _, value in dimensions:
                    yield from _asked(value)


def _asked(expression: Expression) -> Iterator[str]:
    match expression:
        case Attribute(name=name):
            yield name
        case Call(operands=operands):
            for operand in operands:
                yield from _asked(operand)


def _said(counted: Iterable[Counted]) -> Iterator[Said]:
    return (said for each in counted for said in each.said)


def _http_filter(refusals: Iterable[_Refusal]) -> Any:
    config = http_rbac_pb2.RBAC(rules_stat_prefix="mixer_", matcher=_matcher(refusals))
    return http_connection_manager_pb2.HttpFilter(name=f"{HTTP_RBAC}.mixer", typed_config=packed(config))


def _matcher(refusals: Iterable[_Refusal]) -> Any:
    return first_of(((each.name, each.condition) for each in refusals), rbac_pb2.RBAC.DENY)
