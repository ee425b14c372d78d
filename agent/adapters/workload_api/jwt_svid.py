"""Is this JWT-SVID good? The standard's validation (JWT-SVID, 3 and 4) by the mesh's published keys. Does no I/O."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

MAX_TOKEN = 16 * 1024
"""Characters."""
_CURVES: dict[str, tuple[str, ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "ES256": ("P-256", ec.SECP256R1(), hashes.SHA256()),
    "ES384": ("P-384", ec.SECP384R1(), hashes.SHA384()),
}
_TYPES = (None, "JWT", "JOSE")


def validated(token: str, jwks: bytes, trust_domain: str, audience: str, now: float) -> Mapping[str, Any]:
    """Return a token's claims; raises ValueError with what is wrong with it (now: Unix time, seconds)."""
    if len(token) > MAX_TOKEN:
        raise ValueError(f"it has {len(token)} characters, at most {MAX_TOKEN} are allowed")
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("it is no JWT (three parts in base64url, JWS compact serialization)")
    header, claims = _object(parts[0], "header"), _object(parts[1], "claims")
    if header.get("typ") not in _TYPES or "crit" in header:
        raise ValueError("its header says that it is something else than a JWT-SVID (typ, crit)")
    _check_signature(header, ".".join(parts[:2]).encode(), _decoded(parts[2]), jwks)
    _check_claims(claims, trust_domain, audience, now)
    return claims


def _check_signature(header: Mapping[str, Any], body: bytes, signature: bytes, jwks: bytes) -> None:
    kid, algorithm = header.get("kid"), header.get("alg")
    keys: Collection[Mapping[str, Any]] = msgspec.json.decode(jwks)["keys"]
    jwk = next((key for key in keys if kid and key.get("kid") == kid), None)
    if jwk is None:
        raise ValueError("its key (kid) is none of this mesh's")
    if algorithm != jwk.get("alg"):  # the key says how it signs; the token has no choice
        raise ValueError("its algorithm (alg) is not its key's")
    try:
        _verify(jwk, signature, body)
    except (InvalidSignature, ValueError, KeyError, TypeError) as error:
        raise ValueError("its signature does not hold") from error


def _verify(jwk: Mapping[str, Any], signature: bytes, body: bytes) -> None:
    if jwk["alg"] == "RS256":
        numbers = rsa.RSAPublicNumbers(_number(jwk["e"]), _number(jwk["n"]))
        numbers.public_key().verify(signature, body, padding.PKCS1v15(), hashes.SHA256())
        return
    name, curve, digest = _CURVES[jwk["alg"]]
    size = (curve.key_size + 7) // 8
    if jwk["crv"] != name or len(signature) != 2 * size:
        raise InvalidSignature
    point = ec.EllipticCurvePublicNumbers(_number(jwk["x"]), _number(jwk["y"]), curve)
    halves = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    point.public_key().verify(encode_dss_signature(*halves), body, ec.ECDSA(digest))


def _check_claims(claims: Mapping[str, Any], trust_domain: str, audience: str, now: float) -> None:
    subject, ends, meant = claims.get("sub"), claims.get("exp"), claims.get("aud")
    if not isinstance(subject, str) or not subject.startswith(f"{trust_domain}/"):
        raise ValueError(f"its subject (sub) is no SPIFFE ID of {trust_domain}")
    if not isinstance(ends, int | float) or now >= ends:
        raise ValueError("it has ended (exp), or does not say when")
    if isinstance(begins := claims.get("nbf"), int | float) and now < begins:
        raise ValueError("it has not begun (nbf)")
    if audience not in (meant if isinstance(meant, list) else [meant]):
        raise ValueError(f"it is not for {audience[:80]!r} (aud)")


def _object(part: str, what: str) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(_decoded(part), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"its {what} cannot be read") from error


def _decoded(part: str) -> bytes:
    try:
        return base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (ValueError, UnicodeEncodeError) as error:
        raise ValueError("it is no JWT (three parts in base64url, JWS compact serialization)") from error


def _number(text: str) -> int:
    return int.from_bytes(_decoded(text), "big")
