"""What the HTTP actions of a route may hold, RouteRule's and VirtualService's; each check follows Istio's own."""

from __future__ import annotations

from base64 import b64decode
from http import HTTPStatus
from typing import Any

from agent.api.checks import durations, words
from agent.api.checks.header_format import header_value
from agent.api.checks.regex import re2_problem, rewrite_problem
from agent.api.checks.schema import (
    Check,
    Report,
    Rule,
    boolean,
    either,
    integer,
    like,
    listing,
    mapping,
    message,
    number,
    one_of,
    text,
)
from agent.api.problem import one_line

TIMEOUT_HEADER = "x-envoy-upstream-rq-timeout-ms"
RETRIES_HEADER = "x-envoy-max-retries"

_GRPC_NAMES = """
OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED
FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED
"""
GRPC_STATUS = {name: code for code, name in enumerate(_GRPC_NAMES.split())}
_RETRY_CONDITIONS = """
5xx gateway-error reset reset-before-request connect-failure retriable-4xx refused-stream retriable-status-codes
retriable-headers envoy-ratelimited http3-post-connect-failure cancelled deadline-exceeded internal resource-exhausted
unavailable
"""
_RETRY_ON = frozenset(_RETRY_CONDITIONS.split())
_STATUS_CODES = frozenset(str(status.value) for status in HTTPStatus)
REDIRECT_CODES = (301, 302, 303, 307, 308)
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
_MAX_BODY = 1024 * 1024

DURATION: Check = either("a duration such as 5s", text=text(durations.duration))
_VALUE = text(words.one_line_value)
_VALUE_OR_EMPTY = text(words.one_line_value, empty=True)
_PATH = text(words.one_line_value)


def envoys_header(only: str) -> Check:
    """Check overrideHeaderName: Envoy takes per-request values from one fixed header."""

    def check(report: Report, path: str, value: Any) -> None:
        text(words.header_name)(report, path, value)
        if isinstance(value, str) and value.lower() != only:
            reason = f'"{one_line(value, 70)}" cannot be honoured: Envoy reads this from {only} only (write that name)'
            report.unsupported(path, reason)

    return check


def because(reason: str) -> Check:
    """Refuse a field of correct configuration that Envoy cannot honour."""

    def check(report: Report, path: str, value: Any) -> None:
        report.unsupported(path, reason)

    return check


def never(reason: str) -> Check:
    """Refuse a field that Istio's own validation refuses too, whatever it holds."""

    def check(report: Report, path: str, value: Any) -> None:
        report.invalid(path, reason)

    return check


def idle_beside(answer: str) -> str:
    """Return why a field has no effect on a route that answers by itself."""
    return f"cannot be honoured beside {answer}: such a request goes nowhere (remove it)"


_NO_FAULT_HEADER = because(
    "cannot be honoured: Envoy takes a fault's size from the rule or from a header, not from both"
)


_PERCENT = number(0, 100)


