"""A certificate signing request, untrusted: what it takes to be looked at, and the little that is read from it. Pure.

Of a CSR only the public key counts, and that its holder signed it. Subject, extensions and attributes are never
honoured; URI names are read only so that a request for another identity can be refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node_ca.errors import Refusal

MAX_CSR_BYTES = 16 * 1024
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 4096
"""Verifying costs the CA's time with the size of the key."""

WorkloadPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_CURVES = (ec.SECP256R1, ec.SECP384R1)


@dataclass(frozen=True)
class CertificateRequest:
    """A CSR whose signature holds and whose key is acceptable."""

    public_key: WorkloadPublicKey
    uris: tuple[str, ...]
    """URI names it asks for; not honoured."""

    @property
    def key_hash(self) -> bytes:
        """Return the SHA-256 of the public key (SubjectPublicKeyInfo, DER)."""
        return hashlib.sha256(self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()

    @classmethod
    def from_pem(cls, pem: bytes) -> CertificateRequest:
        """Parse and check a PKCS #10 request in PEM; raises Refusal (INVALID_ARGUMENT)."""
        if len(pem) > MAX_CSR_BYTES:
            raise Refusal.invalid(f"CSR: {len(pem)} bytes, at most {MAX_CSR_BYTES} are allowed")
        try:
            csr = x509.load_pem_x509_csr(pem)
            key = _acceptable_key(csr)
            if not csr.is_signature_valid:
                raise Refusal.invalid("CSR: its signature is not by its own key")
            return cls(key, _uris(csr))
        except (
            ValueError,
            TypeError,
            UnsupportedAlgorithm,
            x509.InvalidVersion,
            x509.UnsupportedGeneralNameType,
        ) as error:
            # cryptography raises these for what isn't PEM, isn't DER, or is DER of nonsense
            raise Refusal.invalid("CSR: not a readable PKCS #10 request in PEM") from error


def _acceptable_key(csr: x509.CertificateSigningRequest) -> WorkloadPublicKey:
    key = csr.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return key
        raise Refusal.invalid(f"CSR: RSA key of {key.key_size} bits, {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed")
    raise Refusal.invalid("CSR: key type not allowed; use ECDSA P-256, P-384 or RSA from 2048 bits")


def _uris(csr: x509.CertificateSigningRequest) -> tuple[str, ...]:
    try:
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except x509.DuplicateExtension as error:
        raise Refusal.invalid("CSR: the same extension twice") from error
    return tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
