"""RouteRule (config.istio.io): what its spec may hold."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.fields import LABELS, PSEUDO_HEADERS, header_map, or_scalar, string_match
from agent.api.checks.http_fields import (
    DURATION,
    FIRST_HEADERS,
    RETRIES_HEADER,
    SIMPLE_REDIRECT,
    SIMPLE_REWRITE,
    TIMEOUT_HEADER,
    because,
    cors,
    envoys_header,
    fault,
    idle_beside,
    never,
)
from agent.api.checks.schema import Check, Report, boolean, integer, like, listing, message, number, text
from agent.api.lowering.istio_service import SERVICE_FIELDS, service_whole
from agent.api.yaml_text import child

_MATCH = or_scalar(string_match())
_URI = or_scalar(string_match(empty_exact=False))


def _no_labels(report: Report, path: str, value: Any) -> None:
    report.invalid(path, "a rule is about the whole service (labels belong into spec.route[].labels)")


def _weights(report: Report, path: str, spec: dict[str, Any]) -> None:
    """ValidateWeights: a single route without a weight has all; otherwise they add up to 100."""
    weights = [route.get("weight") or 0 for route in spec.get("route") or ()]
    if not weights or (len(weights) == 1 and weights[0] == 0):
        return
    if sum(weights) != 100:
        report.invalid(child(path, "route"), f"the weights add up to {sum(weights)} (they must add up to 100)")


_ANY_SERVICE = message({**SERVICE_FIELDS, "labels": LABELS}, also=service_whole)
_SUBNET = listing(text(addresses.subnet))
_SUBNETS = message({"sourceSubnet": _SUBNET, "destinationSubnet": _SUBNET})


@like(_SUBNETS)
def _datagrams(report: Report, path: str, value: Any) -> None:
    _SUBNETS(report, path, value)
    report.invalid(path, "cannot be honoured: UDP is not captured (Istio refused it, too)")


_MATCH_CONDITION = message(
    {
        "source": _ANY_SERVICE,
        "request": message({"headers": header_map(_MATCH, {**dict.fromkeys(PSEUDO_HEADERS, _MATCH), "uri": _URI})}),
        "tcp": _SUBNETS,
        "udp": _datagrams,
    }
)

_NO_CUSTOM = because(
    "cannot be honoured: it is the configuration of another proxy (write simpleTimeout or simpleRetry)"
)
_TIMEOUT = message(
    {
        "simpleTimeout": message(
            {"timeout": DURATION, "overrideHeaderName": envoys_header(TIMEOUT_HEADER)}, required=("timeout",)
        ),
        "custom": _NO_CUSTOM,
    }
)
_RETRIES = message(
    {
        "simpleRetry": message(
            {
                "attempts": integer(0, 2**31 - 1),
                "perTryTimeout": DURATION,
                "overrideHeaderName": envoys_header(RETRIES_HEADER),
            }
        ),
        "custom": _NO_CUSTOM,
    }
)


_OF_REQUESTS = (
    "match.request",
    "redirect",
    "rewrite",
    "websocketUpgrade",
    "httpReqTimeout",
    "httpReqRetries",
    "httpFault",
    "mirror",
    "corsPolicy",
    "appendHeaders",
)


def _about_connections(report: Report, path: str, spec: dict[str, Any]) -> None:
    """A rule with match.tcp is about connections, which pass whole."""
    for field in _OF_REQUESTS:
        within, _, name = field.rpartition(".")
        if (spec.get(within) or {} if within else spec).get(name):
            report.unsupported(
                child(path, field), "is about requests, but match.tcp makes this a rule about connections"
            )


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    """ValidateRouteRule: what excludes what."""
    _weights(report, path, spec)
    if (spec.get("match") or {}).get("tcp"):
        _about_connections(report, path, spec)
    if "redirect" not in spec:
        return
    for other in ("route", "rewrite", "httpFault", "websocketUpgrade"):
        if spec.get(other) or spec.get(other) == {}:
            report.invalid(path, f"redirect and {other} exclude each other (a redirected request goes nowhere)")
    for other in ("mirror", "httpReqTimeout", "httpReqRetries", "appendHeaders"):
        if other in spec:
            report.unsupported(child(path, other), idle_beside("redirect"))


SPEC: Check = message(
    {
        "destination": message({**SERVICE_FIELDS, "labels": _no_labels}, also=service_whole),
        "precedence": integer(-(2**31), 2**31 - 1),
        "match": _MATCH_CONDITION,
        "route": listing(
            message({"destination": _ANY_SERVICE, "labels": LABELS, "weight": integer(0, 100)}), at_most=256
        ),
        "redirect": SIMPLE_REDIRECT,
        "rewrite": SIMPLE_REWRITE,
        "websocketUpgrade": boolean,
        "httpReqTimeout": _TIMEOUT,
        "httpReqRetries": _RETRIES,
        "httpFault": fault({"percent": number(0, 100)}, first_generation=True),
        "l4Fault": never("cannot be honoured: Envoy has no such filter (Istio never implemented it either)"),
        "mirror": _ANY_SERVICE,
        "corsPolicy": cors(words.lower_header_name, first_generation=True),
        "appendHeaders": FIRST_HEADERS,
    },
    required=("destination",),
    also=_whole,
)
