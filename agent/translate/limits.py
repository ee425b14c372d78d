"""Limits of a cluster: circuit breaking, connection settings, the ejection of instances that fail. Pure."""

from __future__ import annotations

import functools
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import wrappers_pb2

from agent.mesh.service import Protocol
from agent.mesh.traffic_policy import (
    ClientTls,
    ConnectionPool,
    Http2Keepalive,
    Http2Use,
    OutlierDetection,
    RetryBudget,
    TlsMode,
)
from agent.translate.resource import NEVER, packed, seconds

_Options = http_protocol_options_pb2.HttpProtocolOptions
_UNLIMITED = 2**32 - 1
_PING_TIMEOUT_SECONDS = 10.0
"""Envoy demands one."""
_ENFORCED = 100


@functools.lru_cache(maxsize=1024)
def circuit_breakers(pool: ConnectionPool, budget: RetryBudget | None = None) -> Any:
    """Return the limits (envoy.config.cluster.v3.CircuitBreakers).

    Envoy's defaults (1024, and 3 retries) would refuse load that the instances can take: only rules limit. A budget of
    retries counts instead of their limit.
    """
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=_uint32(pool.max_connections or _UNLIMITED),
        max_pending_requests=_uint32(pool.max_pending_requests or _UNLIMITED),
        max_requests=_uint32(pool.max_requests or _UNLIMITED),
        max_retries=_uint32(pool.max_retries or _UNLIMITED),
    )
    if budget is not None:
        thresholds.retry_budget.SetInParent()
        if budget.percent is not None:
            thresholds.retry_budget.budget_percent.value = budget.percent
        if budget.least is not None:
            thresholds.retry_budget.min_retry_concurrency.value = budget.least
    return circuit_breaker_pb2.CircuitBreakers(thresholds=[thresholds])


def set_connections(cluster: Any, pool: ConnectionPool, budget: RetryBudget | None = None) -> None:
    """Set what is not about HTTP: limits, connect timeout, keepalive."""
    cluster.circuit_breakers.CopyFrom(circuit_breakers(pool, budget))
    if pool.connect_timeout is not None:
        cluster.connect_timeout.CopyFrom(seconds(pool.connect_timeout))
    if pool.keepalive is not None:
        keepalive = cluster.upstream_connection_options.tcp_keepalive
        keepalive.SetInParent()
        for field, value in (
            ("keepalive_probes", pool.keepalive.probes),
            ("keepalive_time", pool.keepalive.time),
            ("keepalive_interval", pool.keepalive.interval),
        ):
            if value is not None:
                # The kernel counts whole seconds.
                getattr(keepalive, field).value = max(1, round(value))


@functools.lru_cache(maxsize=1024)
def http_options(protocol: Protocol, pool: ConnectionPool, tls: ClientTls | None) -> Any:
    """Return the HTTP version and limits that instances are called with, packed."""
    options = _Options()
    if pool.http2 is Http2Use.AS_CLIENT or (protocol is Protocol.AUTO and pool.http2 is None):
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        _set_http2(options.use_downstream_protocol_config.http2_protocol_options, pool)
    elif uses_http2(protocol, pool):
        _set_http2(options.explicit_http_config.http2_protocol_options, pool)
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    _set_common(options.common_http_protocol_options, pool)
    if tls and tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL) and not tls.sni:
        options.upstream_http_protocol_options.auto_sni = True
        options.upstream_http_protocol_options.auto_san_validation = not (tls.skip_verify or tls.subject_alt_names)
    return packed(options)


def uses_http2(protocol: Protocol, pool: ConnectionPool) -> bool:
    """Tell whether instances are always called with HTTP/2."""
    return protocol.is_http2 or (protocol.may_be_http and pool.http2 is Http2Use.ALWAYS)


def set_outlier_detection(cluster: Any, outliers: OutlierDetection) -> None:
    """Set when instances are ejected: on errors in a row only, never by comparing success rates (as Istio)."""
    # Otherwise Envoy gathers changes of health for up to a second before its workers hear of an ejection.
    cluster.common_lb_config.update_merge_window.CopyFrom(NEVER)
    message = cluster.outlier_detection
    message.enforcing_success_rate.value = 0
    if outliers.consecutive_5xx is not None:
        message.consecutive_5xx.value = outliers.consecutive_5xx
        message.enforcing_consecutive_5xx.value = _ENFORCED if outliers.consecutive_5xx else 0
    if outliers.consecutive_gateway_errors is not None:
        message.consecutive_gateway_failure.value = outliers.consecutive_gateway_errors
        message.enforcing_consecutive_gateway_failure.value = _ENFORCED if outliers.consecutive_gateway_errors else 0
    if outliers.split_local_origin:
        _set_local_origin(message, outliers)
    if outliers.interval is not None:
        message.interval.CopyFrom(seconds(outliers.interval))
    if outliers.ejection_time is not None:
        message.base_ejection_time.CopyFrom(seconds(outliers.ejection_time))
    if outliers.max_ejection_percent is not None:
        message.max_ejection_percent.value = outliers.max_ejection_percent
    if outliers.always_eject_one:
        message.always_eject_one_host.value = True
    if outliers.min_health_percent is not None:
        cluster.common_lb_config.healthy_panic_threshold.value = outliers.min_health_percent


def _set_local_origin(message: Any, outliers: OutlierDetection) -> None:
    message.split_external_local_origin_errors = True
    message.enforcing_local_origin_success_rate.value = 0
    if outliers.consecutive_local_failures:
        message.consecutive_local_origin_failure.value = outliers.consecutive_local_failures
        message.enforcing_consecutive_local_origin_failure.value = _ENFORCED


def _set_http2(http2: Any, pool: ConnectionPool) -> None:
    http2.SetInParent()
    if pool.max_concurrent_streams:
        http2.max_concurrent_streams.value = pool.max_concurrent_streams
    if pool.http2_keepalive:
        _set_ping(http2.connection_keepalive, pool.http2_keepalive)


def _set_ping(ping: Any, keepalive: Http2Keepalive) -> None:
    if keepalive.interval is not None:
        ping.interval.CopyFrom(seconds(keepalive.interval))
    ping.timeout.CopyFrom(seconds(keepalive.timeout or _PING_TIMEOUT_SECONDS))


def _set_common(common: Any, pool: ConnectionPool) -> None:
    idle = pool.http_idle_timeout if pool.http_idle_timeout is not None else pool.tcp_idle_timeout
    if idle is not None:
        common.idle_timeout.CopyFrom(seconds(idle))
    if pool.max_connection_duration is not None:
        common.max_connection_duration.CopyFrom(seconds(pool.max_connection_duration))
    if pool.max_requests_per_connection:
        common.max_requests_per_connection.value = pool.max_requests_per_connection


def _uint32(value: int) -> Any:
    return wrappers_pb2.UInt32Value(value=value)
