"""What is found wrong with rules about who may talk to whom."""

from __future__ import annotations

import pytest

from tests.unit.test_api_analysis import DR, GW, STRICT, found

SECURITY = "apiVersion: security.istio.io/v1\nmetadata: {name: x, namespace: NAMESPACE}\nkind: KIND\nspec:\n  "


def guarding(kind: str, spec: str, namespace: str = "default") -> str:
    return SECURITY.replace("KIND", kind).replace("NAMESPACE", namespace) + spec + "\n"


def test_clients_and_servers_at_odds_about_tls() -> None:
    plain = f"{DR}  host: reviews\n  trafficPolicy: {{tls: {{mode: DISABLE}}}}\n"
    mesh = f"{DR}  host: reviews\n  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}\n"
    strict, off = (guarding("PeerAuthentication", f"mtls: {{mode: {mode}}}") for mode in ("STRICT", "DISABLE"))
    conflict = "IST0113 spec.trafficPolicy.tls.mode"
    assert [conflict in found(*texts) for texts in ((plain, strict), (mesh, off))] == [True, True]
    assert [conflict in found(*texts) for texts in ((mesh, strict), (plain, off))] == [False, False]
    permissive = guarding("PeerAuthentication", "mtls: {mode: PERMISSIVE}")
    assert conflict not in found(plain, permissive, mesh=STRICT), "the namespace comes before the mesh"


@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication"])
def test_policies_that_select_nobody(kind: str) -> None:
    nobody = "selector: {matchLabels: {app: no-such-app}}"
    assert "IST0127 spec.selector" in found(guarding(kind, nobody))
    somebody = guarding(kind, "selector: {matchLabels: {version: v1}}")
    assert "IST0127 spec.selector" not in found(somebody)
    assert "IST0127 spec.selector" in found(somebody.replace("namespace: default", "namespace: elsewhere"))
    assert found(guarding(kind, "{}")) == []


def test_policies_of_gateways_and_services_and_their_authorizers() -> None:
    gateway = f"{GW.replace('NAME', 'edge')}  - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['*']}}\n"
    policy = guarding("AuthorizationPolicy", "selector: {matchLabels: {istio: ingressgateway}}", "istio-system")
    assert "IST0127 spec.selector" not in found(policy, gateway)
    lost = "targetRefs: [{kind: Service, group: '', name: NAME}]"
    assert "IST0101 spec.targetRefs" in found(guarding("AuthorizationPolicy", lost.replace("NAME", "nobody")))
    assert "IST0101 spec.targetRefs" not in found(guarding("AuthorizationPolicy", lost.replace("NAME", "reviews")))
    custom = "{action: CUSTOM, provider: {name: who}, rules: [{}]}"
    assert "IST0101 spec.provider.name" in found(guarding("AuthorizationPolicy", custom))


def test_key_sets_that_no_token_can_be_verified_by() -> None:
    spec = "jwtRules: [{issuer: a, jwks: '{\"keys\": [KEY]}'}]"
    unusable, usable = ('{"kty": "EC", "crv": "secp256k1"}', '{"kty": "oct", "k": "Zm9v"}')
    told = [found(guarding("RequestAuthentication", spec.replace("KEY", key))) for key in (unusable, usable)]
    assert told == [["HM0101 spec.jwtRules[0].jwks"], []]
