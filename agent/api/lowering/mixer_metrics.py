"""What Mixer's rules measure, with the handlers and instances that they name, together. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from agent.api.checks.durations import seconds
from agent.api.envelope import Document
from agent.api.expressions import parse
from agent.api.lowering.mixer import Find, full_name, named_by, rule_match, users_without_scheme
from agent.api.specs.mixer_rule import Name, read_name
from agent.mesh.mixer_metrics import Measured, MetricKind, MetricRule, Outlet, Statsd
from agent.mesh.routes import Fault, ObjectRef

METRIC_PARTS = ("prometheus", "statsd", "metric")
"""The kinds that such rules name."""
_NAMESPACE = "istio"
_DEFAULT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Prometheus' own."""
_DEFAULT = Statsd("", 0)
_TEMPLATE = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")


class LoweredMetrics(Struct, frozen=True):
    """What a rule measures, and what it lacks."""

    rule: MetricRule | None
    faults: tuple[Fault, ...] = ()


def lower_metrics(document: Document, find: Find) -> LoweredMetrics:
    """Return what a rule measures; one that names what is not there measures nothing until it is."""
    reports, faults = list[tuple[Outlet, Measured]](), list[Fault]()
    for action in document.spec["actions"]:
        handler = named_by(action["handler"], document)
        if handler.kind not in METRIC_PARTS:
            continue
        names = [handler, *(named_by(instance, document) for instance in action["instances"])]
        found = [find(ObjectRef(name.kind, name.namespace, name.name)) for name in names]
        missing = [full_name(name) for name, one in zip(names, found, strict=True) if one is None]
        if missing:
            reason = f"is inactive until there is {' and '.join(missing)}"
            return LoweredMetrics(None, (Fault(str(document.ref), reason),))
        configured, *instances = (one for one in found if one is not None)
        for name, instance in zip(names[1:], instances, strict=True):
            measured = _measured(full_name(name), instance)
            outlets = tuple(_outlets(full_name(handler), configured, name, measured))
            wrong = _obstacle(outlets, measured, full_name(handler))
            faults += [Fault(str(document.ref), wrong)] if wrong else []
            reports += [] if wrong else [(outlet, measured) for outlet in outlets]
    rule = MetricRule(document.ref, rule_match(document), tuple(reports)) if reports else None
    return LoweredMetrics(rule, tuple(faults))


def template_names(template: str) -> tuple[str, ...]:
    """Return the dimensions that statsd's `nameTemplate` names: `{{.source}}-{{.destination}}`."""
    return tuple(_TEMPLATE.findall(template))


def _measured(name: str, instance: Document) -> Measured:
    dimensions = sorted((instance.spec.get("dimensions") or {}).items())
    return Measured(
        name,
        users_without_scheme(parse(instance.spec["value"])),
        tuple((key, users_without_scheme(parse(value))) for key, value in dimensions),
    )


def _obstacle(outlets: tuple[Outlet, ...], measured: Measured, handler: str) -> str:
    """Return why a handler cannot show an instance, or nothing."""
    if not outlets:
        return f"does not report {measured.name}: {handler} says nothing of it (metrics: instanceName, kind)"
    known = {name for name, _ in measured.dimensions}
    strange = [label for outlet in outlets for label in outlet.labels if label not in known]
    if strange:
        return f"does not report {measured.name}: it has no dimension {', '.join(strange)}, which {handler} names"
    return ""


def _outlets(handler: str, configured: Document, name: Name, measured: Measured) -> Iterator[Outlet]:
    spec = configured.spec
    if configured.kind == "statsd":
        yield from _statsd(handler, configured, name, measured)
        return
    for metric in spec.get("metrics") or ():
        kind = metric.get("kind")
        if read_name(metric["instanceName"], configured.namespace) != name or kind not in MetricKind.__members__:
            continue
        plain = re.sub(r"\W", "_", metric.get("name") or metric["instanceName"])
        yield Outlet(
            handler,
            f"{metric.get('namespace') or _NAMESPACE}_{plain}",
            MetricKind(kind),
            metric.get("description") or plain,
            tuple(metric.get("labelNames") or ()),
            _bounds(metric.get("buckets") or {}) if kind == MetricKind.DISTRIBUTION else (),
        )


def _bounds(buckets: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the upper bounds, less infinity; the finite buckets of Mixer have one bound more than their number."""
    if linear := buckets.get("linearBuckets"):
        offset, width = float(linear.get("offset") or 0), float(linear["width"])
        return tuple(offset + width * at for at in range(linear["numFiniteBuckets"] + 1))
    if exponential := buckets.get("exponentialBuckets"):
        scale, growth = float(exponential["scale"]), float(exponential["growthFactor"])
        return tuple(scale * growth**at for at in range(exponential["numFiniteBuckets"] + 1))
    if explicit := buckets.get("explicitBuckets"):
        return tuple(float(bound) for bound in explicit["bounds"])
    return _DEFAULT_BOUNDS


def _statsd(handler: str, configured: Document, name: Name, measured: Measured) -> Iterator[Outlet]:
    spec = configured.spec
    host, _, port = (spec.get("address") or "localhost:8125").rpartition(":")
    server = Statsd(
        host.strip("[]"),
        int(port),
        spec.get("prefix") or "",
        seconds(spec["flushDuration"]) if spec.get("flushDuration") else _DEFAULT.flush_seconds,
        spec.get("flushBytes") or _DEFAULT.flush_bytes,
        float(spec.get("samplingRate") or _DEFAULT.sampling),
    )
    for key, metric in (spec.get("metrics") or {}).items():
        kind = metric.get("type")
        if read_name(key, configured.namespace) != name or kind not in MetricKind.__members__:
            continue
        template = metric.get("nameTemplate") or ""
        labels = template_names(template)
        yield Outlet(handler, template or measured.name, MetricKind(kind), labels=labels, server=server)
