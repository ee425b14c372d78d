"""Load balancing of a cluster: the algorithm, hash tables, warm-up; what routes and listeners hash. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.v3 import hash_policy_pb2

from agent.mesh.traffic_policy import Algorithm, ConsistentHash, HashKey, HashKind, LoadBalancer, Warmup
from agent.translate.policies import Approach
from agent.translate.resource import seconds

_Cluster = cluster_pb2.Cluster
_POLICIES = {
    Algorithm.ROUND_ROBIN: _Cluster.ROUND_ROBIN,
    Algorithm.LEAST_REQUEST: _Cluster.LEAST_REQUEST,
    Algorithm.RANDOM: _Cluster.RANDOM,
    Algorithm.PASSTHROUGH: _Cluster.LEAST_REQUEST,  # where there is something to choose from
}
_RING_SIZE = 1024
"""Istio's default; Envoy's is the same."""
_HashPolicy = route_components_pb2.RouteAction.HashPolicy


def set_load_balancer(cluster: Any, balancer: LoadBalancer) -> None:
    """Set how the cluster chooses an instance."""
    if balancer.hash is not None:
        _set_table(cluster, balancer.hash)
        return
    algorithm = balancer.algorithm or Algorithm.LEAST_REQUEST
    cluster.lb_policy = _POLICIES[algorithm]
    if balancer.warmup and algorithm is Algorithm.ROUND_ROBIN:
        _set_warmup(cluster.round_robin_lb_config.slow_start_config, balancer.warmup)
    elif balancer.warmup and algorithm is Algorithm.LEAST_REQUEST:
        _set_warmup(cluster.least_request_lb_config.slow_start_config, balancer.warmup)


def set_hash_policies(routes: Iterable[Any], approaches: Mapping[str, Approach]) -> None:
    """Make routes to clusters that hash say what of a request is hashed (envoy.config.route.v3.Route, changed)."""
    for route in routes:
        if not route.HasField("route"):
            continue
        targets = [route.route.cluster, *(target.name for target in route.route.weighted_clusters.clusters)]
        keys = (approaches[cluster].hash for cluster in targets if cluster in approaches)
        route.route.hash_policy.extend(_hash_policy(key) for key in dict.fromkeys(filter(None, keys)))


def connection_hash(key: HashKey) -> Any:
    """Return what of a TCP connection is hashed (envoy.type.v3.HashPolicy), or None: it has no header or cookie."""
    if key.kind is not HashKind.SOURCE_IP:
        return None
    return hash_policy_pb2.HashPolicy(source_ip=hash_policy_pb2.HashPolicy.SourceIp())


def _set_table(cluster: Any, chosen: ConsistentHash) -> None:
    if chosen.maglev:
        cluster.lb_policy = _Cluster.MAGLEV
        cluster.maglev_lb_config.table_size.value = chosen.size or 65537
    else:
        cluster.lb_policy = _Cluster.RING_HASH
        cluster.ring_hash_lb_config.minimum_ring_size.value = chosen.size or _RING_SIZE


def _set_warmup(config: Any, warmup: Warmup) -> None:
    config.slow_start_window.CopyFrom(seconds(warmup.duration))
    if warmup.minimum_percent is not None:
        config.min_weight_percent.value = warmup.minimum_percent
    if warmup.aggression is not None:
        config.aggression.default_value = warmup.aggression
        config.aggression.runtime_key = "hostmesh.warmup.aggression"


def _hash_policy(key: HashKey) -> Any:
    policy = _HashPolicy()
    if key.kind is HashKind.HEADER:
        policy.header.header_name = key.name
    elif key.kind is HashKind.QUERY:
        policy.query_parameter.name = key.name
    elif key.kind is HashKind.SOURCE_IP:
        policy.connection_properties.source_ip = True
    else:
        policy.cookie.name = key.name
        policy.cookie.path = key.path
        if key.ttl is not None:
            policy.cookie.ttl.CopyFrom(seconds(key.ttl))
        for name, value in key.attributes:
            policy.cookie.attributes.add(name=name, value=value)
    return policy
