"""VirtualService (networking.istio.io): what its spec may hold."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.fields import LABELS, header_map, string_match
from agent.api.checks.http_fields import (
    DIRECT_RESPONSE,
    DURATION,
    FAULT_PERCENTAGE,
    HEADERS,
    MIRROR_PERCENTAGE,
    REDIRECT,
    RETRIES,
    REWRITE,
    authority_problem,
    because,
    cors,
    fault,
    idle_beside,
)
from agent.api.checks.l4_routes import DESTINATION, TCP_ROUTES, TLS_ROUTES, check_hosts, gateway_name, weight
from agent.api.checks.schema import (
    Check,
    Report,
    boolean,
    integer,
    like,
    listing,
    mapping,
    message,
    text,
)
from agent.api.checks.scope import visible_in
from agent.api.problem import one_line
from agent.api.yaml_text import child

_MATCH = string_match(may_be_present=True)
_URI = string_match(may_be_present=True, empty_prefix=True)
_THERE = ({"regex": "*"}, None)
"""Ways to say in withoutHeaders that a header may have any value, beside `{}`."""


@like(_MATCH)
def _match_or_any(report: Report, path: str, value: Any) -> None:
    if value not in _THERE:
        _MATCH(report, path, value)


def wildcardless(report: Report, path: str, value: Any) -> None:
    """Check a host; a wildcard stands for the service that an EgressRule or ServiceEntry declares so, `*` for none."""
    text(words.service_host)(report, path, value)
    if value == "*":
        report.unsupported(path, f'the wildcard "{one_line(value, 60)}" is known, but not supported yet')


_GATEWAYS = listing(text(gateway_name))


_HEADERS_REASON = "Istio ignores it among the headers of a match (write it beside headers)"

_HTTP_MATCH = message(
    {
        "name": text(words.one_line_value, empty=True),
        "uri": _URI,
        "method": _MATCH,
        "scheme": _MATCH,
        "authority": _MATCH,
        "headers": header_map(_MATCH, {}, _HEADERS_REASON),
        "withoutHeaders": header_map(_match_or_any, {}, _HEADERS_REASON),
        "queryParams": mapping(_MATCH, lambda name: None if name else "a parameter without a name"),
        "port": integer(0, 65535),
        "sourceLabels": LABELS,
        "sourceNamespace": text(addresses.label, empty=True),
        "ignoreUriCase": boolean,
        "gateways": _GATEWAYS,
        "statPrefix": text(words.one_line_value, empty=True),
    }
)


def _weights(report: Report, path: str, route: dict[str, Any]) -> None:
    """A share is its weight of the total; a single destination has all, whatever its weight."""
    weights = [target.get("weight") or 0 for target in route.get("route") or ()]
    if len(weights) > 1 and not sum(weights):
        report.invalid(child(path, "route"), "the weights add up to 0 (at least one must be above)")


def _http_whole(report: Report, path: str, route: dict[str, Any]) -> None:
    answers = [key for key in _ANSWERS if route.get(key)]
    if not any(key in route for key in _ANSWERS):
        report.invalid(child(path, "route"), "is missing (where matching requests go)")
    elif "route" in route and not route["route"] and not answers:
        report.invalid(child(path, "route"), "is empty (at least 1)")
    elif len(answers) > 1:
        report.invalid(path, f"{' and '.join(answers)} exclude each other")
    if "redirect" in route or "directResponse" in route:
        _beside_answer(report, path, route)
    for share in ("mirrorPercent", "mirrorPercentage"):
        if share in route and "mirror" not in route and "delegate" not in route:
            report.unsupported(child(path, share), "there is no mirror beside it, so it means nothing")
    if "mirror" in route and route.get("mirrors"):
        report.invalid(child(path, "mirrors"), "mirror and mirrors exclude each other")
    wrong = authority_problem(route.get("rewrite") or {}, route.get("headers") or {})
    if wrong:
        report.invalid(path, wrong)
    _weights(report, path, route)


_ANSWERS = ("route", "redirect", "directResponse", "delegate")


def _beside_answer(report: Report, path: str, route: dict[str, Any]) -> None:
    """A request that is answered here goes nowhere: what is about its way there excludes the answer or is idle."""
    answer = "redirect" if "redirect" in route else "directResponse"
    for other in ("fault", "rewrite"):
        if other in route:
            report.invalid(path, f"{answer} and {other} exclude each other")
    for other in ("mirror", "mirrors", "timeout", "retries"):
        if other in route:
            report.unsupported(child(path, other), idle_beside(answer))
    if (route.get("headers") or {}).get("request"):
        report.unsupported(child(path, "headers.request"), idle_beside(answer))


def _target_whole(report: Report, path: str, target: dict[str, Any]) -> None:
    wrong = authority_problem({}, target.get("headers") or {})
    if wrong:
        report.invalid(path, wrong)


_USE_HEADERS = because("has gone from Istio (write headers.request or headers.response)")
_GONE_HEADERS = ("removeResponseHeaders", "appendResponseHeaders", "removeRequestHeaders", "appendRequestHeaders")
_HTTP = message(
    {
        "name": text(words.one_line_value),
        "match": listing(_HTTP_MATCH, at_most=256),
        "route": listing(
            message(
                {
                    "destination": DESTINATION,
                    "weight": weight,
                    "headers": HEADERS,
                    **dict.fromkeys(_GONE_HEADERS, _USE_HEADERS),
                },
                required=("destination",),
                also=_target_whole,
            ),
            at_most=256,
        ),
        "redirect": REDIRECT,
        "directResponse": DIRECT_RESPONSE,
        "delegate": message({"name": text(), "namespace": text(addresses.label, empty=True)}, required=("name",)),
        "rewrite": REWRITE,
        "timeout": DURATION,
        "retries": RETRIES,
        "fault": fault({"percentage": FAULT_PERCENTAGE, "percent": integer(0, 100)}, first_generation=False),
        "mirror": DESTINATION,
        "mirrors": listing(
            message({"destination": DESTINATION, "percentage": MIRROR_PERCENTAGE}, required=("destination",)),
            at_most=16,
        ),
        "mirrorPercent": integer(0, 100),
        "mirrorPercentage": MIRROR_PERCENTAGE,
        "corsPolicy": cors(words.header_name, first_generation=False),
        "headers": HEADERS,
        "websocketUpgrade": because("has gone from Istio: websockets pass on every route (remove it)"),
        "appendHeaders": _USE_HEADERS,
        **dict.fromkeys(_GONE_HEADERS, _USE_HEADERS),
    },
    also=_http_whole,
)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    check_hosts(report, path, spec)
    if not (spec.get("http") or spec.get("tcp") or spec.get("tls")):
        report.invalid(child(path, "http"), "is missing (at least one route)")


SPEC: Check = message(
    {
        "hosts": listing(text(words.wildcard_host), at_most=256),
        "gateways": _GATEWAYS,
        "http": listing(_HTTP),
        "tcp": TCP_ROUTES,
        "tls": TLS_ROUTES,
        "exportTo": visible_in(),
    },
    also=_whole,
)
