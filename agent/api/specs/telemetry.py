"""Telemetry (telemetry.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks import words
from agent.api.checks.cel_syntax import cel_problem
from agent.api.checks.durations import duration
from agent.api.checks.header_format import header_value
from agent.api.checks.schema import Check, Report, boolean, like, listing, mapping, message, number, one_of, text
from agent.api.checks.scope import TARGETS, one_target
from agent.api.problem import one_line
from agent.api.yaml_text import child

_MODE = one_of("CLIENT_AND_SERVER", "CLIENT", "SERVER")
_PROVIDERS = listing(message({"name": text()}, required=("name",)))
_METRICS = (
    "ALL_METRICS",
    "REQUEST_COUNT",
    "REQUEST_DURATION",
    "REQUEST_SIZE",
    "RESPONSE_SIZE",
    "TCP_OPENED_CONNECTIONS",
    "TCP_CLOSED_CONNECTIONS",
    "TCP_SENT_BYTES",
    "TCP_RECEIVED_BYTES",
    "GRPC_REQUEST_MESSAGES",
    "GRPC_RESPONSE_MESSAGES",
)


def _one_tag_type(report: Report, path: str, tag: dict[str, Any]) -> None:
    if len(tag) > 1:
        report.invalid(path, f"{' and '.join(tag)} exclude each other")


def _named(name: Check) -> Check:
    return message({"name": name, "defaultValue": text(empty=True)}, required=("name",))


_TAG = message(
    {
        "literal": message({"value": text()}, required=("value",)),
        "environment": _named(text()),
        "header": _named(text(words.header_name)),
        "formatter": message({"value": header_value(empty=False)}, required=("value",)),
    },
    also=_one_tag_type,
)


def _tags(item: Check, *, nameless: bool) -> Check:
    """Check a mapping whose items, unlike a message's fields, cannot be null; one has no name only if `nameless`."""

    @like(mapping(item))
    def check(report: Report, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            report.invalid(path, "must be a mapping")
            return
        for name, each in value.items():
            place = child(path, one_line(name, 70))
            if not name and not nameless:
                report.invalid(place, "a tag without a name")
            elif each is None:
                report.invalid(place, "the tag has no value")
            else:
                item(report, place, each)

    return check


def _override_value(report: Report, path: str, tag: dict[str, Any]) -> None:
    operation = tag.get("operation") or "UPSERT"
    if operation == "UPSERT" and not tag.get("value"):
        report.invalid(child(path, "value"), "is missing (UPSERT sets a value)")
    if operation == "REMOVE" and tag.get("value"):
        report.invalid(child(path, "value"), "does not go with REMOVE")


def _metric_match(report: Report, path: str, match: dict[str, Any]) -> None:
    if "metric" in match and "customMetric" in match:
        report.invalid(path, "metric and customMetric exclude each other")


def _left_to_applications(report: Report, path: str, tracing: dict[str, Any]) -> None:
    if tracing.get("disableContextPropagation"):
        reason = "Envoy always says in the headers which trace a request belongs to (disableSpanReporting ends it all)"
        report.unsupported(child(path, "disableContextPropagation"), reason)


def _literals(report: Report, path: str, override: dict[str, Any]) -> None:
    """As a whole: with some of its labels a metric would be another one."""
    for name, tag in (override.get("tagOverrides") or {}).items():
        if tag.get("value") and not _TEXT.fullmatch(tag["value"]):
            place = one_line(name, 70)
            report.unsupported(path, f"tagOverrides.{place}: only a text in quotes, no other expression")
        if not _LABEL.fullmatch(name):
            report.unsupported(path, f"tagOverrides.{one_line(name, 70)}: Prometheus takes no label of that name")


def _prometheus(report: Report, path: str, metrics: dict[str, Any]) -> None:
    others = [one["name"] for one in metrics.get("providers") or () if one["name"] != "prometheus"]
    if others:
        report.unsupported(path, f"providers: {one_line(others[0], 70)}: metrics are shown to prometheus alone")
    if metrics.get("reportingInterval"):
        report.unsupported(child(path, "reportingInterval"), "TCP metrics are reported when a connection ends")


_TEXT = re.compile(r"""'[^'"\\\n]*'|"[^'"\\\n]*\"""")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OVERRIDE = message(
    {
        "match": message({"metric": one_of(*_METRICS), "customMetric": text(), "mode": _MODE}, also=_metric_match),
        "disabled": boolean,
        "tagOverrides": _tags(
            message(
                {"operation": one_of("UPSERT", "REMOVE"), "value": text(empty=True)},
                also=_override_value,
            ),
            nameless=True,
        ),
    },
    also=_literals,
)
_TRACING = message(
    {
        "match": message({"mode": _MODE}),
        "providers": _PROVIDERS,
        "randomSamplingPercentage": number(0, 100),
        "disableSpanReporting": boolean,
        "customTags": _tags(_TAG, nameless=False),
        "useRequestIdForTraceSampling": boolean,
        "enableIstioTags": boolean,
        "disableContextPropagation": boolean,
    },
    also=_left_to_applications,
)


def _expression(value: str) -> str | None:
    """Want balanced brackets and quotes."""
    closing, open_brackets, quote, escaped = {")": "(", "]": "[", "}": "{"}, [], "", False
    for char in value:
        if quote:
            escaped, quote = char == "\\" and not escaped, "" if char == quote and not escaped else quote
        elif char in "\"'":
            quote = char
        elif char in "([{":
            open_brackets.append(char)
        elif char in closing and (not open_brackets or open_brackets.pop() != closing[char]):
            return "is not a CEL expression (a bracket is not opened)"
    if quote or open_brackets:
        return "is not a CEL expression (a quote or bracket is not closed)"
    return words.one_line_value(value)


def _filter(report: Report, path: str, entry: dict[str, Any]) -> None:
    """As a whole: without its filter an entry would log everything."""
    expression = (entry.get("filter") or {}).get("expression")
    if isinstance(expression, str) and (wrong := cel_problem(expression)):
        report.unsupported(path, f"filter.expression: {wrong}")


SPEC: Check = message(
    {
        **TARGETS,
        "tracing": listing(_TRACING),
        "metrics": listing(
            message(
                {
                    "providers": _PROVIDERS,
                    "overrides": listing(_OVERRIDE),
                    "reportingInterval": text(duration),
                },
                also=_prometheus,
            )
        ),
        "accessLogging": listing(
            message(
                {
                    "match": message({"mode": _MODE}),
                    "providers": _PROVIDERS,
                    "disabled": boolean,
                    "filter": message({"expression": text(_expression)}),
                },
                also=_filter,
            )
        ),
    },
    also=one_target,
)
