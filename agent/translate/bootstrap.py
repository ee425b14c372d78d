"""The bootstrap of the supervised Envoy: xDS and admin over Unix sockets, health and Prometheus listeners. Pure.

Holds nothing of the mesh: clusters, listeners, routes and certificates all come by xDS. Hot restart, concurrency and
drain times are the command line's.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct

ADMIN_CLUSTER = "admin"
XDS_CLUSTER = "xds"
HEALTH_PATH = "/healthz/ready"
STATS_PATH = "/stats/prometheus"

_EXTENSIONS = "type.googleapis.com/envoy.extensions"
_HTTP_EXTENSIONS = f"{_EXTENSIONS}.filters"
_HCM = f"{_HTTP_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_HTTP_EXTENSIONS}.http.router.v3.Router", "suppress_envoy_headers": True},
}
_NO_LIMIT = 2**31 - 1
_FIXED_RUNTIME = {"name": "limits", "static_layer": {"re2.max_program_size.error_level": _NO_LIMIT}}


class BootstrapOptions(Struct, frozen=True):
    """What the supervised Envoy must know before xDS tells it the rest."""

    node_id: str
    """The Consul node's name: what `proxy-status` lists."""
    cluster: str = "hostmesh"
    """Envoy's --service-cluster: what Zipkin calls whose spans it sends; the first workload's service."""
    admin_socket: str = "/run/hostmesh/admin.sock"
    xds_socket: str = "/run/hostmesh/xds.sock"
    health_port: int = 15021
    stats_port: int = 15090
    ipv6: bool = True
    """Health and stats listen on IPv6 too."""


def bootstrap(options: BootstrapOptions) -> bytes:
    """Return the bootstrap as JSON, fit for `envoy -c FILE.json`.

    Envoy opens its ports only when it has everything: the first xDS answer is waited for without limit, so a first
    start never serves half, and 15021 answers 200 from then until Envoy drains.
    """
    return json.dumps(_bootstrap(options), indent=2).encode() + b"\n"


def _bootstrap(options: BootstrapOptions) -> dict[str, Any]:
    return {
        "node": {"id": options.node_id, "cluster": options.cluster},
        "admin": admin(options.admin_socket),
        "dynamic_resources": _dynamic_resources(),
        "static_resources": {
            "clusters": [_xds_cluster(options.xds_socket), _pipe_cluster(ADMIN_CLUSTER, options.admin_socket)],
            "listeners": [_health_listener(options), _stats_listener(options)],
        },
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        # What nobody has added to for so long goes (translate/counting); the agent has its part of it by then.
        "stats_eviction_interval": "3600s",
        **limits(),
        "layered_runtime": {"layers": [_FIXED_RUNTIME, {"name": "the agent's", "admin_layer": {}}]},
    }


def admin(socket: str) -> dict[str, Any]:
    """Return the admin interface on a Unix socket that only its owner can use: it can stop Envoy and show secrets."""
    return {"address": {"pipe": {"path": socket, "mode": 0o600}}, "ignore_global_conn_limit": True}


def limits() -> dict[str, Any]:
    """Return the settings that keep Envoy from limiting connections by itself, and from warning that it doesn't.

    Also lifts Envoy's own bound on regular expressions (an RE2 program of 100 instructions: one longer alternative in
    a rule would be refused, with its whole route table); agent/api bounds them, and RE2 itself does.
    """
    connections = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_EXTENSIONS}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": _NO_LIMIT,
        },
    }
    return {"overload_manager": {"resource_monitors": [connections]}, "layered_runtime": {"layers": [_FIXED_RUNTIME]}}


def _dynamic_resources() -> dict[str, Any]:
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    grpc = {
        "cluster_name": XDS_CLUSTER,
        # Envoy's own default grows to 30 s: too long to be without an agent that has just restarted.
        "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
    }
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": grpc}],
        },
        "cds_config": source,
        "lds_config": source,
    }


def _xds_cluster(socket: str) -> dict[str, Any]:
    options = {
        "@type": f"{_EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = _pipe_cluster(XDS_CLUSTER, socket)
    return {
        **cluster,
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _pipe_cluster(name: str, socket: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": socket}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _health_listener(options: BootstrapOptions) -> dict[str, Any]:
    check = {
        "name": "envoy.filters.http.health_check",
        "typed_config": {
            "@type": f"{_HTTP_EXTENSIONS}.http.health_check.v3.HealthCheck",
            "pass_through_mode": False,
            "headers": [{"name": ":path", "string_match": {"exact": HEALTH_PATH}}],
        },
    }
    return _listener("health", options.health_port, options.ipv6, [], [check, _ROUTER])


def _stats_listener(options: BootstrapOptions) -> dict[str, Any]:
    route = {"match": {"path": STATS_PATH}, "route": {"cluster": ADMIN_CLUSTER, "timeout": "30s"}}
    return _listener("stats", options.stats_port, options.ipv6, [route], [_ROUTER])


def _listener(
    name: str, port: int, ipv6: bool, routes: list[dict[str, Any]], http_filters: list[dict[str, Any]]
) -> dict[str, Any]:
    manager = {
        "@type": _HCM,
        "stat_prefix": name,
        "http_filters": http_filters,
        "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
    }
    network_filter = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    v6 = {"additional_addresses": [{"address": _address("::", port)}]} if ipv6 else {}
    return {
        "name": name,
        "address": _address("0.0.0.0", port),
        **v6,
        "ignore_global_conn_limit": True,
        "filter_chains": [{"filters": [network_filter]}],
    }


def _address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}
