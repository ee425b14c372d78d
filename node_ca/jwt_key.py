"""A key that signs JWT-SVIDs: from its PEM file, as a JSON Web Key (RFC 7517), and its signatures (RFC 7515).

May not decide what is signed, nor read or write files.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from node_ca.errors import ConfigError

MIN_RSA_BITS = 2048
_CURVES = {"secp256r1": ("P-256", "ES256"), "secp384r1": ("P-384", "ES384")}
_DIGESTS = {"ES256": hashes.SHA256(), "ES384": hashes.SHA384(), "RS256": hashes.SHA256()}


class JwtKey:
    """A private key for JWT-SVIDs."""

    def __init__(self, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
        """Take an ECDSA key on P-256 or P-384, or an RSA key."""
        self._key = key
        self._public, self.algorithm = _described(key)
        self.id = _thumbprint(self._public)
        """The RFC 7638 thumbprint: the same key has the same name at every CA."""

    @classmethod
    def from_pem(cls, pem: bytes, where: str) -> JwtKey:
        """Read a private key that isn't encrypted; raises ConfigError, `where` in front."""
        try:
            key = load_pem_private_key(pem, None)
        except TypeError as error:
            raise ConfigError(
                [f"{where}: is encrypted: the JWT key must be plain, readable by the CA alone"]
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError([f"{where}: cannot be read as a PEM private key"]) from error
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
            return cls(key)
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
            return cls(key)
        raise ConfigError([f"{where}: must be ECDSA (P-256, P-384) or RSA from {MIN_RSA_BITS} bits"])

    @property
    def jwk(self) -> dict[str, str]:
        """Return its public half; without `use`, which libraries for plain JWT don't know SPIFFE's value of."""
        return {**self._public, "kid": self.id, "alg": self.algorithm}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return the signed token (JWS compact serialization)."""
        header = {"alg": self.algorithm, "kid": self.id, "typ": "JWT"}
        body = f"{_segment(header)}.{_segment(claims)}"
        return f"{body}.{base64url(self._signature(body.encode()))}"

    def _signature(self, body: bytes) -> bytes:
        digest = _DIGESTS[self.algorithm]
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(body, padding.PKCS1v15(), digest)
        size = (self._key.key_size + 7) // 8  # RFC 7518, 3.4: both numbers at full length, no DER
        numbers = decode_dss_signature(self._key.sign(body, ec.ECDSA(digest)))
        return b"".join(number.to_bytes(size, "big") for number in numbers)


def base64url(data: bytes) -> str:
    """Return base64url without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _described(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[dict[str, str], str]:
    """Return the members that the thumbprint is made of, and the algorithm."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        return {"e": _number(public.e), "kty": "RSA", "n": _number(public.n)}, "RS256"
    curve, algorithm = _CURVES[key.curve.name]
    size, point = (key.key_size + 7) // 8, key.public_key().public_numbers()
    return {"crv": curve, "kty": "EC", "x": _number(point.x, size), "y": _number(point.y, size)}, algorithm


def _thumbprint(public: Mapping[str, str]) -> str:
    text = json.dumps(public, sort_keys=True, separators=(",", ":"))
    return base64url(hashlib.sha256(text.encode()).digest())


def _number(value: int, size: int = 0) -> str:
    return base64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def _segment(value: Mapping[str, Any]) -> str:
    return base64url(json.dumps(value, separators=(",", ":")).encode())
