"""HTTP actions of both generations to mesh types: pure, takes validated specs only."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterable, Mapping
from typing import Any

from agent.api.checks.durations import seconds
from agent.api.checks.http_fields import GRPC_STATUS
from agent.mesh.actions import (
    Abort,
    CorsPolicy,
    Delay,
    DirectResponse,
    HeaderChanges,
    Headers,
    HttpActions,
    Redirect,
    RetryPolicy,
    Rewrite,
)

ROUTE_RULE_TIMEOUT_SECONDS = 15.0
"""The first generation's default; the second has none."""
ROUTE_RULE_RETRY_ON = ("5xx", "connect-failure", "refused-stream")
"""What the first generation retries."""
DEFAULT_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled", "reset-before-request")
"""What retries without retryOn mean today: nothing that an application may have begun to work on, unless it says so."""

_AUTHORITY = (":authority", "host")
_PREFIX_VARIABLE = "%PREFIX()%"


def route_rule_actions(spec: Mapping[str, Any]) -> HttpActions:
    """Return what a RouteRule does to requests."""
    redirect = spec.get("redirect")
    rewrite = spec.get("rewrite") or {}
    changes = HeaderChanges(add=_pairs(spec.get("appendHeaders")))
    if redirect is not None:
        answer = Redirect(authority=redirect.get("authority") or "", path=redirect.get("uri") or "")
        return HttpActions(answer, cors=_cors(spec.get("corsPolicy")))
    timeout = (spec.get("httpReqTimeout") or {}).get("simpleTimeout")
    retry = (spec.get("httpReqRetries") or {}).get("simpleRetry")
    fault = spec.get("httpFault") or {}
    return HttpActions(
        rewrite=_rewrite(rewrite),
        headers=Headers(changes, authority=rewrite.get("authority") or ""),
        timeout_seconds=seconds(timeout["timeout"]) if timeout else ROUTE_RULE_TIMEOUT_SECONDS,
        retries=_retries(retry, ROUTE_RULE_RETRY_ON),
        delay=_delay(fault.get("delay")),
        abort=_abort(fault.get("abort")),
        cors=_cors(spec.get("corsPolicy")),
    )


def http_route_actions(route: Mapping[str, Any]) -> HttpActions:
    """Return what an HTTP route of a VirtualService does to requests."""
    rewrite = route.get("rewrite") or {}
    headers = lower_headers(route.get("headers"), rewrite.get("authority") or "")
    if route.get("redirect") is not None:
        return HttpActions(_redirect(route["redirect"]), headers=headers, cors=_cors(route.get("corsPolicy")))
    if route.get("directResponse") is not None:
        answer = _direct_response(route["directResponse"])
        return HttpActions(answer, headers=headers, cors=_cors(route.get("corsPolicy")))
    fault = route.get("fault") or {}
    timeout = route.get("timeout")
    return HttpActions(
        rewrite=_rewrite(rewrite),
        headers=headers,
        timeout_seconds=seconds(timeout) if timeout else None,
        retries=_retries(route.get("retries"), DEFAULT_RETRY_ON),
        delay=_delay(fault.get("delay")),
        abort=_abort(fault.get("abort")),
        cors=_cors(route.get("corsPolicy")),
    )


def mirror_percent(route: Mapping[str, Any]) -> float:
    """Return the share of a route's requests that its `mirror` gets; the newer field decides."""
    if route.get("mirrorPercentage") is not None:
        return percentage(route["mirrorPercentage"])
    percent = route.get("mirrorPercent")
    return 100.0 if percent is None else float(percent)


def percentage(share: Mapping[str, Any] | None) -> float:
    """Return what a Percent message says: absent it is all, empty it is none, as protobuf has it."""
    return 100.0 if share is None else float(share.get("value") or 0)


def lower_headers(headers: Mapping[str, Any] | None, authority: str = "") -> Headers:
    """Return header operations; a changed Host is the authority."""
    headers = headers or {}
    request, response = headers.get("request") or {}, headers.get("response") or {}
    for key in ("set", "add"):
        for name, value in (request.get(key) or {}).items():
            authority = value if name.lower() in _AUTHORITY else authority
    return Headers(_changes(request), _changes(response), authority)


