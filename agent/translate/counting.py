"""What Envoy counts of requests and connections, for the agent to make metrics of (mesh/raw_stats). Pure.

An access logger that writes nothing: each request adds to a histogram (at its destination to three), each connection to
four counters, under the atoms that tell them apart; docs/performance.md has what that costs. What Mixer's rules want
beyond that has statistics of its own (mesh/metric_plan). All listeners share one scope, so what has been counted
outlives the listener that counted it, and the number of statistics is bounded whatever callers do.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import json_format
from msgspec import Struct
from xds.type.v3 import typed_struct_pb2

from agent.mesh.metric_plan import (
    ALL_CONNECTIONS,
    ALL_REQUESTS,
    ALL_SIZES,
    CONNECTIONS,
    REQUESTS,
    SIZES,
    Group,
    joined,
    plan_metrics,
)
from agent.mesh.names import LISTENER_TYPE
from agent.mesh.raw_stats import PREFIX, Atom, Measure, Side, asked_atom, stat_name, tag_name
from agent.mesh.snapshot import Resource
from agent.translate.peer_log import ENDS, ends_only
from agent.translate.resource import packed, resource
from agent.translate.served import InboundPort

MAX_COUNTERS = 20_000
MAX_HISTOGRAMS = 10_000
"""Beyond these Envoy counts no new kinds of requests, and says so in server.stats_overflow."""

_CONFIG = "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config"
_HCM = http_connection_manager_pb2.HttpConnectionManager
_TCP = tcp_proxy_pb2.TcpProxy
_INBOUND = "inbound_"
_EARLY_BYTES = 65536

_FORMATS = {
    Atom.ADDRESS: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    Atom.CALLER: "%DOWNSTREAM_PEER_URI_SAN%",
    Atom.CODE: "%RESPONSE_CODE%",
    Atom.FLAGS: "%RESPONSE_FLAGS%",
    Atom.CLUSTER: "%UPSTREAM_CLUSTER_RAW%",
    Atom.HOST: "%UPSTREAM_HOST%",
    Atom.SERVER: "%UPSTREAM_PEER_URI_SAN%",
}
_MAX_LENGTH = 200
"""Of what a client chose, in characters."""
_ASKED = {
    "request.path": f"%REQ(:PATH):{_MAX_LENGTH}%",
    "request.url_path": f"%PATH(NQ:PATH):{_MAX_LENGTH}%",
    "request.host": f"%REQ(:AUTHORITY):{_MAX_LENGTH}%",
    "request.method": f"%REQ(:METHOD):{_MAX_LENGTH}%",
    "request.scheme": f"%REQ(:SCHEME):{_MAX_LENGTH}%",
    "request.useragent": f"%REQ(user-agent):{_MAX_LENGTH}%",
    "request.referer": f"%REQ(referer):{_MAX_LENGTH}%",
    "request.api_key": f"%REQ(x-api-key):{_MAX_LENGTH}%",
    "response.grpc_status": "%GRPC_STATUS_NUMBER%",
    "connection.requested_server_name": "%REQUESTED_SERVER_NAME%",
}
_COMMANDS = {"request.headers": "REQ", "response.headers": "RESP"}
_PEER = {Side.IN: (Atom.ADDRESS, Atom.CALLER), Side.OUT: (Atom.CLUSTER, Atom.HOST, Atom.SERVER)}
_DURATION, _RECEIVED, _SENT = "%DURATION%", "%BYTES_RECEIVED%", "%BYTES_SENT%"
_HISTOGRAMS = {
    Measure.DURATION: ("Milliseconds", _DURATION),
    Measure.REQUEST_BYTES: ("Bytes", _RECEIVED),
    Measure.RESPONSE_BYTES: ("Bytes", _SENT),
    Measure.CONNECTION_DURATION: ("Milliseconds", _DURATION),
    Measure.SENT_SIZES: ("Bytes", _SENT),
    Measure.RECEIVED_SIZES: ("Bytes", _RECEIVED),
}
_COUNTERS: Mapping[Measure, Mapping[str, Any]] = {
    Measure.OPENED: {"value_fixed": 1},
    Measure.CLOSED: {"value_fixed": 1},
    Measure.SENT: {"value_format": _SENT},
    Measure.RECEIVED: {"value_format": _RECEIVED},
}
_AT_START = frozenset({Measure.OPENED})


class Counting(Struct, frozen=True):
    """What is counted."""

    default: bool = True
    """What the default metrics are made of."""
    requests: Mapping[int, tuple[Group, ...]] = {}
    """By port of a local workload, beside that."""
    connections: Mapping[int, tuple[Group, ...]] = {}

    @classmethod
    def of(cls, ports: Iterable[InboundPort], default: bool) -> Counting:
        """Return what is counted in front of the ports of this host's workloads."""
        rules = {served.port.number: served.rules.metrics for served in ports if served.rules.metrics}
        return cls(
            default,
            {number: plan_metrics(found, REQUESTS).groups for number, found in rules.items()},
            {number: plan_metrics(found, CONNECTIONS).groups for number, found in rules.items()},
        )

    def of_requests(self, side: Side, port: int) -> tuple[Group, ...]:
        """Return what is counted of requests to a port; their sizes at their destinations only.

        Each statistic costs every request up to half a microsecond, and sizes are the same at both ends.
        """
        sizes = (ALL_SIZES,) if side is Side.IN else ()
        return joined((*((ALL_REQUESTS, *sizes) if self.default else ()), *self.requests.get(port, ())))

    def of_connections(self, port: int) -> tuple[Group, ...]:
        """Return what is counted of connections to a port."""
        return joined((*((ALL_CONNECTIONS,) if self.default else ()), *self.connections.get(port, ())))


