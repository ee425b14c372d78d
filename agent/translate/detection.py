"""Ports of the protocol `auto`: the first bytes of each connection say whether it is HTTP. Pure.

Envoy's HTTP inspector looks at plain text, at the caller and at a workload that is called in plain text. Mutual TLS
hides the bytes from the workload's Envoy: the caller's, which has looked, offers an ALPN of its own for HTTP.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2

from agent.translate.http import outbound_http
from agent.translate.resource import packed, seconds
from agent.translate.tls import MESH_ALPN, MESH_HTTP_ALPN

DETECTION_SECONDS = 0.25
"""How long the first bytes are waited for at the caller; then it is TCP. A server that speaks first is silent so long.

The client is a program of the same host, so no lost packet makes its first bytes late.
"""
DETECTED_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What Envoy's HTTP inspector calls what it finds."""

_Predicate = listener_components_pb2.ListenerFilterChainMatchPredicate


def add_detection(listener: Any, table: str, foreign_tls: bool) -> None:
    """Let a listener of TCP connections take those that turn out to be HTTP by a route table.

    Envoy chooses by address before it chooses by protocol, so every range of addresses that has a chain gets one more.
    Not the mesh's TLS (`foreign_tls`): the servers may not take the mesh's ALPN.
    """
    filters = [*(() if foreign_tls else (http_mark(),)), outbound_http(table.replace(".", "_"), table)]
    places = {tuple(map(_text, chain.filter_chain_match.prefix_ranges)): chain for chain in listener.filter_chains}
    for chain in places.values():
        found = listener.filter_chains.add(name=f"{chain.name}-http", filters=filters)
        found.filter_chain_match.prefix_ranges.extend(chain.filter_chain_match.prefix_ranges)
        found.filter_chain_match.application_protocols.extend(DETECTED_HTTP)
    listener.listener_filters.append(http_inspector())
    listener.listener_filters_timeout.CopyFrom(seconds(DETECTION_SECONDS))
    listener.continue_on_listener_filters_timeout = True


def _text(network: Any) -> str:
    return f"{network.address_prefix}/{network.prefix_len.value}"


def http_inspector(ports: Collection[int] = ()) -> Any:
    """Return the listener filter that finds HTTP, on these ports alone if any are named."""
    found = listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.http_inspector", typed_config=packed(http_inspector_pb2.HttpInspector())
    )
    if ports:
        restrict(found, ports)
    return found


def restrict(listener_filter: Any, ports: Collection[int]) -> None:
    """Let a listener filter look at connections to these ports only (envoy.config.listener.v3.ListenerFilter)."""
    rules = []
    for port in sorted(ports):
        rule = _Predicate()
        rule.destination_port_range.start, rule.destination_port_range.end = port, port + 1
        rules.append(rule)
    within = listener_filter.filter_disabled.not_match
    if len(rules) == 1:
        within.CopyFrom(rules[0])
    else:
        within.or_match.rules.extend(rules)


def http_mark() -> Any:
    """Return the network filter that makes mutual TLS of this connection's requests offer the ALPN for HTTP."""
    state = set_filter_state_pb2.Config()
    value = state.on_new_connection.add(object_key="envoy.network.application_protocols")
    value.format_string.text_format_source.inline_string = f"{MESH_HTTP_ALPN},{MESH_ALPN}"
    return listener_components_pb2.Filter(name="envoy.filters.network.set_filter_state", typed_config=packed(state))
