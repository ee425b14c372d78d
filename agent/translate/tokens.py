"""TokenRules → Envoy's JWT filter. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2

from agent.mesh.key_set import NOBODYS_KEY, usable_keys
from agent.mesh.tokens import TokenRule
from agent.translate.claims import JWT_FILTER, PAYLOAD
from agent.translate.key_sets import KeySource
from agent.translate.resource import packed, seconds

RETRY_SECONDS = 2.0
_SPACED = ("scope", "permission")
_Requirement = config_pb2.JwtRequirement


def token_filter(rules: Sequence[TokenRule], key_sources: Mapping[str, KeySource]) -> Any:
    """Return the HTTP filter; where to ask for key sets is said by their addresses.

    A rule whose key set nobody can be asked for, or has no key that Envoy can use, believes no token.
    """
    config = config_pb2.JwtAuthentication(bypass_cors_preflight=True)
    named = {f"token-{number}": rule for number, rule in enumerate(sorted(rules, key=lambda rule: rule.issuer))}
    for name, rule in named.items():
        config.providers[name].CopyFrom(_provider(rule, key_sources.get(rule.keys_uri)))
    matched = config.rules.add(requires=_requirement(named))
    matched.match.prefix = "/"
    return http_connection_manager_pb2.HttpFilter(name=JWT_FILTER, typed_config=packed(config))


def _requirement(named: Mapping[str, TokenRule]) -> Any:
    """Return which tokens a request must have: good ones only, and those that are required.

    One good token is enough if none is required, whatever else the request bears (as in Istio).
    """
    each = [
        _Requirement(provider_name=name) if rule.required else _any(name, missing=True) for name, rule in named.items()
    ]
    if len(each) == 1:
        return each[0]
    every = _Requirement(requires_all={"requirements": each})
    if any(rule.required for rule in named.values()):
        return every
    return _Requirement(requires_any={"requirements": [*(_Requirement(provider_name=n) for n in named), every]})


def _any(name: str, *, missing: bool) -> Any:
    choices = [_Requirement(provider_name=name), *([_Requirement(allow_missing={})] if missing else [])]
    return _Requirement(requires_any={"requirements": choices})


def _provider(rule: TokenRule, source: KeySource | None) -> Any:
    provider = config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        forward=rule.forward,
        forward_payload_header=rule.payload_header,
        payload_in_metadata=PAYLOAD,
        from_params=rule.parameters,
        from_cookies=rule.cookies,
        # Routes may look at claims.
        clear_route_cache=True,
    )
    provider.normalize_payload_in_metadata.space_delimited_claims.extend(dict.fromkeys((*_SPACED, *rule.spaced_claims)))
    for name, prefix in rule.headers:
        provider.from_headers.add(name=name, value_prefix=prefix)
    for name, claim in rule.claim_headers:
        provider.claim_to_headers.add(header_name=name, claim_name=claim)
    if rule.keys or source is None:
        provider.local_jwks.inline_string = usable_keys(rule.keys) or NOBODYS_KEY
        return provider
    remote = provider.remote_jwks
    remote.http_uri.uri, remote.http_uri.cluster = source.uri, source.cluster
    remote.http_uri.timeout.CopyFrom(seconds(rule.timeout))
    remote.cache_duration.CopyFrom(seconds(source.refresh))
    remote.async_fetch.failed_refetch_duration.CopyFrom(seconds(RETRY_SECONDS))
    return provider
