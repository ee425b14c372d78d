"""Access logs: which line of which requests and connections Envoy writes for the journal. Pure.

Envoy writes to a file and the agent passes it on (agent/runtime/entry_log), as with all that Envoy tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from msgspec import Struct

from agent.mesh.access_log import LineFormat
from agent.mesh.names import LISTENER_TYPE
from agent.mesh.snapshot import Resource
from agent.translate.resource import packed, resource

_KINDS = (http_connection_manager_pb2.HttpConnectionManager, tcp_proxy_pb2.TcpProxy)


class Written(Struct, frozen=True):
    """One log."""

    line: LineFormat
    expression: str = ""
    """CEL: what is worth a line; empty: everything."""


def with_access_logs(
    resources: Iterable[Resource], wanted: Callable[[str], tuple[Written, ...]], path: str
) -> tuple[Resource, ...]:
    """Return the resources, listeners with these logs to a file; `wanted` knows them by the filters' stat_prefix."""
    return tuple(_logging(each, wanted, path) if each.type_url == LISTENER_TYPE else each for each in resources)


def _logging(made: Resource, wanted: Callable[[str], tuple[Written, ...]], path: str) -> Resource:
    message = listener_pb2.Listener.FromString(made.value)
    chains = [*message.filter_chains, *([message.default_filter_chain] * message.HasField("default_filter_chain"))]
    for network_filter in (one for chain in chains for one in chain.filters):
        for kind in _KINDS:
            if network_filter.typed_config.Is(kind.DESCRIPTOR):
                proxy = kind.FromString(network_filter.typed_config.value)
                proxy.access_log.extend(_log(each, path) for each in wanted(proxy.stat_prefix))
                network_filter.typed_config.CopyFrom(packed(proxy))
    return resource(LISTENER_TYPE, made.name, message, made.references)


def _log(written: Written, path: str) -> Any:
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.file" if path else "envoy.access_loggers.stdout")
    config = file_pb2.FileAccessLog(path=path) if path else stream_pb2.StdoutAccessLog()
    if written.line.fields:
        config.log_format.json_format.update(dict(written.line.fields))
    else:
        config.log_format.text_format_source.inline_string = written.line.text
    log.typed_config.CopyFrom(packed(config))
    if written.expression:
        log.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        wanted = cel_pb2.ExpressionFilter(expression=written.expression)
        log.filter.extension_filter.typed_config.CopyFrom(packed(wanted))
    return log
