"""Matchers that name what they find, and filters that note such a name of a request's caller in its metadata. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from msgspec import Struct
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from agent.translate.conditions import Condition
from agent.translate.mixer_dimensions import METADATA
from agent.translate.mixer_peers import Peers, are, at_addresses
from agent.translate.resource import packed

NOBODY = "none"
_ALLOW = rbac_pb2.RBAC.ALLOW


class Callers(Struct, frozen=True):
    """Who calls, and how that is known."""

    peers: tuple[Peers, ...] = ()
    trust_domains: tuple[str, ...] = ()
    """The mesh's own first."""
    verified: bool = True
    """By the certificate; False: the mesh runs without mutual TLS, and the address is all there is."""


def note_filter(prefix: str, names: Iterable[tuple[str, Iterable[int]]], other: str, callers: Callers) -> Any:
    """Return the filter that notes the name which some callers (by their numbers) have, or the one of all others.

    There may be thousands: the certificate's name is looked up in a table, and addresses only of those who share it.
    """
    named = [(name, [callers.peers[number] for number in numbers]) for name, numbers in names]
    config = http_rbac_pb2.RBAC(shadow_rules_stat_prefix=prefix)
    if callers.verified:
        config.shadow_matcher.CopyFrom(_by_certificate(named, other, callers.trust_domains))
    else:
        at = ((name, are(peers, callers.trust_domains, verified=False)) for name, peers in named)
        config.shadow_matcher.CopyFrom(first_of(at, _ALLOW, other))
    return http_connection_manager_pb2.HttpFilter(name=f"{METADATA}.{prefix.strip('_')}", typed_config=packed(config))


def _by_certificate(named: list[tuple[str, list[Peers]]], other: str, trust_domains: Iterable[str]) -> Any:
    at: dict[str, dict[str, list[str]]] = {}
    for name, peers in named:
        for one in peers:
            for domain in trust_domains:
                at.setdefault(one.identity.spiffe_id(domain), {}).setdefault(name, []).extend(one.addresses)
    message = matcher_pb2.Matcher()
    message.on_no_match.action.CopyFrom(_action(other, _ALLOW))
    for spiffe_id, places in sorted(at.items()):
        inner = first_of(((name, at_addresses(addresses)) for name, addresses in places.items()), _ALLOW, other)
        message.matcher_tree.exact_match_map.map[spiffe_id].matcher.CopyFrom(inner)
    if at:
        own = packed(ssl_inputs_pb2.UriSanInput())
        message.matcher_tree.input.CopyFrom(
            extension_pb2.TypedExtensionConfig(name="envoy.matching.inputs.uri_san", typed_config=own)
        )
    return message


def first_of(named: Iterable[tuple[str, Condition]], action: Any, otherwise: str = NOBODY) -> Any:
    """Return the matcher that gives the first one's name, and lets pass what none holds for under another one."""
    message = matcher_pb2.Matcher()
    for name, condition in named:
        if condition.always is True:
            message.on_no_match.action.CopyFrom(_action(name, action))
            return message
        if condition.always is None:
            field = message.matcher_list.matchers.add(predicate=condition.matcher)
            field.on_match.action.CopyFrom(_action(name, action))
    message.on_no_match.action.CopyFrom(_action(otherwise, _ALLOW))
    return message


def _action(name: str, action: Any) -> Any:
    config = rbac_pb2.Action(name=name, action=action)
    return extension_pb2.TypedExtensionConfig(name="envoy.filters.rbac.action", typed_config=packed(config))
