"""The Workload API's own look at JWT-SVIDs, at tokens made by a JWT library that is not ours; and their reuse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.workload_api.jwt_svid import validated
from agent.adapters.workload_api.tokens import BURST, IssuedJwt, Tokens, TooMany
from agent.errors import CaRefused, CaUnavailable
from tests.unit.ca_files import p384, rsa_key
from tests.unit.ca_requests import p256

NOW = 1_800_000_000.0
DOMAIN = "spiffe://cluster.local"
SUBJECT = f"{DOMAIN}/ns/default/sa/reviews"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
ES256, ES384, RS256, STRANGER = p256(), p384(), rsa_key(), p256()
CLAIMS: dict[str, Any] = {"sub": SUBJECT, "aud": ["db", "queue"], "exp": NOW + 60, "iat": NOW}


def jwk(key: Key, algorithm: str) -> dict[str, Any]:
    """Return a public key in the words of PyJWT."""
    kinds = {"ES256": jwt.algorithms.ECAlgorithm, "RS256": jwt.algorithms.RSAAlgorithm}
    made: dict[str, Any] = kinds[algorithm[:2] + "256"].to_jwk(key.public_key(), as_dict=True)  # type: ignore[attr-defined]
    return {name: value for name, value in made.items() if isinstance(value, str)} | {
        "kid": algorithm,
        "alg": algorithm,
    }


JWKS = json.dumps({"keys": [jwk(ES256, "ES256"), jwk(ES384, "ES384"), jwk(RS256, "RS256")]}).encode()
KEYS: dict[str, Key] = {"ES256": ES256, "ES384": ES384, "RS256": RS256}


def token(
    algorithm: str = "ES256", headers: dict[str, Any] | None = None, key: Key | None = None, **changed: Any
) -> str:
    claims = {name: value for name, value in (CLAIMS | changed).items() if value is not None}
    return jwt.encode(claims, key or KEYS[algorithm], algorithm, headers={"kid": algorithm} | (headers or {}))


def look(text: str, audience: str = "db", now: float = NOW) -> Any:
    return validated(text, JWKS, DOMAIN, audience, now)


@pytest.mark.parametrize("algorithm", KEYS)
def test_good_tokens(algorithm: str) -> None:
    assert look(token(algorithm)) == CLAIMS
    assert look(token(algorithm, aud="db"))["aud"] == "db"
    assert look(token(algorithm, headers={"typ": "JOSE"}))["sub"] == SUBJECT


def _headed(key: bytes = b"", **header: str) -> str:
    """Return a token with this header, signed by HMAC with the key."""
    head, body = _encoded({"typ": "JWT"} | header), token().split(".")[1]
    return f"{head}.{body}.{_base64(hmac.digest(key, f'{head}.{body}'.encode(), hashlib.sha256))}"


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _hmac_by_the_public_key() -> str:
    """The classic: the published key as the secret of an HMAC."""
    public = ES256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _headed(public, alg="HS256", kid="ES256")


def _part(text: str, index: int, value: str) -> str:
    parts = text.split(".")
    parts[index] = value
    return ".".join(parts)


def _zeros() -> str:
    """CVE-2022-21449: a signature of zeros."""
    return _part(token(), 2, _base64(bytes(64)))


BAD = {
    "none": (lambda: _part(_headed(alg="none", kid="ES256"), 2, ""), "alg"),
    "hmac": (_hmac_by_the_public_key, "alg"),
    "a stranger's": (lambda: token(key=STRANGER), "signature"),
    "zeros": (_zeros, "signature"),
    "no signature": (lambda: _part(token(), 2, ""), "signature"),
    "another key's name": (lambda: token(headers={"kid": "RS256"}), "alg"),
    "an unknown key": (lambda: token(headers={"kid": "x"}), "none of this mesh's"),
    "no key": (lambda: _headed(alg="ES256"), "none of this mesh's"),
    "another type": (lambda: token(headers={"typ": "at+jwt"}), "typ"),
    "critical": (lambda: token(headers={"crit": ["x"]}), "crit"),
    "ended": (lambda: token(exp=NOW), "ended"),
    "without an end": (lambda: token(exp=None), "ended"),
    "not begun": (lambda: token(nbf=NOW + 1), "not begun"),
    "another audience": (lambda: token(aud=["other"]), "not for 'db'"),
    "part of an audience": (lambda: token(aud="dbx"), "not for 'db'"),
    "no audience": (lambda: token(aud=None), "not for 'db'"),
    "another domain": (lambda: token(sub="spiffe://cluster.local.evil/x"), "no SPIFFE ID"),
    "the domain alone": (lambda: token(sub=DOMAIN), "no SPIFFE ID"),
    "nobody": (lambda: token(sub=None), "no SPIFFE ID"),
    "two parts": (lambda: token().rpartition(".")[0], "no JWT"),
    "five parts": (lambda: token() + ".a.b", "no JWT"),
    "not base64": (lambda: _part(token(), 1, "***"), "no JWT"),
    "not JSON": (lambda: _part(token(), 1, "AAAA"), "claims cannot be read"),
    "a list": (lambda: _part(token(), 0, "W10"), "header cannot be read"),
    "deep": (
        lambda: _part(token(), 1, _base64(b'{"a":' + b"[" * 9000)),
        "claims",
    ),
    "huge": (lambda: "x" * 20_000, "at most"),
    "empty": (lambda: "", "no JWT"),
    "not ASCII": (lambda: _part(token(), 1, "ä"), "no JWT"),
}


@pytest.mark.parametrize(("make", "reason"), BAD.values(), ids=BAD)
def test_bad_tokens_are_refused_in_one_line(make: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        look(make())
    assert re.search(reason, str(caught.value))
    assert "\n" not in str(caught.value)


@given(st.integers(0, 10_000), st.sampled_from("AZaz09-_."))
def test_a_changed_token_is_refused(at: int, letter: str) -> None:
    good = GOOD
    at %= len(good) - 1  # the last letter has bits that count for nothing
    if good[at] == letter:
        return
    with pytest.raises(ValueError, match="it"):
        look(good[:at] + letter + good[at + 1 :])


GOOD = token("RS256")


@given(st.text(max_size=200))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it"):
        look(text)


class Ca:
    """What asks for tokens: counts, and may be away."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.away: Exception | None = None
        self.tokens = Tokens(self.ask, lambda: self.now)

    async def ask(self, spiffe_id: str, audience: tuple[str, ...]) -> IssuedJwt:
        self.asked.append((spiffe_id, audience))
        if self.away is not None:
            raise self.away
        return IssuedJwt(f"token-{len(self.asked)}", 60.0)

    async def get(self, *audience: str, uid: int = 1) -> str:
        return await self.tokens.get(uid, SUBJECT, audience)


