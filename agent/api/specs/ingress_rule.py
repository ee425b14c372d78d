"""IngressRule (config.istio.io): what its spec may hold, as Istio checked it."""

from __future__ import annotations

from typing import Any

from agent.api.checks import words
from agent.api.checks.fields import LABELS, header_map, or_scalar, string_match
from agent.api.checks.gateway_tls import FOLDER
from agent.api.checks.schema import UNSUPPORTED, Check, Report, either, integer, message, text
from agent.api.lowering.istio_service import SERVICE_FIELDS, service_whole
from agent.api.yaml_text import child

_MATCH = or_scalar(string_match(may_be_present=False, empty_prefix=True))
_PSEUDO = dict.fromkeys(("uri", "method", "scheme", "authority"), _MATCH)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    if "port" in spec and "destinationServicePort" in spec:
        report.invalid(child(path, "port"), "does not go with destinationServicePort")
    if (spec.get("match") or {}).get("source"):
        reason = (
            "clients of a gateway are no services (remove it; a RouteRule's source: istio-ingress means the gateway)"
        )
        report.unsupported(child(path, "match.source"), reason)
    if "tlsSecret" in spec and not FOLDER.fullmatch(spec["tlsSecret"]):
        reason = "is not the name of a folder of secrets (letters, digits, '-', '_' and '.')"
        report.unsupported(child(path, "tlsSecret"), reason)


def _no_labels(report: Report, path: str, destination: dict[str, Any]) -> None:
    service_whole(report, path, destination)
    if destination.get("labels"):
        report.invalid(child(path, "labels"), "must be empty (a rule is about the whole service)")


SPEC: Check = message(
    {
        "destination": message({**SERVICE_FIELDS, "labels": LABELS}, also=_no_labels),
        "destinationServicePort": either(
            "a number or a name", number=integer(1, 65535), text=text(words.one_line_value)
        ),
        "destinationPort": integer(1, 65535),
        "destinationPortName": text(words.one_line_value),
        "port": integer(1, 65535),
        "precedence": integer(-(2**31), 2**31 - 1),
        "match": message(
            {
                "source": message({**SERVICE_FIELDS, "labels": LABELS}, also=service_whole),
                "request": message({"headers": header_map(_MATCH, _PSEUDO)}),
                "tcp": UNSUPPORTED,
                "udp": UNSUPPORTED,
            }
        ),
        "tlsSecret": text(words.one_line_value),
    },
    required=("destination",),
    also=_whole,
)
