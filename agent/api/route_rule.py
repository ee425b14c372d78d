"""RouteRule (config.istio.io): what its spec may hold."""

from __future__ import annotations

from typing import Any

from agent.api.fields import LABELS, PSEUDO_HEADERS, header_map, or_scalar, string_match
from agent.api.istio_service import SERVICE_FIELDS, service_whole
from agent.api.schema import UNSUPPORTED, Check, Report, integer, listing, message
from agent.api.yaml_text import child

_MATCH = or_scalar(string_match(may_be_present=False))
_URI = or_scalar(string_match(may_be_present=False, empty_prefix=True))


def _no_labels(report: Report, path: str, value: Any) -> None:
    report.invalid(path, "a rule is about the whole service (labels belong into spec.route[].labels)")


def _weights(report: Report, path: str, spec: dict[str, Any]) -> None:
    """ValidateWeights: a single route without a weight has all; otherwise they add up to 100."""
    weights = [route.get("weight") or 0 for route in spec.get("route") or ()]
    if not weights or (len(weights) == 1 and weights[0] == 0):
        return
    if sum(weights) != 100:
        report.invalid(child(path, "route"), f"the weights add up to {sum(weights)} (they must add up to 100)")


_MATCH_CONDITION = message(
    {
        "source": message({**SERVICE_FIELDS, "labels": LABELS}, also=service_whole),
        "request": message({"headers": header_map(_MATCH, {**dict.fromkeys(PSEUDO_HEADERS, _MATCH), "uri": _URI})}),
        "tcp": UNSUPPORTED,
        "udp": UNSUPPORTED,
    }
)

_NOT_YET = (
    "redirect",
    "rewrite",
    "websocketUpgrade",
    "httpReqTimeout",
    "httpReqRetries",
    "httpFault",
    "l4Fault",
    "mirror",
    "corsPolicy",
    "appendHeaders",
)

SPEC: Check = message(
    {
        "destination": message({**SERVICE_FIELDS, "labels": _no_labels}, also=service_whole),
        "precedence": integer(0, 2**31 - 1),
        "match": _MATCH_CONDITION,
        "route": listing(
            message({"destination": UNSUPPORTED, "labels": LABELS, "weight": integer(0, 100)}), at_most=256
        ),
        **dict.fromkeys(_NOT_YET, UNSUPPORTED),
    },
    required=("destination",),
    also=_weights,
)
