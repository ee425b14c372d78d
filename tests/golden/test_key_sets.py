"""Key sets as rules have them: whatever is in one, Envoy takes what is made of it, and what can be used stays."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from agent.mesh.key_set import NOBODYS_KEY, usable_keys
from tests.programs import ENVOY

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def text(number: int, size: int = 0) -> str:
    data = number.to_bytes(size or (number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def of_curve(name: str) -> dict[str, Any]:
    numbers = ec.generate_private_key(CURVES[name]).public_key().public_numbers()
    size = (CURVES[name].key_size + 7) // 8
    return {"kty": "EC", "crv": name, "x": text(numbers.x, size), "y": text(numbers.y, size)}


def of_rsa(bits: int = 2048) -> dict[str, Any]:
    numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
    return {"kty": "RSA", "n": text(numbers.n), "e": text(numbers.e)}


EC, RSA = of_curve("P-256"), of_rsa()
ED = {"kty": "OKP", "crv": "Ed25519", "x": text(1, 32)}
ED["x"] = base64.urlsafe_b64encode(ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
OCT = {"kty": "oct", "k": "Zm9v"}
GOOD: list[dict[str, Any]] = [
    *(EC, RSA, ED, OCT, of_curve("P-384"), of_curve("P-521"), of_rsa(1024)),
    {**EC, "alg": "ES256", "kid": "ä", "use": "sig", "x5c": ["MIIB"], "key_ops": None},
    {**{key: value for key, value in EC.items() if key != "crv"}, "alg": "ES256"},
    {**EC, "alg": 5, "kid": 5},
    {**EC, "x": EC["x"] + "="},
    {**RSA, "alg": "PS512"},
    {**ED, "alg": "EdDSA"},
    {**OCT, "alg": "HS256"},
]
BAD: list[Any] = [
    *(None, 5, "x", [], {}, {"kty": "EC"}, {"kty": 5}, {"kty": "AKP"}),
    {**EC, "y": EC["x"]},
    {**EC, "alg": "ES384"},
    {**EC, "alg": "RS256"},
    {**EC, "crv": "P-521"},
    {**EC, "crv": "secp256k1"},
    {**EC, "crv": None},
    {**EC, "kid": "\ud800"},
    {key: value for key, value in EC.items() if key != "crv"},
    {**RSA, "n": "+/" + RSA["n"]},
    {**RSA, "n": 5},
    {**RSA, "e": "A"},
    {**RSA, "e": "Ag"},
    {**RSA, "e": "AQABAQABAQAB"},
    {**RSA, "e": "Iw"},
    *({**RSA, "alg": "XX"}, {**RSA, "alg": "RSA-OAEP"}, {**OCT, "alg": "HS1"}),
    {**ED, "crv": "X25519"},
    {**ED, "x": "abc"},
    {**ED, "alg": "ES256"},
    *({**OCT, "k": ""}, {**OCT, "k": "@@"}, {**OCT, "alg": "none"}),
]


def key_set(*keys: object) -> str:
    return json.dumps({"keys": keys})


@pytest.mark.parametrize("key", GOOD)
def test_keys_that_can_be_used_are_kept(key: dict[str, Any]) -> None:
    kept = usable_keys(key_set(*BAD, key, *BAD))
    assert kept is not None
    (found,) = json.loads(kept)["keys"]
    assert found["kty"] == key["kty"]
    assert usable_keys(json.dumps(key)) == kept, "one key alone"
    assert usable_keys(kept) == kept


@pytest.mark.parametrize("key", BAD)
def test_others_are_not(key: object) -> None:
    assert usable_keys(key_set(key)) is None


@pytest.mark.parametrize("said", ["", "{", "[]", '{"keys": {}}', "[" * 100_000, "null", '{"keys": []}'])
def test_what_is_no_key_set_has_none(said: str) -> None:
    assert usable_keys(said) is None


def test_nobody_has_the_key_that_stands_for_none() -> None:
    (key,) = json.loads(NOBODYS_KEY)["keys"]
    x = base64.urlsafe_b64decode(key["x"] + "=")
    assert x == hashlib.sha256(b"hostmesh: a key that nobody has 1").digest()
    assert usable_keys(NOBODYS_KEY) == NOBODYS_KEY


def test_envoy_takes_what_is_kept(tmp_path: Path) -> None:
    """One Envoy looks at all: each alone, odd sets, and keys with random changes."""
    chance = random.Random(4)
    said = [key_set(key) for key in GOOD] + [key_set(*GOOD, *BAD), NOBODYS_KEY]
    said += [f'{{"keys": [{json.dumps(EC)}], "x": {odd}}}' for odd in ("NaN", "[" * 200 + "]" * 200, '"\\ud800"')]
    said += [f'{{"keys": [], "keys": [{json.dumps(EC)}]}}']
    said += [key_set(changed(chance.choice(GOOD), chance)) for _ in range(2000)]
    kept = [found for each in said if (found := usable_keys(each))]
    assert len(kept) > 100
    assert envoy_takes(kept, tmp_path) == ""


def changed(key: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a key with one letter, one byte of a number, or one member other than it was."""
    name = chance.choice([name for name in key if isinstance(key[name], str)])
    value = str(key[name])
    place = chance.randrange(len(value) + 1)
    letter = chance.choice("AQgw_-=+0z ")
    return {**key, name: value[:place] + letter * chance.randrange(2) + value[place + chance.randrange(2) :]}


def envoy_takes(sets: Iterable[str], folder: Path) -> str:
    """Return what Envoy says against these key sets, "" if nothing."""
    providers = {
        f"p{number}": {"issuer": f"i{number}", "local_jwks": {"inline_string": each}}
        for number, each in enumerate(sets)
    }
    prefix = "type.googleapis.com/envoy.extensions.filters"
    filters = [
        {
            "name": "jwt",
            "typed_config": {"@type": f"{prefix}.http.jwt_authn.v3.JwtAuthentication", "providers": providers},
        },
        {"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}},
    ]
    manager = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "route_config": {},
        "http_filters": filters,
    }
    listener = {
        "name": "x",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    file = folder / "envoy.json"
    file.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    argv = [str(ENVOY), "--mode", "validate", "-l", "critical", "-c", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else (done.stderr + done.stdout)[-600:]
