"""Telemetry objects to the mesh's own. Pure; only for specs that validation found nothing wrong with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.api.checks.durations import seconds
from agent.api.envelope import Document
from agent.api.lowering.security import target_of
from agent.mesh.collector import SpanTag, TagSource
from agent.mesh.telemetry_settings import (
    ALL_METRICS,
    BOTH,
    LoggingRule,
    MetricOverride,
    MetricsRule,
    Side,
    Telemetry,
    TracingRule,
)

_SIDES = {"CLIENT": (Side.CLIENT,), "SERVER": (Side.SERVER,)}


def lower_telemetry(document: Document) -> Telemetry:
    """Return what a Telemetry says."""
    spec = document.spec
    return Telemetry(
        document.ref,
        target_of(document),
        tuple(_tracing(each) for each in spec.get("tracing") or ()),
        tuple(_metrics(each) for each in spec.get("metrics") or ()),
        tuple(_logging(each) for each in spec.get("accessLogging") or ()),
    )


def _tracing(said: Mapping[str, Any]) -> TracingRule:
    tags = said.get("customTags")
    return TracingRule(
        _sides(said.get("match")),
        (*_providers(said), "")[0],
        said.get("randomSamplingPercentage"),
        said.get("disableSpanReporting"),
        None if tags is None else tuple((name, _tag(tag)) for name, tag in sorted(tags.items()) if tag),
        said.get("useRequestIdForTraceSampling"),
        said.get("enableIstioTags"),
    )


def _tag(said: Mapping[str, Any]) -> SpanTag:
    ((kind, fields),) = said.items()
    return SpanTag(TagSource(kind), fields.get("value") or fields.get("name"), fields.get("defaultValue") or "")


def _metrics(said: Mapping[str, Any]) -> MetricsRule:
    interval = said.get("reportingInterval")
    overrides = tuple(_override(each) for each in said.get("overrides") or ())
    return MetricsRule(_providers(said), overrides, seconds(interval) if interval else None)


def _override(said: Mapping[str, Any]) -> MetricOverride:
    match = said.get("match") or {}
    tags = {
        name: None if tag.get("operation") == "REMOVE" else tag["value"]
        for name, tag in sorted((said.get("tagOverrides") or {}).items())
    }
    metric = match.get("customMetric") or match.get("metric") or ALL_METRICS
    return MetricOverride(metric, _sides(match), said.get("disabled"), tuple(tags.items()))


def _logging(said: Mapping[str, Any]) -> LoggingRule:
    expression = (said.get("filter") or {}).get("expression") or ""
    return LoggingRule(_sides(said.get("match")), _providers(said), said.get("disabled") or False, expression)


def _sides(match: Mapping[str, Any] | None) -> tuple[Side, ...]:
    return _SIDES.get((match or {}).get("mode") or "", BOTH)


def _providers(said: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(each["name"] for each in said.get("providers") or ())