@like(_PERCENT)
def _share(report: Report, path: str, value: Any) -> None:
    """ValidatePercentage: Envoy counts in millionths."""
    _PERCENT(report, path, value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 0.0001:
        report.invalid(path, f"{value} is too small (0, or 0.0001 to 100)")


FAULT_PERCENTAGE = message({"value": _share})
MIRROR_PERCENTAGE = message({"value": _PERCENT})


def _status(low: int) -> Check:
    """Check a status that Envoy answers with; Istio takes 600 too, its first generation any below 200."""
    bounds = integer(low, 600)

    @like(bounds)
    def check(report: Report, path: str, value: Any) -> None:
        bounds(report, path, value)
        if isinstance(value, int) and (low <= value < 200 or value == 600):
            report.unsupported(path, f"{value} is no answer that Envoy gives (200 to 599)")

    return check


def fault(share: dict[str, Check], *, first_generation: bool) -> Check:
    """Check a fault injection; `share` are the fields that say how many requests."""

    def delay_whole(report: Report, path: str, delay: dict[str, Any]) -> None:
        if "exponentialDelay" in delay:
            reason = "exponentialDelay cannot be honoured: Envoy delays by a fixed time only (write fixedDelay)"
            report.invalid(path, reason)  # as in Istio, which never implemented it
        elif "fixedDelay" not in delay:
            (report.invalid if first_generation else report.unsupported)(path, "has no fixedDelay: it delays nothing")

    def abort_whole(report: Report, path: str, abort: dict[str, Any]) -> None:
        kinds = [key for key in ("httpStatus", "grpcStatus", "http2Error") if key in abort]
        if len(kinds) > 1:
            report.invalid(path, f"{' and '.join(kinds)} exclude each other")
        elif "http2Error" in abort:
            reason = "http2Error cannot be honoured: Envoy aborts with a status only (write httpStatus or grpcStatus)"
            (report.unsupported if first_generation else report.invalid)(path, reason)
        elif not kinds:
            report.unsupported(path, "has no httpStatus or grpcStatus: it aborts nothing")

    def whole(report: Report, path: str, fault: dict[str, Any]) -> None:
        if not fault:
            (report.unsupported if first_generation else report.invalid)(path, "has neither delay nor abort")

    return message(
        {
            "delay": message(
                {
                    **share,
                    "fixedDelay": DURATION,
                    "exponentialDelay": DURATION,
                    "overrideHeaderName": _NO_FAULT_HEADER,
                },
                also=delay_whole,
            ),
            "abort": message(
                {
                    **share,
                    "httpStatus": _status(0 if first_generation else 200),
                    "grpcStatus": one_of(*GRPC_STATUS),
                    "http2Error": text(),
                    "overrideHeaderName": _NO_FAULT_HEADER,
                },
                also=abort_whole,
            ),
        },
        also=whole,
    )


def _origin_whole(report: Report, path: str, match: dict[str, Any]) -> None:
    if len(match) != 1:
        report.invalid(path, "must be one of exact, prefix, regex")


def _whole_seconds(report: Report, path: str, value: Any) -> None:
    DURATION(report, path, value)
    if isinstance(value, str) and durations.duration(value) is None and durations.seconds(value) % 1:
        report.invalid(path, f"{value} is not a whole number of seconds")


def cors(header: Rule, *, first_generation: bool) -> Check:
    """Check a CORS policy."""
    fields: dict[str, Check] = {
        "allowOrigin": listing(_VALUE),
        "allowMethods": listing(one_of(*_METHODS, *(() if first_generation else ("*",)))),
        "allowHeaders": listing(text(header)),
        "exposeHeaders": listing(text(header)),
        "maxAge": _whole_seconds,
        "allowCredentials": boolean,
    }
    if not first_generation:
        match = message({"exact": _VALUE, "prefix": _VALUE, "regex": text(re2_problem)}, also=_origin_whole)
        fields |= {
            "allowOrigins": listing(match),
            "unmatchedPreflights": one_of("UNSPECIFIED", "FORWARD", "IGNORE"),
        }
    return message(fields)


def _rewrite_whole(report: Report, path: str, rewrite: dict[str, Any]) -> None:
    if not any(rewrite.get(key) for key in ("uri", "authority", "uriRegexRewrite")):
        report.invalid(path, "changes nothing (give uri, authority or both)")
    if rewrite.get("uri") and "uriRegexRewrite" in rewrite:
        report.invalid(path, "uri and uriRegexRewrite exclude each other")


def _regex_rewrite_whole(report: Report, path: str, rewrite: dict[str, Any]) -> None:
    wrong = rewrite_problem(rewrite["match"], rewrite["rewrite"])
    if wrong:
        report.unsupported(path, wrong)


_REGEX_REWRITE = message(
    {"match": text(re2_problem, words.one_line_value), "rewrite": _PATH},
    required=("match", "rewrite"),
    also=_regex_rewrite_whole,
)
_REWRITE_FIELDS: dict[str, Check] = {"uri": _VALUE_OR_EMPTY, "authority": _VALUE_OR_EMPTY}
SIMPLE_REWRITE = message(_REWRITE_FIELDS, also=_rewrite_whole)
REWRITE = message({**_REWRITE_FIELDS, "uriRegexRewrite": _REGEX_REWRITE}, also=_rewrite_whole)


def _redirect_whole(report: Report, path: str, redirect: dict[str, Any]) -> None:
    if not any(redirect.get(key) for key in ("uri", "authority", "scheme", "port", "derivePort", "prefixRewrite")):
        report.invalid(path, "says nothing about where to (give uri, authority, scheme or port)")
    for one, other in (("port", "derivePort"), ("uri", "prefixRewrite")):
        if redirect.get(one) and redirect.get(other):
            report.invalid(path, f"{one} and {other} exclude each other")
    code = redirect.get("redirectCode") or 301
    if code not in REDIRECT_CODES:
        codes = ", ".join(map(str, REDIRECT_CODES))
        report.unsupported(path, f"redirectCode {code} cannot be honoured: Envoy redirects with one of {codes}")


_CODE = integer(0, 399)


@like(_CODE)
def _redirect_code(report: Report, path: str, value: Any) -> None:
    before = report.invalid_count
    _CODE(report, path, value)
    if report.invalid_count == before and 0 < value < 300:
        report.invalid(path, f"{value} is out of range (300 to 399)")


SIMPLE_REDIRECT = message({"uri": _VALUE_OR_EMPTY, "authority": _VALUE_OR_EMPTY}, also=_redirect_whole)
REDIRECT = message(
    {
        "uri": _VALUE_OR_EMPTY,
        "authority": _VALUE_OR_EMPTY,
        "port": integer(1, 65535),
        "derivePort": one_of("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"),
        "scheme": one_of("http", "https"),
        "redirectCode": _redirect_code,
        "prefixRewrite": _VALUE,
    },
    also=_redirect_whole,
)


def _body(report: Report, path: str, value: Any) -> None:
    message({"string": text(empty=True), "bytes": text(_base64, empty=True)})(report, path, value)
    if not isinstance(value, dict):
        return
    if len(value) > 1:
        report.invalid(path, "string and bytes exclude each other")
    size = max((_size(key, item) for key, item in value.items() if isinstance(item, str)), default=0)
    if size > _MAX_BODY:
        report.invalid(path, f"has {size} bytes (at most {_MAX_BODY})")


def _size(kind: str, value: str) -> int:
    return len(value) * 3 // 4 if kind == "bytes" else len(value.encode(errors="surrogatepass"))


def _base64(value: str) -> str | None:
    try:
        b64decode(value, validate=True)
    except ValueError:
        return "is not base64"
    return None


DIRECT_RESPONSE = message({"status": _status(200), "body": _body}, required=("status",))


def _retry_on(value: str) -> str | None:
    for condition in value.split(","):
        if condition not in _RETRY_ON and condition not in _STATUS_CODES:
            known = ", ".join(sorted(_RETRY_ON))
            return f'"{one_line(condition, 40)}" is no condition (an HTTP status, or one of {known})'
    return None


def _retries_whole(report: Report, path: str, retries: dict[str, Any]) -> None:
    others = [key for key in ("perTryTimeout", "retryOn", "retryRemoteLocalities") if retries.get(key, "") != ""]
    if not retries.get("attempts") and others:
        report.invalid(path, f"has {' and '.join(others)}, but attempts is 0 (no retries)")


RETRIES = message(
    {
        "attempts": integer(0, 2**31 - 1),
        "perTryTimeout": DURATION,
        "retryOn": text(_retry_on, empty=True),
        "retryRemoteLocalities": boolean,
        "retryIgnorePreviousHosts": boolean,
        "backoff": DURATION,
    },
    also=_retries_whole,
)


def _may_name_host(name: str) -> str | None:
    return None if name.lower() in (":authority", "host") else _changeable(name)


def _changeable(name: str) -> str | None:
    if name.lower() == "host" or name.startswith(":"):
        return f'"{one_line(name, 70)}" cannot be changed here (a request\'s host by rewrite.authority)'
    return words.header_name(name)


def _few(check: Check) -> Check:
    """Check a map or list that Envoy takes up to a thousand entries of, all together."""

    def bounded(report: Report, path: str, value: Any) -> None:
        check(report, path, value)
        if isinstance(value, dict | list) and len(value) > _MAX_HEADERS:
            report.unsupported(path, f"has {len(value)} headers (at most {_MAX_HEADERS})")

    return bounded


_MAX_HEADERS = 400
_NEW_VALUE = header_value(empty=True)
_REQUEST_VALUES = _few(mapping(_NEW_VALUE, _may_name_host))
_RESPONSE_VALUES = _few(mapping(_NEW_VALUE, _changeable))
_NAMES = _few(listing(text(_changeable)))
HEADERS = message(
    {
        "request": message({"set": _REQUEST_VALUES, "add": _REQUEST_VALUES, "remove": _NAMES}),
        "response": message({"set": _RESPONSE_VALUES, "add": _RESPONSE_VALUES, "remove": _NAMES}),
    }
)
FIRST_HEADERS = _few(mapping(header_value(empty=False), words.lower_header_name))


def authority_problem(rewrite: dict[str, Any], headers: dict[str, Any]) -> str | None:
    """Return what is wrong if a request's host is set more than once (validateAuthorityRewrite)."""
    request = headers.get("request") or {}
    names = [
        name for key in ("set", "add") for name in request.get(key) or {} if name.lower() in (":authority", "host")
    ]
    count = len(names) + bool(rewrite.get("authority"))
    return f"the host is set {count} times (once, by rewrite.authority or headers)" if count > 1 else None
