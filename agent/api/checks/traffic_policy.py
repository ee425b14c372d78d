"""trafficPolicy of a DestinationRule (networking.istio.io): what it may hold, by Istio's own validation."""

from __future__ import annotations

from typing import Any

from agent.api.checks import words
from agent.api.checks.client_tls import CLIENT_TLS
from agent.api.checks.durations import duration, duration_or_zero, seconds
from agent.api.checks.locality_setting import LOCALITY_SETTING
from agent.api.checks.schema import Check, Report, boolean, integer, like, listing, message, number, one_of, text
from agent.api.problem import one_line
from agent.api.yaml_text import child

_COUNT = integer(0, 2**31 - 1)
_UINT32 = integer(0, 2**32 - 1)
_DURATION = text(duration)
_PERCENT = integer(0, 100)
_MAX_RING = 8_388_608
"""Envoy's limit of a hash ring."""
_MAX_MAGLEV = 5_000_011
_PARTS = ("loadBalancer", "connectionPool", "outlierDetection", "tls")


def _at_most_one(*keys: str) -> Any:
    def check(report: Report, path: str, value: dict[str, Any]) -> None:
        given = [key for key in keys if key in value]
        if len(given) > 1:
            report.invalid(path, f"has {' and '.join(given)} (give one of them)")

    return check


@like(integer(1, _MAX_MAGLEV - 1))
def _prime(report: Report, path: str, value: Any) -> None:
    integer(1, _MAX_MAGLEV - 1)(report, path, value)
    if isinstance(value, int) and 3 < value < _MAX_MAGLEV and _has_factor(value):
        report.invalid(path, f"{value} is not a prime number")


def _has_factor(value: int) -> bool:
    return value % 2 == 0 or any(value % factor == 0 for factor in range(3, int(value**0.5) + 1, 2))


def _hash_whole(report: Report, path: str, value: dict[str, Any]) -> None:
    _at_most_one("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName")(report, path, value)
    _at_most_one("ringHash", "maglev")(report, path, value)
    if value.get("minimumRingSize") and ("ringHash" in value or "maglev" in value):
        report.invalid(child(path, "minimumRingSize"), "does not go with ringHash or maglev (leave it out)")


_ATTRIBUTES = listing(
    message({"name": text(words.header_name), "value": text(words.one_line_value, empty=True)}, required=("name",)),
    at_most=20,
)


