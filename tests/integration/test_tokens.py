"""RequestAuthentication with a real Envoy: which tokens are believed, from where, and what policies know of them."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator

import pytest

from tests.integration.guarded_mesh import Guarded
from tests.integration.token_issuer import TokenIssuer
from tests.ports import free_port

ISSUER, OTHER = TokenIssuer("https://issuer.test/realm"), TokenIssuer("other@issuer.test")
AUTHENTICATION = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n"
POLICY = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"


def rule(issuer: TokenIssuer = ISSUER, **said: object) -> dict[str, object]:
    return {"issuer": issuer.name, "jwks": issuer.key_set, **said}


def believing(*rules: dict[str, object], name: str = "tokens") -> str:
    return f"{AUTHENTICATION}metadata: {{name: {name}}}\nspec: {json.dumps({'jwtRules': rules})}\n"


def allowing(path: str, said: str) -> str:
    name = f"allow-{abs(hash((path, said)))}"
    return (
        f"{POLICY}metadata: {{name: {name}}}\nspec:\n  rules: [{{to: [{{operation: {{paths: [{path}]}}}}], {said}}}]\n"
    )


def bearer(token: str) -> str:
    return f"Bearer {token}"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    host = Guarded(tmp_path_factory.mktemp("tokens"))
    with host.applications():
        yield host


def test_good_tokens_pass_bad_ones_do_not_and_none_is_nobody(host: Guarded) -> None:
    with host.serving(believing(rule(audiences=["books"]))):
        assert host.status() == 200, "without a token"
        assert host.status(authorization=bearer(ISSUER.token(aud="books"))) == 200
        assert host.status(authorization=bearer(ISSUER.token(aud=["x", "books"]))) == 200
        assert host.status(f"/?access_token={ISSUER.token(aud='books')}") == 200
        for wrong in (ISSUER.token(aud="x"), ISSUER.token(), OTHER.token(aud="books"), "x.y.z"):
            assert host.status(authorization=bearer(wrong)) in (401, 403)
        assert host.status(authorization=bearer(ISSUER.token(aud="books", lifetime=-3600))) == 401
        forged = TokenIssuer(ISSUER.name).token(aud="books")
        assert host.status(authorization=bearer(forged)) == 401
        for kind, token in tricky(ISSUER.token("mallory", aud="books")).items():
            assert host.status(authorization=bearer(token)) == 401, kind
        later = ISSUER.token(aud="books", nbf=int(time.time()) + 3600)
        assert host.status(authorization=bearer(later)) == 401
        assert host.greets(), "connections have no tokens"


def tricky(token: str) -> dict[str, str]:
    """Return tokens that say what a good one says, or more, and are not signed by its key."""
    _, payload, signature = token.split(".")
    more = _text({**json.loads(base64.urlsafe_b64decode(payload + "==")), "sub": "admin"})
    by_secret = f"{_text({'alg': 'HS256', 'kid': ISSUER.name})}.{payload}"
    code = hmac.new(ISSUER.key_set.encode(), by_secret.encode(), "sha256").digest()
    return {
        "unsigned": f"{_text({'alg': 'none'})}.{payload}.",
        "unsigned, with a signature": f"{_text({'alg': 'none'})}.{payload}.{signature}",
        "signed with the public key as a secret": f"{by_secret}.{base64.urlsafe_b64encode(code).rstrip(b'=').decode()}",
        "another payload": f"{token.split('.')[0]}.{more}.{signature}",
        "no signature": f"{token.rpartition('.')[0]}.",
        "its own key": f"{_text({'alg': 'ES256', 'jwk': json.loads(OTHER.key_set)['keys'][0]})}.{payload}.{signature}",
        "large": f"{token}{'A' * 20_000}",
    }


def _text(plain: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).rstrip(b"=").decode()


def test_a_rule_without_a_key_that_can_be_used_believes_no_token_and_costs_nothing_else(host: Guarded) -> None:
    keys = '{"keys": [{"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ"}]}'
    with host.serving(believing(rule(jwks=keys), rule(OTHER))):
        assert "its tokens are refused" in host.said
        assert host.status(authorization=bearer(ISSUER.token())) == 401
        assert host.status(authorization=bearer(OTHER.token())) == 200
        assert host.status() == 200


def test_where_tokens_are_and_what_the_application_gets(host: Guarded) -> None:
    rules = rule(
        fromHeaders=[{"name": "x-token", "prefix": "Key "}],
        fromParams=["token"],
        fromCookies=["session"],
        outputPayloadToHeader="x-payload",
        outputClaimToHeaders=[{"header": "x-user", "claim": "sub"}, {"header": "x-city", "claim": "home.city"}],
        forwardOriginalToken=True,
    )
    token = ISSUER.token(home={"city": "Ulm"})
    with host.serving(believing(rules)):
        for path, headers in (
            ("/", {"x_token": f"Key {token}"}),
            (f"/?token={token}", {}),
            ("/", {"cookie": f"session={token}"}),
        ):
            seen = host.ask(path, **headers).request_headers
            assert (seen["x-user"], seen["x-city"]) == ("alice", "Ulm")
            payload = seen["x-payload"] + "=" * (-len(seen["x-payload"]) % 4)
            assert json.loads(base64.urlsafe_b64decode(payload))["iss"] == ISSUER.name
        assert host.ask("/", x_token=f"Key {token}").request_headers["x-token"] == f"Key {token}"
        assert host.status(authorization=bearer("nonsense")) == 200, "not looked at there"
        assert "x-user" not in host.ask("/", x_user="forged").request_headers, "what a client made up"
    with host.serving(believing(rule())):
        assert "authorization" not in host.ask("/", authorization=bearer(token)).request_headers


CLAIMS = [
    ("from: [{source: {requestPrincipals: ['*']}}]", True),
    ("from: [{source: {requestPrincipals: ['https://issuer.test/realm/alice']}}]", True),
    ("from: [{source: {requestPrincipals: ['https://issuer.test/realm/*']}}]", True),
    ("from: [{source: {requestPrincipals: ['https://issuer*']}}]", True),
    ("from: [{source: {requestPrincipals: ['*/alice']}}]", True),
    ("from: [{source: {requestPrincipals: ['https://issuer.test/alice', '*bob']}}]", False),
    ("from: [{source: {notRequestPrincipals: ['*']}}]", False),
    ("when: [{key: request.auth.principal, values: ['https://issuer.test/realm/alice']}]", True),
    ("when: [{key: request.auth.audiences, values: [books]}]", True),
    ("when: [{key: request.auth.audiences, values: [book]}]", False),
    ("when: [{key: request.auth.presenter, values: ['web*']}]", True),
    ("when: [{key: 'request.auth.claims[groups]', values: [admin]}]", True),
    ("when: [{key: 'request.auth.claims[groups]', values: ['ad*']}]", True),
    ("when: [{key: 'request.auth.claims[groups]', notValues: [admin]}]", False),
    ("when: [{key: 'request.auth.claims[realm][roles]', values: [reader]}]", True),
    ("when: [{key: 'request.auth.claims[realm][none]', values: ['*']}]", False),
    ("when: [{key: 'request.auth.claims[scope]', values: [write]}]", True),
    ("when: [{key: 'request.auth.claims[tags]', values: [b]}]", True),
    ("when: [{key: 'request.auth.claims[name]', values: [b]}]", False),
    ("when: [{key: 'request.auth.claims[https://claims.test/x]', values: ['1']}]", True),
]


def test_what_policies_know_of_a_token(host: Guarded) -> None:
    rules = believing(rule(spaceDelimitedClaims=["tags"]))
    rules += "".join(allowing(f"/{number}", said) for number, (said, _) in enumerate(CLAIMS))
    token = ISSUER.token(
        aud=["books", "music"],
        azp="web-shop",
        groups=["admin", "staff"],
        realm={"roles": ["reader"]},
        scope="read write",
        tags="a b",
        name="a b",
        more={"https://claims.test/x": "1"},
    )
    with host.serving(rules):
        for number, (said, holds) in enumerate(CLAIMS):
            status = host.status(f"/{number}", authorization=bearer(token))
            assert status == (200 if holds else 403), said
        assert host.status("/0") == 403, "nobody without a token"


def test_several_issuers_and_required_tokens(host: Guarded) -> None:
    elsewhere: dict[str, object] = {"fromHeaders": [{"name": "x-scope"}]}
    both = {"authorization": bearer(ISSUER.token()), "x_scope": OTHER.token()}
    one = {"authorization": both["authorization"]}
    wrong = {**one, "x_scope": "nonsense"}
    with host.serving(believing(rule(), rule(OTHER))):
        for issuer in (ISSUER, OTHER):
            assert host.status(authorization=bearer(issuer.token())) == 200
        assert host.status(authorization=bearer(TokenIssuer("x").token())) == 401
        assert host.status() == 200
    with host.serving(believing(rule(presence="REQUIRED"), name="a") + believing(rule(OTHER, **elsewhere), name="b")):
        assert [host.status(**sent) for sent in (one, both, wrong, {})] == [200, 200, 401, 401]
        assert host.status(x_scope=OTHER.token()) == 401, "an optional one does not stand for it"
    required = believing(rule(presence="REQUIRED"), rule(OTHER, presence="REQUIRED", **elsewhere))
    with host.serving(required):
        assert [host.status(**sent) for sent in (both, one, {})] == [200, 401, 401]


def test_a_key_set_is_fetched_and_kept_while_its_source_is_away(host: Guarded) -> None:
    port, unused = free_port(), free_port()
    host.services = f"""- name: issuer
  ports: [{{name: http, port: {unused}}}]
  instances: [{{node: server}}]
"""
    fetched: dict[str, object] = {"issuer": ISSUER.name, "jwksUri": f"http://127.0.0.1:{port}/keys", "timeout": "2s"}
    of_mesh: dict[str, object] = {
        "issuer": OTHER.name,
        "jwksUri": f"http://issuer.default.svc.cluster.local:{unused}/keys",
    }
    try:
        with OTHER.publishing(host.server, unused), host.serving(believing(fetched, of_mesh)):
            assert host.status(authorization=bearer(ISSUER.token())) == 401, "nobody has the keys yet"
            assert host.status(authorization=bearer(OTHER.token())) == 200, "a service of the mesh"
            with ISSUER.publishing("127.0.0.1", port):
                deadline = time.monotonic() + 20
                while host.status(authorization=bearer(ISSUER.token())) != 200:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert host.status(authorization=bearer(ISSUER.token())) == 200, "the source is away"
            assert host.status(authorization=bearer(TokenIssuer(ISSUER.name).token())) == 401
    finally:
        host.services = ""
