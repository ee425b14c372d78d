"""The security kinds to the mesh's own. Pure; only for specs that validation found nothing wrong with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.api.checks.durations import seconds
from agent.api.envelope import Document
from agent.api.specs.authorization_policy import DRY_RUN, TRUE
from agent.mesh.authentication import PeerAuthentication
from agent.mesh.authorization import HOST, METHOD, PATH, Action, AuthorizationPolicy, AuthorizationRule, Target, Term
from agent.mesh.service import Labels, MtlsMode, labels_of
from agent.mesh.tokens import RequestAuthentication, TokenRule

_MODES = {"DISABLE": MtlsMode.DISABLED, "PERMISSIVE": MtlsMode.PERMISSIVE, "STRICT": MtlsMode.STRICT}
_SOURCE = {
    "principals": "source.principal",
    "requestPrincipals": "request.auth.principal",
    "namespaces": "source.namespace",
    "serviceAccounts": "source.serviceAccount",
    "trustDomains": "source.trustDomain",
    "ipBlocks": "source.ip",
    "remoteIpBlocks": "remote.ip",
}
_OPERATION = {"hosts": HOST, "ports": "destination.port", "methods": METHOD, "paths": PATH}


def lower_peers(document: Document) -> PeerAuthentication:
    """Return what a PeerAuthentication says."""
    spec = document.spec
    ports = {int(number): _mode(mtls) for number, mtls in (spec.get("portLevelMtls") or {}).items()}
    return PeerAuthentication(document.ref, _selector(spec), _mode(spec.get("mtls")), tuple(sorted(ports.items())))


def lower_authorization(document: Document) -> AuthorizationPolicy:
    """Return what an AuthorizationPolicy says; a service account without a namespace is in the policy's own."""
    spec = document.spec
    return AuthorizationPolicy(
        document.ref,
        Action(spec.get("action") or "ALLOW"),
        target_of(document),
        tuple(_rule(rule or {}, document.namespace) for rule in spec.get("rules") or ()),
        (spec.get("provider") or {}).get("name") or "",
        document.annotations.get(DRY_RUN) in TRUE,
    )


def lower_tokens(document: Document) -> RequestAuthentication:
    """Return what a RequestAuthentication says."""
    rules = tuple(_token_rule(rule or {}) for rule in document.spec.get("jwtRules") or ())
    return RequestAuthentication(document.ref, target_of(document), rules)


def _token_rule(rule: Mapping[str, Any]) -> TokenRule:
    return TokenRule(
        rule.get("issuer") or "",
        tuple(rule.get("audiences") or ()),
        rule.get("jwks") or "",
        rule.get("jwksUri") or "",
        seconds(rule.get("timeout") or "5s"),
        tuple((each["name"], each.get("prefix") or "") for each in rule.get("fromHeaders") or ()),
        tuple(rule.get("fromParams") or ()),
        tuple(rule.get("fromCookies") or ()),
        rule.get("forwardOriginalToken") or False,
        rule.get("outputPayloadToHeader") or "",
        tuple((each["header"], each["claim"]) for each in rule.get("outputClaimToHeaders") or ()),
        tuple(rule.get("spaceDelimitedClaims") or ()),
        rule.get("presence") == "REQUIRED",
    )


def _rule(rule: Mapping[str, Any], namespace: str) -> AuthorizationRule:
    conditions = (
        _term(each["key"], each.get("values"), each.get("notValues"), namespace) for each in rule.get("when") or ()
    )
    return AuthorizationRule(
        tuple(tuple(_terms(each["source"], _SOURCE, namespace)) for each in rule.get("from") or ()),
        tuple(tuple(_terms(each["operation"], _OPERATION, namespace)) for each in rule.get("to") or ()),
        tuple(conditions),
    )


def _terms(said: Mapping[str, Any], attributes: Mapping[str, str], namespace: str) -> Iterator[Term]:
    for field, attribute in attributes.items():
        values, excluded = said.get(field), said.get(f"not{field[0].upper()}{field[1:]}")
        if values or excluded:
            yield _term(attribute, values, excluded, namespace)


def _term(attribute: str, values: list[str] | None, excluded: list[str] | None, namespace: str) -> Term:
    every = [tuple(values or ()), tuple(excluded or ())]
    if attribute == "source.serviceAccount":
        every = [tuple(name if "/" in name else f"{namespace}/{name}" for name in names) for names in every]
    return Term(attribute, *every)


def target_of(document: Document) -> Target:
    """Return which workloads a policy is for."""
    spec = document.spec
    references = [*(spec.get("targetRefs") or ()), *([spec["targetRef"]] if spec.get("targetRef") else [])]
    return Target(document.namespace, _selector(spec), tuple(each["name"] for each in references))


def _mode(mtls: Mapping[str, Any] | None) -> MtlsMode | None:
    return _MODES.get((mtls or {}).get("mode", ""))


def _selector(spec: Mapping[str, Any]) -> Labels:
    return labels_of((spec.get("selector") or {}).get("matchLabels") or {})