def _attributes(report: Report, path: str, value: Any) -> None:
    _ATTRIBUTES(report, path, value)
    names = [item.get("name") for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    given = [name.lower() if isinstance(name, str) else name for name in names]
    for index, name in enumerate(given):
        if name is not None and name in given[:index]:
            report.invalid(f"{path}[{index}].name", f'"{one_line(name, 40)}" is given twice')


_CONSISTENT_HASH = message(
    {
        "httpHeaderName": text(words.header_name),
        "httpCookie": message(
            {
                "name": text(words.header_name),
                "path": text(words.one_line_value, empty=True),
                "ttl": text(duration_or_zero),
                "attributes": like(_ATTRIBUTES)(_attributes),
            },
            required=("name",),
        ),
        "useSourceIp": boolean,
        "httpQueryParameterName": text(words.one_line_value),
        "ringHash": message({"minimumRingSize": integer(0, _MAX_RING)}),
        "maglev": message({"tableSize": _prime}, required=("tableSize",)),
        "minimumRingSize": integer(0, _MAX_RING),
    },
    also=_hash_whole,
)


def _balancer_whole(report: Report, path: str, balancer: dict[str, Any]) -> None:
    _at_most_one("simple", "consistentHash")(report, path, balancer)
    chosen = "consistentHash" if "consistentHash" in balancer else balancer.get("simple")
    for key in ("warmup", "warmupDurationSecs"):
        if key in balancer and chosen in ("consistentHash", "RANDOM", "PASSTHROUGH"):
            report.unsupported(child(path, key), f"means nothing with {chosen} (ROUND_ROBIN and LEAST_REQUEST have it)")
        elif key == "warmupDurationSecs" and key in balancer and "warmup" in balancer:
            report.unsupported(child(path, key), "means nothing beside warmup (remove it)")


_LOAD_BALANCER = message(
    {
        "simple": one_of("UNSPECIFIED", "ROUND_ROBIN", "LEAST_CONN", "LEAST_REQUEST", "RANDOM", "PASSTHROUGH"),
        "consistentHash": _CONSISTENT_HASH,
        "localityLbSetting": LOCALITY_SETTING,
        "warmup": message(
            {"duration": _DURATION, "minimumPercent": number(0, 100), "aggression": number(1, 1_000_000)},
            required=("duration",),
        ),
        "warmupDurationSecs": _DURATION,
    },
    also=_balancer_whole,
)


def _pool_whole(report: Report, path: str, pool: dict[str, Any]) -> None:
    if "tcp" not in pool and "http" not in pool:
        report.invalid(path, "is empty (tcp or http)")


def _http_whole(report: Report, path: str, http: dict[str, Any]) -> None:
    if http.get("h2UpgradePolicy") == "UPGRADE" and http.get("useClientProtocol"):
        report.invalid(child(path, "useClientProtocol"), "does not go with h2UpgradePolicy: UPGRADE")


CONNECTION_POOL: Check = message(
    {
        "tcp": message(
            {
                "maxConnections": _COUNT,
                "connectTimeout": _DURATION,
                "tcpKeepalive": message({"probes": _UINT32, "time": _DURATION, "interval": _DURATION}),
                "maxConnectionDuration": _DURATION,
                "idleTimeout": text(duration_or_zero),
            }
        ),
        "http": message(
            {
                "http1MaxPendingRequests": _COUNT,
                "http2MaxRequests": _COUNT,
                "maxRequestsPerConnection": _COUNT,
                "maxRetries": _COUNT,
                "idleTimeout": _DURATION,
                "h2UpgradePolicy": one_of("DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"),
                "useClientProtocol": boolean,
                "maxConcurrentStreams": _COUNT,
                "http2KeepAlive": message({"interval": _DURATION, "timeout": _DURATION}),
            },
            also=_http_whole,
        ),
    },
    also=_pool_whole,
)


def _outlier_whole(report: Report, path: str, outlier: dict[str, Any]) -> None:
    if outlier.get("consecutiveLocalOriginFailures") and not outlier.get("splitExternalLocalOriginErrors"):
        report.invalid(
            child(path, "consecutiveLocalOriginFailures"), "needs splitExternalLocalOriginErrors: true beside it"
        )


_OUTLIER_DETECTION = message(
    {
        "consecutiveErrors": _COUNT,
        "consecutive5xxErrors": _UINT32,
        "consecutiveGatewayErrors": _UINT32,
        "consecutiveLocalOriginFailures": _UINT32,
        "splitExternalLocalOriginErrors": boolean,
        "interval": _DURATION,
        "baseEjectionTime": _DURATION,
        "maxEjectionPercent": _PERCENT,
        "minHealthPercent": _PERCENT,
    },
    also=_outlier_whole,
)


def _target(value: str) -> str | None:
    return None if words.is_address(value) else words.host(value)


_TUNNEL: Check = message(
    {
        "protocol": one_of("CONNECT", "POST"),
        "targetHost": text(_target),
        "targetPort": integer(1, 65535),
    },
    required=("targetHost", "targetPort"),
)


_INTERVAL = text(duration_or_zero)


@like(_INTERVAL)
def _budget_interval(report: Report, path: str, value: Any) -> None:
    _INTERVAL(report, path, value)
    if isinstance(value, str) and seconds(value):
        report.unsupported(path, "Envoy counts the requests that are under way, not those of an interval")


_RETRY_BUDGET = message({"percent": number(0, 100), "minRetryConcurrency": _UINT32, "budgetInterval": _budget_interval})


def _port_whole(report: Report, path: str, policy: dict[str, Any]) -> None:
    if not any(key in policy for key in _PARTS):
        report.invalid(path, f"says nothing (give one of {', '.join(_PARTS)})")


_FIELDS: dict[str, Check] = {
    "loadBalancer": _LOAD_BALANCER,
    "connectionPool": CONNECTION_POOL,
    "outlierDetection": _OUTLIER_DETECTION,
    "tls": CLIENT_TLS,
}
_PORT_POLICY = message(
    {"port": message({"number": integer(1, 65535)}, required=("number",)), **_FIELDS},
    required=("port",),
    also=_port_whole,
)


def _whole(report: Report, path: str, policy: dict[str, Any]) -> None:
    if not policy:
        report.invalid(path, f"says nothing (give one of {', '.join(_PARTS)}, portLevelSettings, proxyProtocol)")
    if "tunnel" in policy and "proxyProtocol" in policy:
        report.invalid(child(path, "proxyProtocol"), "does not go with tunnel")


TRAFFIC_POLICY: Check = message(
    {
        **_FIELDS,
        "portLevelSettings": listing(_PORT_POLICY, at_most=100),
        "tunnel": _TUNNEL,
        "retryBudget": _RETRY_BUDGET,
        "proxyProtocol": message({"version": one_of("V1", "V2")}),
    },
    also=_whole,
)
