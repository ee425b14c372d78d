"""Rules of AuthorizationPolicies → Envoy's RBAC rules, for requests and for connections. Pure.

Envoy's policy holds if one of its principals (who) and one of its permissions (what) does; each attribute of the
vocabulary belongs to one of the two sides. What only requests have cannot be looked at in a connection: an ALLOW rule
with such a term never holds there, a DENY rule holds whatever the term would say (both as in Istio: never more open).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import metadata_pb2, path_pb2, string_pb2
from msgspec import Struct

from agent.mesh.authorization import HOST, METHOD, PATH, Action, AuthorizationPolicy, AuthorizationRule, Term
from agent.translate.claims import claim_matcher, metadata_matcher, principal_matchers
from agent.translate.connections import cidr_range
from agent.translate.decisions import rule_name
from agent.translate.patterns import pattern, pattern_text
from agent.translate.resource import packed

_LOCAL_DOMAIN = "cluster.local"
"""In a rule it means the mesh's own trust domain, too, as in Istio."""
_IDENTITY = "spiffe://"


class Scope(Struct, frozen=True):
    """Where rules are looked at."""

    trust_domains: tuple[str, ...]
    """The mesh's own first."""
    requests: bool = True
    """False: in whole connections."""


class _RequestsOnly(Exception):
    """A connection has no such attribute."""


def rbac_rules(policies: Iterable[AuthorizationPolicy], action: Action, scope: Scope) -> Any:
    """Return the rules of policies of one action (envoy.config.rbac.v3.RBAC); AUDIT and CUSTOM hold as DENY does."""
    kinds = rbac_pb2.RBAC
    message = kinds(action=kinds.DENY if action in (Action.DENY, Action.CUSTOM) else kinds.ALLOW)
    for policy in policies:
        for number, rule in enumerate(policy.rules):
            name = rule_name(policy.origin.namespace, policy.origin.name, number)
            try:
                made = _policy(rule, scope, strict=policy.action is Action.ALLOW)
            except _RequestsOnly:
                continue
            message.policies[name].CopyFrom(made)
    return message


def _policy(rule: AuthorizationRule, scope: Scope, *, strict: bool) -> Any:
    """Return one rule; raises _RequestsOnly if `strict` and it says something that a connection has not got."""
    who, what = _Side(rbac_pb2.Principal), _Side(rbac_pb2.Permission)
    sides = {each: [term for term in rule.conditions if _belongs_to(each, term.attribute)] for each in (who, what)}
    return rbac_pb2.Policy(
        principals=[_all(who, (*terms, *sides[who]), scope, strict) for terms in rule.sources or ((),)],
        permissions=[_all(what, (*terms, *sides[what]), scope, strict) for terms in rule.operations or ((),)],
    )


class _Side:
    """Principal or Permission: the same messages but for the names of what joins them."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.is_who = kind is rbac_pb2.Principal

    def all(self, parts: Sequence[Any]) -> Any:
        """Return what holds if all parts do."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return self.kind(any=True)
        return self.kind(and_ids={"ids": parts}) if self.is_who else self.kind(and_rules={"rules": parts})

    def any(self, parts: Sequence[Any]) -> Any:
        """Return what holds if one of the parts does."""
        if len(parts) == 1:
            return parts[0]
        return self.kind(or_ids={"ids": parts}) if self.is_who else self.kind(or_rules={"rules": parts})

    def none(self, parts: Sequence[Any]) -> Any:
        """Return what holds if none of the parts does."""
        joined = self.any(parts)
        return self.kind(not_id=joined) if self.is_who else self.kind(not_rule=joined)


def _all(side: _Side, terms: Iterable[Term], scope: Scope, strict: bool) -> Any:
    parts = []
    for term in terms:
        try:
            if term.values:
                parts.append(side.any([_one(side, term.attribute, value, scope) for value in term.values]))
            if term.excluded:
                parts.append(side.none([_one(side, term.attribute, value, scope) for value in term.excluded]))
        except _RequestsOnly:
            if strict:
                raise
    return side.all(parts)


_PERMISSIONS = (HOST, METHOD, PATH, "destination.ip", "destination.port", "connection.sni")
_FILTERS = "experimental.envoy.filters."


def _belongs_to(side: _Side, attribute: str) -> bool:
    is_what = attribute in _PERMISSIONS or attribute.startswith(_FILTERS)
    return side.is_who != is_what


def _one(side: _Side, attribute: str, value: str, scope: Scope) -> Any:
    """Return what holds if an attribute has a value."""
    name, _, key = attribute.partition("[")
    if not scope.requests and (name.startswith("request.") or name in (HOST, METHOD, PATH)):
        raise _RequestsOnly
    if attribute.startswith(_FILTERS):
        return _of_filter(side, attribute, value)
    build = _BUILDERS[name]
    return build(side, key.removesuffix("]"), value, scope)


