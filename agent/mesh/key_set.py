"""JSON Web Key Sets, reduced to the keys that Envoy can verify tokens by. Pure.

Envoy refuses the listener, with all else that is in it, for one inline key set in which it finds no key that it can
use; so what it would not take never reaches it. What it takes was found out by asking (tests/golden/test_key_sets.py).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

NOBODYS_KEY = json.dumps(
    {
        "keys": [
            {
                "kty": "EC",
                "crv": "P-256",
                "x": "iMV8UX3CDIbqe1m5WZUWP7vS0a8k4f_WzSIu7jU3Opc",
                "y": "N6_FKR6VZVBGfFG63EbMPPnwGGoJNKCE5-NqLnJnNk4",
            }
        ]
    }
)
"""A key set by which no token is good. The point's x is the SHA-256 of "hostmesh: a key that nobody has 1": to know its
private key is to take a discrete logarithm."""
NO_KEYS = "has no key that Envoy can verify tokens by (RSA, EC P-256, P-384, P-521, Ed25519, oct)"
_TEXT = re.compile(r"[A-Za-z0-9_-]+={0,2}")
_PRIME_256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
_PRIME_384 = 2**384 - 2**128 - 2**96 + 2**32 - 1
_PRIME_521 = 2**521 - 1
_B_256 = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_B_384 = int("b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef", 16)
_B_521 = int(
    "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf"
    "073573df883d2c34f1ef451fd46b503f00",
    16,
)
_CURVES = {
    "P-256": ("ES256", _PRIME_256, _B_256),
    "P-384": ("ES384", _PRIME_384, _B_384),
    "P-521": ("ES512", _PRIME_521, _B_521),
}
"""Name → algorithm, p and b of y² = x³ - 3x + b mod p (FIPS 186-4)."""
_BY_ALGORITHM = {algorithm: name for name, (algorithm, _, _) in _CURVES.items()}
_RSA_BITS = (1024, 16384)
_RSA_EXPONENTS = (3, 65537)
"""Envoy refuses most others; there are hardly any."""
_ED25519_BYTES = 32
_ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "OKP": ("EdDSA",),
    "oct": ("HS256", "HS384", "HS512"),
}


def usable_keys(text: str) -> str | None:
    """Return the key set with the keys and members that Envoy can use; None: there are none.

    One key alone counts as a set of it.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        return None
    keys = plain.get("keys", [plain]) if isinstance(plain, dict) else None
    found = [key for each in keys if (key := _usable(each))] if isinstance(keys, list) else []
    return json.dumps({"keys": found}) if found else None


def _usable(key: object) -> dict[str, str] | None:
    if not isinstance(key, dict):
        return None
    build = _KINDS.get(str(key.get("kty")))
    members = build(key) if build else None
    if members is None:
        return None
    # A number as an algorithm or a name counts as none, as in Envoy.
    more = {name: key[name] for name in ("alg", "kid") if isinstance(key.get(name), str)}
    try:
        json.dumps(more, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return None
    return {"kty": key["kty"], **members, **more}


def _rsa(key: Mapping[str, Any]) -> dict[str, str] | None:
    modulus, exponent = _number(key.get("n")), _number(key.get("e"))
    least, most = _RSA_BITS
    if not _is_for_signing(key) or not least <= modulus.bit_length() <= most:
        return None
    return {"n": _text(modulus), "e": _text(exponent)} if modulus & 1 and exponent in _RSA_EXPONENTS else None


def _ec(key: Mapping[str, Any]) -> dict[str, str] | None:
    algorithm = key.get("alg") if isinstance(key.get("alg"), str) else None
    name = key.get("crv", _BY_ALGORITHM.get(algorithm or ""))
    if not isinstance(name, str) or name not in _CURVES or algorithm not in (None, _CURVES[name][0]):
        return None
    _, prime, b = _CURVES[name]
    x, y = _number(key.get("x")), _number(key.get("y"))
    if not (0 < x < prime and 0 < y < prime and (y * y - x * x * x + 3 * x - b) % prime == 0):
        return None
    size = (prime.bit_length() + 7) // 8
    return {"crv": name, "x": _text(x, size), "y": _text(y, size)}


def _okp(key: Mapping[str, Any]) -> dict[str, str] | None:
    point = _bytes(key.get("x"))
    if key.get("crv") != "Ed25519" or len(point) != _ED25519_BYTES or not _is_for_signing(key):
        return None
    return {"crv": "Ed25519", "x": _encoded(point)}


def _oct(key: Mapping[str, Any]) -> dict[str, str] | None:
    secret = _bytes(key.get("k"))
    return {"k": _encoded(secret)} if secret and _is_for_signing(key) else None


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, str] | None]] = {
    "RSA": _rsa,
    "EC": _ec,
    "OKP": _okp,
    "oct": _oct,
}


def _is_for_signing(key: Mapping[str, Any]) -> bool:
    """Tell whether the algorithm that a key names, if it does, is one of its type."""
    said = key.get("alg")
    return not isinstance(said, str) or said in _ALGORITHMS[key["kty"]]


def _bytes(text: object) -> bytes:
    """Return what a text in Base64url says, nothing if it is none."""
    if not isinstance(text, str) or not _TEXT.fullmatch(text):
        return b""
    plain = text.rstrip("=")
    try:
        return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except binascii.Error:
        return b""


def _number(text: object) -> int:
    return int.from_bytes(_bytes(text), "big")


def _text(number: int, size: int = 0) -> str:
    return _encoded(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
