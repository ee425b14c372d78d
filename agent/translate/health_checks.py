"""Active checks: a caller's Envoy looks by itself whether the instances of a service serve. Pure.

Beside Consul's checks, never instead of them: an instance gets traffic if both find it well. Checks go the way that
requests go, through mutual TLS and the instance's own Envoy.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import health_check_pb2
from envoy.type.v3 import http_pb2, range_pb2

from agent.mesh.names import canonical_host
from agent.mesh.service import ActiveCheck, CheckKind
from agent.translate.facts import ServiceFacts
from agent.translate.resource import NEVER, seconds

_JITTER_PERCENT = 10
"""So that the hosts of a mesh do not look all at the same moment."""


def set_active_check(cluster: Any, facts: ServiceFacts, http2: bool) -> None:
    """Let a cluster check its endpoints, if the service wants it (envoy.config.cluster.v3.Cluster).

    One that calls its own port with HTTP/1 cannot check by gRPC.
    """
    check = facts.active_check
    if not check.kind or (check.kind is CheckKind.GRPC and not http2):
        return
    cluster.health_checks.append(_message(check, facts))
    # Consul's word is final: without this, an instance that it gives up stays as long as it answers checks.
    cluster.ignore_health_on_host_removal = True
    if cluster.HasField("outlier_detection"):
        # Otherwise the next good answer brings back what a rule has ejected for its answers to requests.
        cluster.outlier_detection.successful_active_health_check_uneject_host.value = False
    common = cluster.common_lb_config
    common.update_merge_window.CopyFrom(NEVER)
    if not common.HasField("healthy_panic_threshold"):
        # Few that serve do not make those good that do not.
        common.healthy_panic_threshold.value = 0


def _message(check: ActiveCheck, facts: ServiceFacts) -> Any:
    message = health_check_pb2.HealthCheck(
        timeout=seconds(check.timeout),
        interval=seconds(check.interval),
        # Envoy's default is a minute for clusters without traffic: the first request would meet what was known then.
        no_traffic_interval=seconds(check.interval),
        interval_jitter_percent=_JITTER_PERCENT,
    )
    message.unhealthy_threshold.value = check.failures
    message.healthy_threshold.value = 1
    if check.kind is CheckKind.HTTP:
        _set_http(message.http_health_check, check, facts)
    elif check.kind is CheckKind.GRPC:
        message.grpc_health_check.service_name = check.target
        message.grpc_health_check.authority = canonical_host(facts.key)
    else:
        message.tcp_health_check.SetInParent()  # a connection is enough
    return message


def _set_http(message: Any, check: ActiveCheck, facts: ServiceFacts) -> None:
    message.host = canonical_host(facts.key)
    message.path = check.target
    message.expected_statuses.append(range_pb2.Int64Range(start=200, end=300))
    if any(port.number == check.port and port.protocol.is_http2 for port in facts.ports):
        message.codec_client_type = http_pb2.HTTP2
