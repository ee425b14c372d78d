"""What stands before a workload's or a gateway's own filters and decides who may pass. Pure.

In the order of Istio: who the request's user is, CUSTOM, DENY, ALLOW, then Mixer's rules. Where no policy is for a
workload there is nothing: not one filter more on the way of its requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from msgspec import Struct, structs

from agent.mesh.authorization import Action, AuthorizationPolicy
from agent.mesh.security import WorkloadRules
from agent.translate.asked import AskedServers
from agent.translate.custom import Asked, connection_authorizer, http_authorizer
from agent.translate.decisions import HTTP_RBAC, NETWORK_RBAC, decision_log
from agent.translate.log_lines import line_log
from agent.translate.mixer_guard import Reply
from agent.translate.rbac import Scope, rbac_rules
from agent.translate.resource import packed
from agent.translate.tokens import token_filter

_HTTP_AUTHORIZER = "envoy.filters.http.ext_authz"
_ORDER = (Action.AUDIT, Action.DENY, Action.ALLOW)
_HttpFilter = http_connection_manager_pb2.HttpFilter


class Guard(Struct, frozen=True):
    """Filters before all others, and what goes with them."""

    filters: tuple[Any, ...] = ()
    """HttpFilter of requests, Filter of connections."""
    logs: tuple[Any, ...] = ()
    """envoy.config.accesslog.v3.AccessLog: of what AUDIT or a dry run is about, and what Mixer's rules write."""
    clusters: tuple[str, ...] = ()
    """Of the servers that the filters ask."""
    replies: tuple[Reply, ...] = ()
    """What clients are told that Mixer's rules refuse."""

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is looked at."""
        return not self.filters


def http_guard(rules: WorkloadRules, servers: AskedServers, *, secured: bool = False) -> Guard:
    """Return what requests to a workload must pass; `secured`: they come over the mesh's mutual TLS."""
    guard = _guard(rules.authorizations, Scope(servers.trust_domains), HTTP_RBAC, servers)
    mixing = servers.mixing(rules.policies) if rules.policies else None
    if mixing is not None:
        mixed = mixing.of_requests(secured)
        guard = Guard((*guard.filters, *mixed.filters), guard.logs, guard.clusters, mixed.replies)
    streams = servers.streams(rules.logs) if rules.logs else None
    if streams is not None and streams.requests is not None:
        guard = structs.replace(guard, logs=(*guard.logs, line_log(streams.requests, servers.entry_log)))
    if not rules.token_rules:
        return guard
    fetched = (servers.key_sources.get(rule.keys_uri) for rule in rules.token_rules if not rule.keys)
    filters = (token_filter(rules.token_rules, servers.key_sources), *guard.filters)
    clusters = (*(source.cluster for source in fetched if source), *guard.clusters)
    return structs.replace(guard, filters=filters, clusters=clusters)


def connection_guard(rules: WorkloadRules, servers: AskedServers, *, secured: bool = False) -> Guard:
    """Return what connections to a workload must pass, where they are no requests."""
    scope = Scope(servers.trust_domains, requests=False)
    guard = _guard(rules.authorizations, scope, NETWORK_RBAC, servers)
    mixing = servers.mixing(rules.policies) if rules.policies else None
    more = mixing.of_connections(secured).filters if mixing else ()
    streams = servers.streams(rules.logs) if rules.logs else None
    if streams is not None and streams.connections is not None:
        guard = structs.replace(guard, logs=(*guard.logs, line_log(streams.connections, servers.entry_log)))
    return structs.replace(guard, filters=(*guard.filters, *more)) if more else guard


def looks_at_server_names(rules: WorkloadRules) -> bool:
    """Tell whether a policy wants the server name that a TLS client asks for."""
    every = (rule for policy in rules.authorizations for rule in policy.rules)
    return any(term.attribute == "connection.sni" for rule in every for term in rule.conditions)


def _guard(policies: Iterable[AuthorizationPolicy], scope: Scope, owner: str, servers: AskedServers) -> Guard:
    every, filters, logs, clusters = tuple(policies), list[Any](), list[Any](), list[str]()
    for name in dict.fromkeys(one.provider for one in every if one.action is Action.CUSTOM):
        asking = rbac_rules((one for one in every if one.provider == name), Action.CUSTOM, scope)
        filters += _custom(asking, scope, owner, len(filters), servers.authorizers.get(name))
        clusters += [servers.authorizers[name].cluster] if name in servers.authorizers else []
    for action in _ORDER:
        for tried in (True, False):
            chosen = tuple(one for one in every if one.action is action and one.dry_run is tried)
            if not chosen:
                continue
            told = tried or action is Action.AUDIT
            word = ("dry_run_" if tried else "") + action.lower()
            filters.append(_filter(rbac_rules(chosen, action, scope), scope, word if told else ""))
            if told:
                logs.append(decision_log(owner, word, "denied" if tried else "allowed", servers.decision_log))
    return Guard(tuple(filters), tuple(logs), tuple(clusters))


def _custom(rules: Any, scope: Scope, owner: str, number: int, asked: Asked | None) -> list[Any]:
    """Return the filters that ask about what the rules hold for; what nobody can be asked about is refused."""
    word = f"ext_authz_{number}"
    if asked is None:
        return [_filter(rules, scope, "")]
    if scope.requests:
        config = http_authorizer(asked, owner, word)
        return [_filter(rules, scope, word), _HttpFilter(name=f"{_HTTP_AUTHORIZER}.{word}", typed_config=config)]
    config = connection_authorizer(asked, owner, word)
    if config is None:
        return [_filter(rules, scope, "")]
    found = listener_components_pb2.Filter(name="envoy.filters.network.ext_authz", typed_config=config)
    return [_filter(rules, scope, word), found]


def _filter(rules: Any, scope: Scope, shadow: str) -> Any:
    """Return an RBAC filter that enforces the rules, or (`shadow`) only notes under that name what they would do."""
    fields = {"shadow_rules": rules, "shadow_rules_stat_prefix": f"{shadow}_"} if shadow else {"rules": rules}
    if scope.requests:
        return _HttpFilter(name=_named(HTTP_RBAC, shadow), typed_config=packed(http_rbac_pb2.RBAC(**fields)))
    config = network_rbac_pb2.RBAC(stat_prefix="inbound_", **fields)
    return listener_components_pb2.Filter(name=NETWORK_RBAC, typed_config=packed(config))


def _named(name: str, shadow: str) -> str:
    return f"{name}.{shadow}" if shadow else name
