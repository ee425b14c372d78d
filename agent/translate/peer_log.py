"""A log of who is at the other end of each connection, silent until the agent asks for it. Pure.

Envoy can't close the open connections of one identity, nor list them. So every inbound connection, and every one to a
gateway's port where clients have certificates, can say whose it is:
while the runtime key is set, each open TCP connection and each request under way logs its peer once a second, and each
new request at once. Without it a log line costs a comparison, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import substitution_format_string_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import duration_pb2

from agent.mesh.names import LISTENER_TYPE
from agent.mesh.snapshot import Resource
from agent.translate.resource import packed, resource

RUNTIME_KEY = "hostmesh.peer_log"
_LINE = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_LOCAL_PORT% %DOWNSTREAM_PEER_SERIAL%\n"
_EVERY = duration_pb2.Duration(seconds=1)
_HCM = http_connection_manager_pb2.HttpConnectionManager
_TCP = tcp_proxy_pb2.TcpProxy
ENDS = (data_pb2.NotSet, data_pb2.TcpConnectionEnd, data_pb2.DownstreamEnd)


def with_peer_log(resources: Iterable[Resource], path: str) -> tuple[Resource, ...]:
    """Return the resources, listeners with this log to a file; other access logs of theirs still log ends only."""
    return tuple(_logging(each, path) if each.type_url == LISTENER_TYPE else each for each in resources)


def peers_of(lines: Iterable[str]) -> dict[tuple[str, int], int | None]:
    """Return each peer's serial number (None: plain text) by its `ADDRESS:PORT` and the port that it connected to."""
    known: dict[tuple[str, int], int | None] = {}
    for line in lines:
        if not line.endswith("\n"):
            continue  # cut off
        with suppress(ValueError):
            address, port, serial = line.split()
            known[address, int(port)] = None if serial == "-" else int(serial, 16)
    return known


def _logging(listener: Resource, path: str) -> Resource:
    message = listener_pb2.Listener.FromString(listener.value)
    for chain in message.filter_chains:
        for network_filter in chain.filters:
            _add(network_filter, path)
    return resource(LISTENER_TYPE, listener.name, message, listener.references)


def _add(network_filter: Any, path: str) -> None:
    for kind in (_HCM, _TCP):
        if not network_filter.typed_config.Is(kind.DESCRIPTOR):
            continue
        proxy = kind.FromString(network_filter.typed_config.value)
        for log in proxy.access_log:
            ends_only(log)
        proxy.access_log.append(_log(path))
        proxy.access_log_options.access_log_flush_interval.CopyFrom(_EVERY)
        if kind is _HCM:
            proxy.access_log_options.flush_access_log_on_new_request = True
        network_filter.typed_config.CopyFrom(packed(proxy))


def ends_only(log: Any) -> None:
    """Keep a log that does not say itself when it is written from saying more than before: the times are all logs'."""
    if log.filter.HasField("log_type_filter"):
        return
    ends = accesslog_pb2.AccessLogFilter(log_type_filter=accesslog_pb2.LogTypeFilter(types=ENDS))
    if log.HasField("filter"):
        both = accesslog_pb2.AndFilter(filters=[log.filter, ends])
        log.filter.CopyFrom(accesslog_pb2.AccessLogFilter(and_filter=both))
    else:
        log.filter.CopyFrom(ends)


def _log(path: str) -> Any:
    line = substitution_format_string_pb2.SubstitutionFormatString()
    line.text_format_source.inline_string = _LINE
    config = file_pb2.FileAccessLog(path=path, log_format=line)
    asked = accesslog_pb2.AccessLogFilter(runtime_filter=accesslog_pb2.RuntimeFilter(runtime_key=RUNTIME_KEY))
    return accesslog_pb2.AccessLog(name="envoy.access_loggers.file", filter=asked, typed_config=packed(config))