_DEFAULT = Counting()


def with_counting(resources: Iterable[Resource], counting: Counting = _DEFAULT) -> tuple[Resource, ...]:
    """Return the resources, listeners with statistics of every request and connection."""
    return tuple(_counting(each, counting) if each.type_url == LISTENER_TYPE else each for each in resources)


def _counting(made: Resource, counting: Counting) -> Resource:
    message = listener_pb2.Listener.FromString(made.value)
    chains = [*message.filter_chains]
    if message.HasField("default_filter_chain"):
        chains.append(message.default_filter_chain)
    for chain, network_filter in ((it, one) for it in chains for one in it.filters):
        for kind in (_HCM, _TCP):
            if network_filter.typed_config.Is(kind.DESCRIPTOR):
                proxy = kind.FromString(network_filter.typed_config.value)
                is_inbound = proxy.stat_prefix.startswith(_INBOUND)
                side = Side.IN if is_inbound else Side.OUT
                port = int(proxy.stat_prefix.removeprefix(_INBOUND)) if is_inbound else 0
                if kind is _HCM:
                    proxy.access_log.extend(_loggers(side, port, counting.of_requests(side, port)))
                else:
                    logs = _loggers(side, port, counting.of_connections(port))
                    _count_connections(proxy, logs, chain.HasField("transport_socket"))
                network_filter.typed_config.CopyFrom(packed(proxy))
    return resource(LISTENER_TYPE, made.name, message, made.references)


def _count_connections(proxy: Any, logs: tuple[Any, ...], is_tls: bool) -> None:
    for log in proxy.access_log:
        ends_only(log)
    proxy.access_log.extend(logs)
    proxy.access_log_options.flush_access_log_on_connected = True
    if is_tls:
        # Else the application is connected to, and the connection counted, before the caller has said who it is.
        proxy.upstream_connect_mode = tcp_proxy_pb2.ON_DOWNSTREAM_TLS_HANDSHAKE
        proxy.max_early_data_bytes.value = _EARLY_BYTES


@functools.lru_cache(maxsize=1000)
def _loggers(side: Side, port: int, groups: tuple[Group, ...]) -> tuple[Any, ...]:
    """Return what counts: as connections have come, and as they or requests have ended."""
    found = []
    for is_start, when in ((True, (data_pb2.TcpUpstreamConnected,)), (False, ENDS)):
        stats: dict[str, list[Any]] = {}
        for group in groups:
            for measure in (one for one in Measure if one in group.measures and (one in _AT_START) is is_start):
                stat = {"stat": _stat(side, port, measure, group)}
                if measure in _COUNTERS:
                    stats.setdefault("counters", []).append({**stat, **_COUNTERS[measure]})
                else:
                    unit, value = _HISTOGRAMS[measure]
                    stats.setdefault("histograms", []).append({**stat, "unit": unit, "value_format": value})
        if stats:
            found.append(_logger(stats, when))
    return tuple(found)


def _stat(side: Side, port: int, measure: Measure, group: Group) -> dict[str, Any]:
    """Return a statistic; connections are told apart by who opened them, and requests by their outcome, too."""
    outcome = () if measure in _COUNTERS or group.key == SIZES else (Atom.CODE, Atom.FLAGS)
    tags = [{"name": tag_name(atom), "value_format": _FORMATS[atom]} for atom in (*_PEER[side], *outcome)]
    tags += [
        {"name": tag_name(asked_atom(place)), "value_format": _format(attribute, header)}
        for place, (attribute, header) in enumerate(group.asked)
    ]
    return {"name": stat_name(side, port, measure, group.key), "tags": tags}


def _format(attribute: str, header: str) -> str:
    return f"%{_COMMANDS[attribute]}({header}):{_MAX_LENGTH}%" if header else _ASKED[attribute]


def _logger(stats: Mapping[str, Any], at: Iterable[int]) -> Any:
    """Return an access log of these statistics; as a struct, because the messages of xds-protos lack the scope."""
    scope = {
        "prefix": PREFIX,
        "sharing_name": "hostmesh",
        "max_counters": MAX_COUNTERS,
        "max_histograms": MAX_HISTOGRAMS,
        "enable_eviction": True,
    }
    config = typed_struct_pb2.TypedStruct(type_url=_CONFIG)
    json_format.Parse(json.dumps({"stats_scope": scope, **stats}), config.value)
    when = accesslog_pb2.AccessLogFilter(log_type_filter=accesslog_pb2.LogTypeFilter(types=tuple(at)))
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.stats", filter=when, typed_config=packed(config))