def _changes(changes: Mapping[str, Any]) -> HeaderChanges:
    removed = (name.lower() for name in changes.get("remove") or ())
    return HeaderChanges(_pairs(changes.get("set")), _pairs(changes.get("add")), tuple(dict.fromkeys(removed)))


def _pairs(values: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return names and values in order of name, so that equal rules lower to equal routes."""
    pairs = ((name.lower(), value) for name, value in (values or {}).items())
    return tuple(sorted((name, value) for name, value in pairs if name not in _AUTHORITY))


def _redirect(redirect: Mapping[str, Any]) -> Redirect:
    path, prefix = redirect.get("uri") or "", redirect.get("prefixRewrite") or ""
    if path.startswith(_PREFIX_VARIABLE):
        path, prefix = "", path.removeprefix(_PREFIX_VARIABLE)
    return Redirect(
        code=redirect.get("redirectCode") or 301,
        scheme=redirect.get("scheme") or "",
        authority=redirect.get("authority") or "",
        port=redirect.get("port"),
        keeps_port=redirect.get("derivePort") == "FROM_REQUEST_PORT",
        path=path,
        prefix=prefix,
    )


def _direct_response(response: Mapping[str, Any]) -> DirectResponse:
    body = response.get("body") or {}
    encoded = body.get("bytes")
    return DirectResponse(response["status"], b64decode(encoded) if encoded else (body.get("string") or "").encode())


def _rewrite(rewrite: Mapping[str, Any]) -> Rewrite | None:
    pattern = rewrite.get("uriRegexRewrite")
    if pattern:
        return Rewrite(pattern=pattern["match"], substitution=pattern["rewrite"])
    return Rewrite(rewrite["uri"]) if rewrite.get("uri") else None


def _retries(retry: Mapping[str, Any] | None, usual: Iterable[str]) -> RetryPolicy | None:
    if retry is None:
        return None
    attempts = retry.get("attempts") or 0
    if not attempts:
        return RetryPolicy(0)
    named = (retry.get("retryOn") or "").split(",") if retry.get("retryOn") else list(usual)
    codes = tuple(int(condition) for condition in named if condition.isdigit())
    conditions = [condition for condition in named if not condition.isdigit()]
    if codes and "retriable-status-codes" not in conditions:
        conditions.append("retriable-status-codes")
    return RetryPolicy(
        attempts,
        tuple(conditions),
        codes,
        per_try_seconds=_optional_seconds(retry.get("perTryTimeout")),
        backoff_seconds=_optional_seconds(retry.get("backoff")),
        other_localities=retry.get("retryRemoteLocalities") or False,
        other_hosts=retry.get("retryIgnorePreviousHosts") is not False,
    )


def _optional_seconds(text: str | None) -> float | None:
    return None if text is None else seconds(text)


def _delay(delay: Mapping[str, Any] | None) -> Delay | None:
    return Delay(seconds(delay["fixedDelay"]), _fault_percent(delay)) if delay else None


def _abort(abort: Mapping[str, Any] | None) -> Abort | None:
    if not abort:
        return None
    grpc = abort.get("grpcStatus")
    return Abort(abort.get("httpStatus"), GRPC_STATUS[grpc] if grpc else None, _fault_percent(abort))


def _fault_percent(fault: Mapping[str, Any]) -> float:
    """Return the share of requests, 100 if nothing is said: `percentage` of today, `percent` of both generations."""
    if fault.get("percentage") is not None:
        return percentage(fault["percentage"])
    return 100.0 if fault.get("percent") is None else float(fault["percent"])


def _cors(policy: Mapping[str, Any] | None) -> CorsPolicy | None:
    if policy is None:
        return None
    origins = [(kind, value) for match in policy.get("allowOrigins") or () for kind, value in match.items() if value]
    if not origins:
        # allowOrigins, where it is given, stands alone (as in Istio).
        origins = [("exact", origin) for origin in policy.get("allowOrigin") or ()]
    age = _optional_seconds(policy.get("maxAge"))
    return CorsPolicy(
        tuple(origins),
        tuple(policy.get("allowMethods") or ()),
        tuple(policy.get("allowHeaders") or ()),
        tuple(policy.get("exposeHeaders") or ()),
        None if age is None else int(age),
        policy.get("allowCredentials"),
        policy.get("unmatchedPreflights") != "IGNORE",
    )
