"""The TCP proxy filter of outbound and inbound listeners. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import wrappers_pb2

from agent.mesh.routes import Fault
from agent.translate.balancing import connection_hash
from agent.translate.guard import Guard
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, Target
from agent.translate.resource import NEVER, packed, seconds

_DIRECT = Approach.empty()
_OPEN = Guard()

CONNECT_ATTEMPTS = 3
"""No byte of the connection has gone anywhere before one succeeds, so trying again (elsewhere, by chance) is safe."""


def connection_chain(
    stat_prefix: str,
    name: str,
    targets: tuple[Target, ...],
    approaches: Mapping[str, Approach],
    guard: Guard = _OPEN,
) -> Any:
    """Return the filter chain of connections that go to the targets; without any Envoy closes them."""
    chain = listener_components_pb2.FilterChain(name=name)
    if targets and not _tunnels_differ(targets, approaches):
        # One connection has one set of timeouts, whichever of several targets it goes to: the first one's.
        approach = approaches.get(targets[0].cluster, _DIRECT)
        chain.filters.extend((*guard.filters, tcp_to(stat_prefix, targets, approach, guard.logs)))
    return chain


def tunnel_faults(
    called: str, resolved: ResolvedPort, approaches: tuple[tuple[str, Approach], ...]
) -> tuple[Fault, ...]:
    """Return a fault for each route whose connections are closed because its targets have not one tunnel."""
    by_cluster = dict(approaches)
    reason = f"connections to {called} are closed: Envoy cannot split them between a tunnel and something else"
    return tuple(
        Fault(route.name.rsplit("/", 1)[0], reason)
        for route in resolved.routes
        if _tunnels_differ(route.targets, by_cluster)
    )


def _tunnels_differ(targets: tuple[Target, ...], approaches: Mapping[str, Approach]) -> bool:
    return len({approaches.get(target.cluster, _DIRECT).tunnel for target in targets}) > 1


def tcp_to(
    stat_prefix: str, targets: tuple[Target, ...], approach: Approach = _DIRECT, logs: tuple[Any, ...] = ()
) -> Any:
    """Return the network filter that sends connections to one cluster, or to several by weight."""
    # An idle connection is the application's affair (pools of MySQL connections sleep for hours).
    proxy = tcp_proxy_pb2.TcpProxy(stat_prefix=stat_prefix, idle_timeout=NEVER, access_log=logs)
    proxy.max_connect_attempts.CopyFrom(wrappers_pb2.UInt32Value(value=CONNECT_ATTEMPTS))
    if len(targets) == 1:
        proxy.cluster = targets[0].cluster
    else:
        for target in targets:
            proxy.weighted_clusters.clusters.add(name=target.cluster, weight=target.weight)
    if approach.idle_timeout is not None:
        proxy.idle_timeout.CopyFrom(seconds(approach.idle_timeout))
    if approach.max_duration is not None:
        proxy.max_downstream_connection_duration.CopyFrom(seconds(approach.max_duration))
    if approach.tunnel is not None:
        host = f"[{approach.tunnel.host}]" if ":" in approach.tunnel.host else approach.tunnel.host
        proxy.tunneling_config.hostname = f"{host}:{approach.tunnel.port}"
        proxy.tunneling_config.use_post = approach.tunnel.by_post
    hashed = connection_hash(approach.hash) if approach.hash else None
    if hashed is not None:
        proxy.hash_policy.append(hashed)
    return listener_components_pb2.Filter(name="envoy.filters.network.tcp_proxy", typed_config=packed(proxy))
