"""A trafficPolicy, or a DestinationPolicy's settings, to the mesh's TrafficPolicy: pure, one at a time.

Only for specs that validation found nothing wrong with. A number that is 0 in a plain protobuf field says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.api.checks.durations import seconds
from agent.mesh.service import Labels
from agent.mesh.traffic_policy import (
    Algorithm,
    ClientTls,
    ConnectionPool,
    ConsistentHash,
    HashKey,
    HashKind,
    Http2Keepalive,
    Http2Use,
    Keepalive,
    LoadBalancer,
    LocalityPolicy,
    OutlierDetection,
    RetryBudget,
    Scope,
    TlsMode,
    TrafficPolicy,
    Tunnel,
    Warmup,
)

_ALGORITHMS = {
    "ROUND_ROBIN": Algorithm.ROUND_ROBIN,
    "LEAST_CONN": Algorithm.LEAST_REQUEST,
    "LEAST_REQUEST": Algorithm.LEAST_REQUEST,
    "RANDOM": Algorithm.RANDOM,
    "PASSTHROUGH": Algorithm.PASSTHROUGH,
}
_OLD_LIMIT = 1024
_OLD_RETRIES = 3
_OLD_ERRORS = 5
_OLD_INTERVAL = 10.0
_OLD_SLEEP = 30.0
_OLD_EJECTION_PERCENT = 10
"""What the first generation documents for the fields of a simpleCb that say nothing."""


def traffic_scope(policy: Mapping[str, Any] | None, subset: str = "", labels: Labels = ()) -> Scope:
    """Return a trafficPolicy, with its portLevelSettings, for a whole service or one subset."""
    policy = policy or {}
    ports = tuple((item["port"]["number"], _policy(item)) for item in policy.get("portLevelSettings") or ())
    return Scope(_policy(policy), ports, subset, labels)


def simple_policy(spec: Mapping[str, Any]) -> TrafficPolicy:
    """Return the loadBalancing and circuitBreaker of a DestinationPolicy."""
    name = (spec.get("loadBalancing") or {}).get("name")
    breaker = (spec.get("circuitBreaker") or {}).get("simpleCb")
    return TrafficPolicy(
        load_balancer=LoadBalancer(_ALGORITHMS[name]) if name else None,
        connections=_simple_limits(breaker) if breaker is not None else None,
        outliers=_simple_ejection(breaker) if breaker is not None else None,
    )


def _simple_limits(breaker: Mapping[str, Any]) -> ConnectionPool:
    return ConnectionPool(
        max_connections=breaker.get("maxConnections") or _OLD_LIMIT,
        max_pending_requests=breaker.get("httpMaxPendingRequests") or _OLD_LIMIT,
        max_requests=breaker.get("httpMaxRequests") or _OLD_LIMIT,
        max_retries=breaker.get("httpMaxRetries") or _OLD_RETRIES,
        max_requests_per_connection=breaker.get("httpMaxRequestsPerConnection") or None,
    )


def _simple_ejection(breaker: Mapping[str, Any]) -> OutlierDetection:
    return OutlierDetection(
        consecutive_5xx=breaker.get("httpConsecutiveErrors") or _OLD_ERRORS,
        interval=_seconds(breaker.get("httpDetectionInterval")) or _OLD_INTERVAL,
        ejection_time=_seconds(breaker.get("sleepWindow")) or _OLD_SLEEP,
        max_ejection_percent=breaker.get("httpMaxEjectionPercent") or _OLD_EJECTION_PERCENT,
        always_eject_one=True,
    )


def _policy(policy: Mapping[str, Any]) -> TrafficPolicy:
    balancer, pool, outlier = (policy.get(key) for key in ("loadBalancer", "connectionPool", "outlierDetection"))
    tls, header, tunnel = policy.get("tls"), policy.get("proxyProtocol"), policy.get("tunnel")
    return TrafficPolicy(
        load_balancer=_load_balancer(balancer) if balancer is not None else None,
        connections=_connection_pool(pool) if pool is not None else None,
        outliers=_outlier_detection(outlier) if outlier is not None else None,
        tls=_client_tls(tls) if tls is not None else None,
        proxy_protocol=(2 if header.get("version") == "V2" else 1) if header is not None else None,
        tunnel=_tunnel(tunnel) if tunnel is not None else None,
        retry_budget=RetryBudget(budget.get("percent"), budget.get("minRetryConcurrency"))
        if (budget := policy.get("retryBudget")) is not None
        else None,
    )


def _load_balancer(balancer: Mapping[str, Any]) -> LoadBalancer:
    chosen, locality = balancer.get("consistentHash"), balancer.get("localityLbSetting")
    return LoadBalancer(
        algorithm=_ALGORITHMS.get(balancer.get("simple") or ""),
        hash=_consistent_hash(chosen) if chosen is not None else None,
        locality=_locality(locality) if locality is not None else None,
        warmup=_warmup(balancer),
    )


def _consistent_hash(chosen: Mapping[str, Any]) -> ConsistentHash:
    maglev, ring = chosen.get("maglev"), chosen.get("ringHash") or {}
    if maglev is not None:
        return ConsistentHash(_hash_key(chosen), True, maglev["tableSize"])
    return ConsistentHash(
        _hash_key(chosen), False, chosen.get("minimumRingSize") or ring.get("minimumRingSize") or None
    )


def _hash_key(chosen: Mapping[str, Any]) -> HashKey | None:
    if name := chosen.get("httpHeaderName"):
        return HashKey(HashKind.HEADER, name)
    if name := chosen.get("httpQueryParameterName"):
        return HashKey(HashKind.QUERY, name)
    if cookie := chosen.get("httpCookie"):
        attributes = ((item.get("name") or "", item.get("value") or "") for item in cookie.get("attributes") or ())
        ttl = cookie.get("ttl")
        return HashKey(
            HashKind.COOKIE,
            cookie["name"],
            cookie.get("path") or "",
            seconds(ttl) if ttl is not None else None,
            tuple(pair for pair in attributes if pair[0]),
        )
    return HashKey(HashKind.SOURCE_IP) if chosen.get("useSourceIp") else None


def _locality(setting: Mapping[str, Any]) -> LocalityPolicy:
    enabled = setting.get("enabled")
    return LocalityPolicy(
        enabled=True if enabled is None else enabled,
        failover=tuple((item["from"], item["to"]) for item in setting.get("failover") or ()),
        priority_labels=tuple(setting.get("failoverPriority") or ()),
        distribute=tuple((item["from"], tuple(sorted(item["to"].items()))) for item in setting.get("distribute") or ()),
    )


def _warmup(balancer: Mapping[str, Any]) -> Warmup | None:
    if (warmup := balancer.get("warmup")) is not None:
        return Warmup(seconds(warmup["duration"]), warmup.get("minimumPercent"), warmup.get("aggression"))
    if (duration := balancer.get("warmupDurationSecs")) is not None:
        return Warmup(seconds(duration))
    return None


def _connection_pool(pool: Mapping[str, Any]) -> ConnectionPool:
    http, tcp = pool.get("http") or {}, pool.get("tcp") or {}
    keepalive, ping = tcp.get("tcpKeepalive"), http.get("http2KeepAlive")
    return ConnectionPool(
        max_connections=tcp.get("maxConnections") or None,
        max_pending_requests=http.get("http1MaxPendingRequests") or None,
        max_requests=http.get("http2MaxRequests") or None,
        max_retries=http.get("maxRetries") or None,
        max_requests_per_connection=http.get("maxRequestsPerConnection") or None,
        max_concurrent_streams=http.get("maxConcurrentStreams") or None,
        connect_timeout=_seconds(tcp.get("connectTimeout")),
        max_connection_duration=_seconds(tcp.get("maxConnectionDuration")),
        http_idle_timeout=_seconds(http.get("idleTimeout")),
        tcp_idle_timeout=_seconds(tcp.get("idleTimeout")),
        keepalive=_keepalive(keepalive) if keepalive is not None else None,
        http2=_http2(http),
        http2_keepalive=_ping(ping) if ping is not None else None,
    )


def _http2(http: Mapping[str, Any]) -> Http2Use | None:
    if http.get("useClientProtocol"):
        return Http2Use.AS_CLIENT
    return Http2Use.ALWAYS if http.get("h2UpgradePolicy") == "UPGRADE" else None


def _keepalive(keepalive: Mapping[str, Any]) -> Keepalive:
    return Keepalive(
        keepalive.get("probes") or None, _seconds(keepalive.get("time")), _seconds(keepalive.get("interval"))
    )


def _ping(ping: Mapping[str, Any]) -> Http2Keepalive:
    return Http2Keepalive(_seconds(ping.get("interval")), _seconds(ping.get("timeout")))


def _outlier_detection(outlier: Mapping[str, Any]) -> OutlierDetection:
    server_errors, gateway = outlier.get("consecutive5xxErrors"), outlier.get("consecutiveGatewayErrors")
    deprecated = outlier.get("consecutiveErrors") or None
    if deprecated and gateway is None:
        # It counted 502, 503 and 504 alone, in place of all codes from 500 (istio/api pull request 617).
        gateway, server_errors = deprecated, server_errors or 0
    percent = outlier.get("maxEjectionPercent") or None
    return OutlierDetection(
        consecutive_5xx=server_errors,
        consecutive_gateway_errors=gateway,
        consecutive_local_failures=outlier.get("consecutiveLocalOriginFailures"),
        split_local_origin=outlier.get("splitExternalLocalOriginErrors") or False,
        interval=_seconds(outlier.get("interval")),
        ejection_time=_seconds(outlier.get("baseEjectionTime")),
        max_ejection_percent=percent,
        # Envoy's default is 10 %, which is none of fewer than ten instances: the rule would do nothing.
        always_eject_one=percent is None,
        min_health_percent=outlier.get("minHealthPercent") or 0,
    )


def _client_tls(tls: Mapping[str, Any]) -> ClientTls:
    return ClientTls(
        mode=TlsMode(tls.get("mode") or "DISABLE"),
        certificate=tls.get("clientCertificate") or "",
        key=tls.get("privateKey") or "",
        authorities=tls.get("caCertificates") or "",
        crl=tls.get("caCrl") or "",
        sni=tls.get("sni") or "",
        subject_alt_names=tuple(tls.get("subjectAltNames") or ()),
        skip_verify=tls.get("insecureSkipVerify") or False,
        credential=tls.get("credentialName") or "",
    )


def _tunnel(tunnel: Mapping[str, Any]) -> Tunnel:
    return Tunnel(tunnel["targetHost"], tunnel["targetPort"], tunnel.get("protocol") == "POST")


def _seconds(text: str | None) -> float | None:
    return None if text is None else seconds(text)
