"""What a holder of an expired certificate signs to renew it, part of the protocol. May not know keys or policy."""

from __future__ import annotations

import hashlib

_PURPOSE = b"hostmesh.ca.v1 RenewExpired\0"
"""So that the signature can be taken for no other, and no other for it."""


def proof_payload(nonce: bytes, csr_pem: bytes) -> bytes:
    """Return the bytes to be signed: the purpose, the CA's nonce, and the SHA-256 of the CSR as it is sent."""
    return _PURPOSE + hashlib.sha256(nonce).digest() + hashlib.sha256(csr_pem).digest()
