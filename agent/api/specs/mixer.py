"""QuotaSpec, HTTPAPISpec and their bindings (config.istio.io): what their specs may hold, as Istio 0.8 checked it."""

from __future__ import annotations

from sys import float_info
from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.durations import duration
from agent.api.checks.schema import Check, Report, boolean, either, integer, listing, mapping, message, number, text
from agent.api.problem import one_line
from agent.api.yaml_text import child

_INT64 = integer(-(2**63), 2**63 - 1)


def _digits(value: str) -> str | None:
    return None if value.removeprefix("-").isdecimal() else f'"{one_line(value, 40)}" is not a whole number'


_NUMBER = either("a whole number", number=_INT64, text=text(_digits))
"""JSON writes 64 bits as text."""


def one_form(report: Report, path: str, value: dict[str, Any]) -> None:
    """Want at most one of a message's fields."""
    if len(value) > 1:
        report.invalid(path, f"has {' and '.join(value)} (give one of them)")


def _service(report: Report, path: str, service: dict[str, Any]) -> None:
    if not service.get("service"):
        if not service.get("name"):
            report.invalid(child(path, "name"), "is missing (name, or service with the full host)")
        return
    for key in ("name", "namespace", "domain"):
        if service.get(key):
            report.invalid(child(path, key), "does not go with service, which is the full host (remove one of them)")


_SERVICE = message(
    {
        "name": text(addresses.label, empty=True),
        "namespace": text(addresses.label, empty=True),
        "domain": text(addresses.dns_name, empty=True),
        "service": text(empty=True),
        "labels": mapping(text(words.label_value, empty=True), words.label_key),
    },
    also=_service,
)
_REFERENCE = message({"name": text(), "namespace": text(addresses.label, empty=True)}, required=("name",))


def _binding(specs: str) -> Check:
    """Check a kind that binds specifications to services."""
    fields = {"services": listing(_SERVICE, at_least=1), specs: listing(_REFERENCE, at_least=1)}
    return message(fields, required=("services", specs))


_CLAUSE = message({"exact": text(), "prefix": text(), "regex": text()}, also=one_form)


def _charge(report: Report, path: str, quota: dict[str, Any]) -> None:
    if int(quota["charge"]) <= 0:
        report.invalid(child(path, "charge"), f"{quota['charge']} is not positive")


_QUOTA = message({"quota": text(), "charge": _NUMBER}, required=("quota", "charge"), also=_charge)
QUOTA_SPEC: Check = message(
    {
        "rules": listing(
            message(
                {
                    "match": listing(message({"clause": mapping(_CLAUSE)})),
                    "quotas": listing(_QUOTA, at_least=1),
                },
                required=("quotas",),
            ),
            at_least=1,
        )
    },
    required=("rules",),
)
QUOTA_SPEC_BINDING: Check = _binding("quotaSpecs")


_ATTRIBUTE = message(
    {
        "stringValue": text(),
        "int64Value": _NUMBER,
        "doubleValue": number(-float_info.max, float_info.max),
        "boolValue": boolean,
        "bytesValue": text(),
        "timestampValue": text(),
        "durationValue": text(duration),
        "stringMapValue": message({"entries": mapping(text(empty=True))}, required=("entries",)),
    },
    also=one_form,
)
_ATTRIBUTES = message({"attributes": mapping(_ATTRIBUTE, at_least=1)}, required=("attributes",))


def _pattern(report: Report, path: str, pattern: dict[str, Any]) -> None:
    one_form(report, path, {key: pattern[key] for key in ("uriTemplate", "regex") if key in pattern})


HTTP_API_SPEC: Check = message(
    {
        "attributes": _ATTRIBUTES,
        "patterns": listing(
            message(
                {"attributes": _ATTRIBUTES, "httpMethod": text(), "uriTemplate": text(), "regex": text()},
                required=("httpMethod",),
                also=_pattern,
            ),
            at_least=1,
        ),
        "apiKeys": listing(message({"query": text(), "header": text(), "cookie": text()}, also=one_form)),
    },
    required=("attributes", "patterns"),
)
HTTP_API_SPEC_BINDING: Check = _binding("apiSpecs")
