"""Which statistics of Envoy Mixer's metrics are made of: what must be counted, and what of it each metric takes. Pure.

Envoy and agent both go by it: the one counts under a group's name, the other reads there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from msgspec import Struct

from agent.mesh.expressions.tree import Expression, Value
from agent.mesh.expressions.vocabulary import VOCABULARY
from agent.mesh.mixer_metrics import (
    COUNTABLE,
    HEADERS,
    MEASURED,
    Measured,
    MetricKind,
    MetricRule,
    Outlet,
    asked_for,
    measured_attribute,
)
from agent.mesh.raw_stats import Measure

REQUESTS, CONNECTIONS = "http", "tcp"
"""What is counted, in the words of `context.protocol`."""
DEFAULT = ""
"""The group of what is always told apart, and of nothing else."""
SIZES = "sizes"
"""The group that tells less apart: who called, not how it ended."""


class Group(Struct, frozen=True):
    """Statistics that tell the same apart."""

    key: str
    asked: tuple[tuple[str, str], ...]
    """(attribute, header or ""): what is told apart beside what always is."""
    measures: frozenset[Measure]


class Use(Struct, frozen=True):
    """A value that a rule reports."""

    match: Expression
    outlet: Outlet
    measured: Measured
    measure: Measure
    group: str


class MetricPlan(Struct, frozen=True):
    """What rules report of the requests (or connections) of a workload."""

    uses: tuple[Use, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return what must be counted for it, in order of the keys."""
        asked: dict[str, tuple[tuple[str, str], ...]] = {}
        measures: dict[str, set[Measure]] = {}
        for use in self.uses:
            asked[use.group] = _asked(use.match, use.measured)
            measures.setdefault(use.group, set()).add(use.measure)
        return tuple(Group(key, asked[key], frozenset(measures[key])) for key in sorted(asked))


ALL_REQUESTS = Group(DEFAULT, (), frozenset({Measure.DURATION}))
ALL_SIZES = Group(SIZES, (), frozenset({Measure.REQUEST_BYTES, Measure.RESPONSE_BYTES}))
ALL_CONNECTIONS = Group(DEFAULT, (), frozenset({Measure.OPENED, Measure.CLOSED, Measure.SENT, Measure.RECEIVED}))
"""What the default metrics are made of."""


def joined(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Return the groups, those of one key as one."""
    found: dict[str, Group] = {}
    for group in groups:
        before = found.get(group.key)
        found[group.key] = Group(group.key, group.asked, group.measures | (before.measures if before else frozenset()))
    return tuple(found[key] for key in sorted(found))


def plan_metrics(rules: Iterable[MetricRule], protocol: str) -> MetricPlan:
    """Return what is reported of requests (REQUESTS) or connections (CONNECTIONS) by rules for one workload."""
    known: dict[str, Value | None] = dict.fromkeys(name for name in VOCABULARY if name not in COUNTABLE | set(MEASURED))
    known |= dict.fromkeys(name for name, of in MEASURED.items() if of != protocol)
    known |= {"context.protocol": protocol, "context.reporter.kind": "inbound", "context.reporter.local": True}
    if protocol == CONNECTIONS:
        known |= dict.fromkeys((*HEADERS, *(name for name in COUNTABLE if name.startswith(("request.", "response.")))))
    left = (found for rule in rules if (found := rule.within(known)) is not None)
    return MetricPlan(
        tuple(
            Use(rule.match, outlet, measured, _measure(measured, outlet, protocol), _key(rule.match, measured))
            for rule in left
            for outlet, measured in rule.reports
        )
    )


def _measure(measured: Measured, outlet: Outlet, protocol: str) -> Measure:
    attribute = measured_attribute(measured.value)
    if attribute is None:
        return Measure.DURATION if protocol == REQUESTS else Measure.CLOSED
    if attribute.name.startswith(("connection.sent", "connection.received")):
        is_sent = attribute.name.startswith("connection.sent")
        if outlet.kind is MetricKind.COUNTER:
            return Measure.SENT if is_sent else Measure.RECEIVED
        return Measure.SENT_SIZES if is_sent else Measure.RECEIVED_SIZES
    return _MEASURES[attribute.name]


_MEASURES: Mapping[str, Measure] = {
    "response.duration": Measure.DURATION,
    "request.size": Measure.REQUEST_BYTES,
    "response.size": Measure.RESPONSE_BYTES,
    "connection.duration": Measure.CONNECTION_DURATION,
}


def _asked(match: Expression, measured: Measured) -> tuple[tuple[str, str], ...]:
    """Return what it asks for; what the server says before what clients choose (see raw_stats.read_stat)."""
    found = set(asked_for((match, measured.value, *measured.expressions)))
    return tuple(sorted(found, key=lambda one: (one[0].startswith("request."), one)))


def _key(match: Expression, measured: Measured) -> str:
    asked = _asked(match, measured)
    return sha256(repr(asked).encode()).hexdigest()[:8] if asked else DEFAULT