def _principal(side: _Side, key: str, value: str, scope: Scope) -> Any:
    value = value.removeprefix(_IDENTITY)
    if value == "*":
        return side.kind(authenticated={})
    domain, slash, rest = value.partition("/")
    own = slash and (domain in scope.trust_domains or domain == _LOCAL_DOMAIN)
    names = [f"{each}/{rest}" for each in scope.trust_domains] if own else [value]
    matchers = (name if name.startswith("*") else f"{_IDENTITY}{name}" for name in names)
    return side.any([_named(side, pattern(name)) for name in matchers])


def _named(side: _Side, matcher: Any) -> Any:
    return side.kind(authenticated={"principal_name": matcher})


def _by_identity(form: str) -> Callable[[_Side, str, str, Scope], Any]:
    """Match a part of the SPIFFE ID; `form` says where in it the value stands."""

    def build(side: _Side, key: str, value: str, scope: Scope) -> Any:
        namespace, _, account = value.partition("/")
        parts = {"value": pattern_text(value, "[^/]*"), "ns": re.escape(namespace), "sa": re.escape(account)}
        return _named(side, string_pb2.StringMatcher(safe_regex={"regex": form.format(**parts)}))

    return build


def _address(field: str) -> Callable[[_Side, str, str, Scope], Any]:
    def build(side: _Side, key: str, value: str, scope: Scope) -> Any:
        return side.kind(**{field: cidr_range(ip_network(value, strict=False))})

    return build


def _port(side: _Side, key: str, value: str, scope: Scope) -> Any:
    return side.kind(destination_port=int(value))


def _server_name(side: _Side, key: str, value: str, scope: Scope) -> Any:
    return side.kind(requested_server_name=pattern(value))


def _header(name: str, *, ignore_case: bool = False) -> Callable[[_Side, str, str, Scope], Any]:
    def build(side: _Side, key: str, value: str, scope: Scope) -> Any:
        matcher = route_components_pb2.HeaderMatcher(name=name or key)
        if value == "*":
            matcher.present_match = True
        else:
            matcher.string_match.CopyFrom(pattern(value, ignore_case=ignore_case))
        return side.kind(header=matcher)

    return build


def _inline_header(side: _Side, key: str, value: str, scope: Scope) -> Any:
    """Match one of the values of a header that holds several, with commas between them."""
    matcher = route_components_pb2.HeaderMatcher(name=key)
    matcher.string_match.safe_regex.regex = f"(.*,)?\\s*{pattern_text(value, '[^,]*')}\\s*(,.*)?"
    return side.kind(header=matcher)


def _path(side: _Side, key: str, value: str, scope: Scope) -> Any:
    if "{*}" in value or "{**}" in value:
        template = value.replace("{**}", "**").replace("{*}", "*")
        config = uri_template_match_pb2.UriTemplateMatchConfig(path_template=template)
        name = "envoy.path.match.uri_template.uri_template_matcher"
        return side.kind(uri_template={"name": name, "typed_config": packed(config)})
    return side.kind(url_path=path_pb2.PathMatcher(path=pattern(value)))


def _request_principal(side: _Side, key: str, value: str, scope: Scope) -> Any:
    return side.any([side.all([side.kind(metadata=one) for one in both]) for both in principal_matchers(value)])


def _claim(*path: str) -> Callable[[_Side, str, str, Scope], Any]:
    """Match a claim of the request's token; without a path the key says which, `a][b` one inside another."""

    def build(side: _Side, key: str, value: str, scope: Scope) -> Any:
        return side.kind(metadata=claim_matcher(path or tuple(key.split("][")), value))

    return build


def _of_filter(side: _Side, attribute: str, value: str) -> Any:
    """Match what a filter of Envoy's has noted; `[value]`: one of a list."""
    name, _, key = attribute.removeprefix("experimental.").partition("[")
    in_list = value.startswith("[") and value.endswith("]")
    text = metadata_pb2.MetadataMatcher().value
    if in_list:
        text.list_match.one_of.string_match.CopyFrom(pattern(value[1:-1]))
    else:
        text.string_match.CopyFrom(pattern(value))
    return side.kind(metadata=metadata_matcher(name, (key.removesuffix("]"),), text))


_BUILDERS: dict[str, Callable[[_Side, str, str, Scope], Any]] = {
    "source.principal": _principal,
    "source.namespace": _by_identity("spiffe://[^/]+/ns/{value}/sa/.+"),
    "source.serviceAccount": _by_identity("spiffe://[^/]+/ns/{ns}/sa/{sa}"),
    "source.trustDomain": _by_identity("spiffe://{value}/.+"),
    "source.ip": _address("direct_remote_ip"),
    "remote.ip": _address("remote_ip"),
    "destination.ip": _address("destination_ip"),
    "destination.port": _port,
    "connection.sni": _server_name,
    "request.auth.principal": _request_principal,
    "request.auth.audiences": _claim("aud"),
    "request.auth.presenter": _claim("azp"),
    "request.auth.claims": _claim(),
    "request.headers": _header(""),
    "request.experimental.inline.headers": _inline_header,
    HOST: _header(":authority", ignore_case=True),
    METHOD: _header(":method"),
    PATH: _path,
}
