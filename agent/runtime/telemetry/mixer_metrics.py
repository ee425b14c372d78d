"""The metrics that Mixer's rules report: made of what Envoy has counted, as the rules are now.

Envoy counts what tells requests apart; matches, dimensions, names and buckets are applied here, so that a changed
handler or a renamed metric is nothing to Envoy.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

from msgspec import Struct

from agent.mesh.expressions.evaluate import evaluate
from agent.mesh.expressions.tree import Type, Value, duration_text
from agent.mesh.metric_plan import CONNECTIONS, REQUESTS, Group, Use, plan_metrics
from agent.mesh.mixer import workload_attributes
from agent.mesh.mixer_metrics import MetricKind, measured_attribute, metrics_for_workload
from agent.mesh.raw_stats import Atom, Measure, RawStat, Side, asked_atom
from agent.mesh.service import Identity, Workload
from agent.mesh.snapshot import MeshSnapshot
from agent.runtime.telemetry.directory import Directory, Peer
from agent.runtime.telemetry.readings import Added
from agent.runtime.telemetry.series import Family, Kind, Metric, values_of
from agent.runtime.telemetry.statsd import StatsdQueue
from agent.translate.resource import is_ip

_KINDS = {MetricKind.COUNTER: Kind.COUNTER, MetricKind.GAUGE: Kind.GAUGE, MetricKind.DISTRIBUTION: Kind.HISTOGRAM}
_OF_CONNECTIONS = frozenset(
    {Measure.CLOSED, Measure.SENT, Measure.RECEIVED}
    | {Measure.CONNECTION_DURATION, Measure.SENT_SIZES, Measure.RECEIVED_SIZES}
)
_SCHEME = "spiffe://"
_SECONDS = 0.001
"""A duration's unit in Mixer's metrics, in that of Envoy's."""


class _Served(Struct, frozen=True):
    """What is reported of the requests (or connections) to a port."""

    uses: tuple[Use, ...]
    groups: Mapping[str, Group]
    known: Mapping[str, Value]
    """What the workload's registration says."""


class _Report(Struct, frozen=True):
    """A use as it is for one statistic: what its match and dimensions come to."""

    labels: tuple[str, ...]
    dimensions: Mapping[str, str]
    constant: float | None