async def test_a_token_is_used_again_until_half_of_its_life() -> None:
    ca = Ca()
    assert await ca.get("db", "queue") == await ca.get("queue", "db") == "token-1"
    assert await ca.get("db") == "token-2"
    ca.now = 29.0
    assert await ca.get("db") == "token-2"
    ca.now = 31.0
    assert await ca.get("db") == "token-3"
    ca.tokens.forget()
    assert await ca.get("db") == "token-4"


async def test_while_the_ca_is_away_a_token_is_used_nearly_to_its_end() -> None:
    ca = Ca()
    await ca.get("db")
    ca.away, ca.now = CaUnavailable("away"), 50.0
    assert await ca.get("db") == "token-1"
    ca.now = 55.0
    with pytest.raises(CaUnavailable):
        await ca.get("db")
    ca.away, ca.now = CaRefused("revoked"), 60.0
    ca.tokens.forget()
    with pytest.raises(CaRefused):
        await ca.get("db")


async def test_a_user_who_asks_for_too_many_harms_nobody_else() -> None:
    ca = Ca()
    for number in range(BURST):
        await ca.get(str(number))
    with pytest.raises(TooMany):
        await ca.get("one more")
    assert await ca.get("0") == "token-1", "what is there already costs nothing"
    await ca.get("db", uid=2)
    ca.now = 1.0
    await ca.get("one more")
