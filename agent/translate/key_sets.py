"""Where Envoy gets the key sets that tokens are verified by, and how the agent gets them. Pure.

The agent keeps key sets, so that they outlive Envoy, changes of rules and an absent source: Envoy asks it for them.
But only Envoy reaches services of the mesh (by mutual TLS, from a process that nothing captures) and outside names past
the host's own DNS: so the agent fetches through a listener of Envoy's, which only its own user can connect to, and
which leads to the sources of key sets and nowhere else. Without an agent (`hostmesh render`) Envoy fetches itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from google.protobuf import wrappers_pb2
from msgspec import Struct

from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE
from agent.mesh.snapshot import Resource
from agent.translate.clusters import CONNECT_TIMEOUT_SECONDS
from agent.translate.options import KeySetSockets
from agent.translate.resource import NEVER, any_address, packed, resource, seconds

AGENT = "hostmesh-agent"
"""The cluster that is the agent, and a host name for it (without `_`, which Envoy would refuse)."""
PATH = "/key-sets/"
"""Where on the agent's socket they are, by name."""
NAME_HEADER = "x-hostmesh-key-set"
"""Says through Envoy's listener which key set is asked for."""
REASON_HEADER = "x-hostmesh-reason"
"""Why Envoy got no answer from a source, in its own words."""
_FETCHES = "hostmesh_key_sets"
_HCM = http_connection_manager_pb2.HttpConnectionManager
REFRESH_SECONDS = 20 * 60.0
"""How often Envoy fetches a key set anew from its source (as Istio does)."""
_ASK_SECONDS = 30.0
"""How often it asks the agent, which costs nothing to speak of."""


class KeySource(Struct, frozen=True):
    """Where Envoy asks for a key set."""

    uri: str
    cluster: str
    refresh: float = REFRESH_SECONDS


def key_set_name(uri: str) -> str:
    """Return the name by which agent and Envoy know the key set of an address."""
    return sha256(uri.encode()).hexdigest()[:32]


def from_agent(uri: str) -> KeySource:
    """Return how Envoy asks the agent for the key set of an address."""
    return KeySource(f"http://{AGENT}{PATH}{key_set_name(uri)}", AGENT, _ASK_SECONDS)


def agent_cluster(sockets: KeySetSockets) -> Resource:
    """Return the cluster of the agent's own socket."""
    cluster: Any = cluster_pb2.Cluster(name=AGENT, connect_timeout=seconds(CONNECT_TIMEOUT_SECONDS))
    cluster.load_assignment.cluster_name = AGENT
    endpoint = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint
    endpoint.address.CopyFrom(any_address(f"unix://{sockets.agent}", 0))
    return resource(CLUSTER_TYPE, AGENT, cluster)


def fetch_listener(sockets: KeySetSockets, servers: Mapping[str, str]) -> Resource:
    """Return the listener by which the agent reaches the servers (clusters by the key sets' addresses)."""
    routes = [_route(uri, cluster) for uri, cluster in sorted(servers.items())]
    manager = _HCM(
        stat_prefix=_FETCHES,
        stream_idle_timeout=NEVER,
        generate_request_id=wrappers_pb2.BoolValue(value=False),
        local_reply_config=_why(),
    )
    manager.http_filters.add(
        name="envoy.filters.http.router", typed_config=packed(router_pb2.Router(suppress_envoy_headers=True))
    )
    host = route_components_pb2.VirtualHost(name=_FETCHES, domains=["*"], routes=routes)
    manager.route_config.CopyFrom(
        route_pb2.RouteConfiguration(
            name=_FETCHES, virtual_hosts=[host], validate_clusters=wrappers_pb2.BoolValue(value=False)
        )
    )
    message = listener_pb2.Listener(name=_FETCHES, address=any_address(f"unix://{sockets.envoy}", 0))
    message.address.pipe.mode = 0o600
    chain = listener_components_pb2.FilterChain(name=_FETCHES)
    chain.filters.add(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))
    message.filter_chains.append(chain)
    return resource(LISTENER_TYPE, _FETCHES, message, {(CLUSTER_TYPE, cluster) for cluster in servers.values()})


def _route(uri: str, cluster: str) -> Any:
    name = key_set_name(uri)
    route = route_components_pb2.Route(name=name, match=route_components_pb2.RouteMatch(prefix="/"))
    wanted = route.match.headers.add(name=NAME_HEADER)
    wanted.string_match.exact = name
    route.route.cluster = cluster
    route.route.timeout.CopyFrom(NEVER)  # who asks knows how long it wants to wait
    route.request_headers_to_remove.append(NAME_HEADER)
    route.response_headers_to_remove.append(REASON_HEADER)
    return route


def _why() -> Any:
    """Return what makes Envoy say why there is no answer: the agent shows that, and nothing of what a source says."""
    config = http_connection_manager_pb2.LocalReplyConfig()
    every = accesslog_pb2.AccessLogFilter(not_health_check_filter=accesslog_pb2.NotHealthCheckFilter())
    mapper = config.mappers.add(filter=every)
    option = mapper.headers_to_add.add()
    option.header.key = REASON_HEADER
    option.header.value = "%RESPONSE_FLAGS_LONG% %UPSTREAM_TRANSPORT_FAILURE_REASON%"
    return config