class MixerMetrics:
    """Adds what Envoy has counted to the metrics that rules report."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {}
        self.queues: dict[str, StatsdQueue] = {}
        """By handler."""
        self._served: dict[tuple[int, str], _Served] = {}
        self._decides: tuple[Any, ...] = ()
        self._reports: dict[tuple[str, int], _Report | None] = {}
        """By statistic and use; None: the rule does not hold, or a dimension has no value."""
        self._directory: Directory | None = None

    def follow(self, snapshot: MeshSnapshot) -> None:
        """Take the present rules."""
        decides = (snapshot.security.metrics, snapshot.workloads, snapshot.settings)
        if decides == self._decides:
            return
        self._decides, self._served, self._reports = decides, {}, {}
        for workload in snapshot.workloads:
            rules = metrics_for_workload(
                snapshot.security.metrics, workload.service, workload.labels, snapshot.settings.root_namespace
            )
            for port in workload.ports if rules else ():
                for protocol in (REQUESTS, CONNECTIONS):
                    plan = plan_metrics(rules, protocol)
                    known = _own(workload, port.number, snapshot.settings.trust_domain)
                    groups = {group.key: group for group in plan.groups}
                    self._served.setdefault((port.number, protocol), _Served(plan.uses, groups, known))
        uses = [use for served in self._served.values() for use in served.uses]
        self._open_families(uses)
        servers = {use.outlet.handler: use.outlet.server for use in uses if use.outlet.server is not None}
        self.queues = {
            name: queue if (queue := self.queues.get(name)) and queue.server == server else StatsdQueue(server)
            for name, server in servers.items()
        }

    def _open_families(self, uses: list[Use]) -> None:
        """Keep the series of metrics that are as before, and begin the others; of one name the first is there."""
        before, self.families = self.families, {}
        for outlet in (use.outlet for use in uses if use.outlet.server is None):
            metric = Metric(outlet.name, outlet.help, _KINDS[outlet.kind], outlet.labels, outlet.bounds)
            known = before.get(outlet.name)
            family = known if known is not None and known.metric == metric else Family(metric)
            self.families.setdefault(outlet.name, family)

    def take(self, added: Added, directory: Directory) -> None:
        """Add it to every metric that it is for."""
        stat = added.stat
        protocol = CONNECTIONS if stat.measure in _OF_CONNECTIONS else REQUESTS
        served = self._served.get((stat.port, protocol)) if stat.side is Side.IN else None
        if served is None:
            return
        if directory is not self._directory:
            self._directory, self._reports = directory, {}
        for place, use in enumerate(served.uses):
            if use.group != stat.group or use.measure is not stat.measure:
                continue
            key = (added.name, place)
            if key not in self._reports:
                self._reports[key] = _report(use, _values(stat, served, directory))
            report = self._reports[key]
            if report is not None:
                self._add(use, report, added)

    def _add(self, use: Use, report: _Report, added: Added) -> None:
        amounts = _amounts(use, report, added)
        if use.outlet.server is not None:
            queue = self.queues[use.outlet.handler]
            is_duration = use.measured.value.type is Type.DURATION
            queue.add(use.outlet, report.dimensions, amounts, is_duration)
            return
        family = self.families[use.outlet.name]
        if family.metric.labels != use.outlet.labels:
            return  # another handler has a metric of that name
        match family.metric.kind:
            case Kind.COUNTER:
                family.add(report.labels, sum(value * count for value, count in amounts))
            case Kind.GAUGE:
                number = sum(count for _, count in amounts)
                family.set(report.labels, sum(value * count for value, count in amounts) / number)
            case Kind.HISTOGRAM:
                family.observe(report.labels, amounts)


def _amounts(use: Use, report: _Report, added: Added) -> list[tuple[float, float]]:
    """Return the values that have been added, and how often each."""
    if report.constant is not None:
        return [(report.constant, added.amount)]
    if added.stat.measure in (Measure.SENT, Measure.RECEIVED):
        return [(1.0, added.amount)]  # bytes, whatever connections they are of
    scale = _SECONDS if use.measured.value.type is Type.DURATION else 1.0
    return [(value * scale, count) for value, count in values_of(added.bins)]


def _report(use: Use, values: Mapping[str, Value]) -> _Report | None:
    if evaluate(use.match, values) is not True:
        return None
    found = {name: evaluate(expression, values) for name, expression in use.measured.dimensions}
    if any(value is None for value in found.values()):
        return None  # as in Mixer: an instance that lacks a part is none
    texts = {name: _text(value) for name, value in found.items() if value is not None}
    constant = None
    if measured_attribute(use.measured.value) is None:
        value = evaluate(use.measured.value, values)
        if isinstance(value, timedelta):
            constant = value.total_seconds()
        elif isinstance(value, int | float):
            constant = float(value)
        else:
            return None
    return _Report(tuple(texts[label] for label in use.outlet.labels), texts, constant)


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return duration_text(value) if isinstance(value, timedelta) else str(value)


def _own(workload: Workload, port: int, trust_domain: str) -> dict[str, Value]:
    known = workload_attributes("destination", workload.service, workload.labels, workload.identity, trust_domain) | {
        "destination.port": port
    }
    if is_ip(workload.address):
        known["destination.ip"] = ip_address(workload.address)
    return {name: value for name, value in known.items() if value is not None}


def _values(stat: RawStat, served: _Served, directory: Directory) -> dict[str, Value]:
    """Return every attribute that is known of what a statistic counts."""
    principal, address = stat.atom(Atom.CALLER), stat.atom(Atom.ADDRESS)
    values = {**served.known, **_caller(directory.caller(address, principal))}
    values["connection.mtls"] = bool(principal)
    if is_ip(address):
        values["source.ip"] = ip_address(address)
    if (code := stat.atom(Atom.CODE)).isdecimal():
        values["response.code"] = int(code)
    if (flags := stat.atom(Atom.FLAGS)) not in ("", "-"):
        values["context.proxy_error_code"] = flags
    headers: dict[str, dict[str, str]] = {"request.headers": {}, "response.headers": {}}
    for place, (attribute, header) in enumerate(served.groups[stat.group].asked):
        said = stat.atoms.get(asked_atom(place), "")
        if header and said:
            headers[attribute][header] = said
        elif said:
            values[attribute] = said
    return {**values, **headers}


def _caller(peer: Peer) -> dict[str, Value]:
    """Return the attributes of `source`, those that are known."""
    user, identity = peer.principal.removeprefix(_SCHEME), peer.identity
    known: dict[str, Value | None] = {}
    if peer.service is not None:
        known = workload_attributes("source", peer.service, peer.labels)
    elif peer.labels:
        known = {"source.labels": dict(peer.labels)}
    if identity is not None and peer.service is None:
        known["source.namespace"] = identity.namespace
    return {name: value for name, value in {**known, **_certified(user, identity)}.items() if value is not None}


def _certified(user: str, identity: Identity | None) -> dict[str, Value | None]:
    known: dict[str, Value | None] = {"source.user": user or None, "source.principal": user or None}
    return known | {"source.serviceAccount": identity.service_account if identity else None}
