"""Renewal by a certificate that has ended: the CA's nonce, and the proof that the caller holds the certificate's key.

May not decide whether the certificate was ours or revoked: the records say so (issuer).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from node_ca.errors import Refusal
from node_ca.proto.challenge import proof_payload

MAX_CHAIN_BYTES = 32 * 1024
NONCE_SECONDS = 60
_MOMENT = struct.Struct(">d16s")


class Nonces:
    """Nonces that need no memory until they are used: random, dated and authenticated by a key of this process."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._key = secrets.token_bytes(32)
        self._now = now
        self._used: dict[bytes, float] = {}

    def new(self) -> bytes:
        """Return a nonce for the next NONCE_SECONDS."""
        body = _MOMENT.pack(self._now() + NONCE_SECONDS, secrets.token_bytes(16))
        return body + self._mac(body)

    def check(self, nonce: bytes) -> None:
        """Refuse (UNAUTHENTICATED) a nonce that isn't ours, is too old or was used."""
        body, mac = nonce[: _MOMENT.size], nonce[_MOMENT.size :]
        if not hmac.compare_digest(self._mac(body), mac):
            raise Refusal.unauthenticated("nonce: not of this CA's making; ask for another one (Challenge)")
        if self._now() >= _MOMENT.unpack(body)[0] or nonce in self._used:
            raise Refusal.unauthenticated("nonce: used or too old; ask for another one (Challenge)")

    def use(self, nonce: bytes) -> None:
        """Remember a nonce whose proof held, as long as it could come again; `check` it first."""
        now = self._now()
        for old in [old for old, end in self._used.items() if end <= now]:
            del self._used[old]
        self._used[nonce] = _MOMENT.unpack(nonce[: _MOMENT.size])[0]

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)


def read_expired(chain_pem: bytes) -> x509.Certificate:
    """Return the first certificate of a PEM chain; raises Refusal (INVALID_ARGUMENT)."""
    if len(chain_pem) > MAX_CHAIN_BYTES:
        raise Refusal.invalid(f"certificate: {len(chain_pem)} bytes, at most {MAX_CHAIN_BYTES} are allowed")
    try:
        return x509.load_pem_x509_certificate(chain_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise Refusal.invalid("certificate: not readable as PEM") from error


def check_proof(certificate: x509.Certificate, nonce: bytes, csr_pem: bytes, signature: bytes) -> None:
    """Refuse (UNAUTHENTICATED) a signature that is not by the certificate's key over the nonce and the CSR."""
    payload = proof_payload(nonce, csr_pem)
    try:
        key = certificate.public_key()
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, payload, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, payload, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise InvalidSignature
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise Refusal.unauthenticated("signature: not by the expired certificate's key over this nonce") from error


def check_lateness(certificate: x509.Certificate, now: float, grace: float) -> None:
    """Refuse (PERMISSION_DENIED) a certificate that holds still, or ended more than `grace` seconds ago."""
    late = now - certificate.not_valid_after_utc.timestamp()
    if late < 0:
        raise Refusal.denied("certificate: has not ended; renew it on the renewal port")
    if late >= grace:
        raise Refusal.denied(
            f"certificate: ended {late:.0f} s ago, at most {grace:.0f} s are allowed (graceRenewal); "
            "enrol anew with a join token"
        )
