"""Private keys and signing requests, made on this host; and what can be read off a certificate.

A key never leaves this host: only the CSR goes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.mesh.service import Identity

_UNREADABLE = (UnsupportedAlgorithm, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What cryptography raises for contents it doesn't take, beside ValueError and TypeError."""


@dataclass(frozen=True)
class Leaf:
    """What a chain's first certificate says."""

    not_before: float
    """Unix time, seconds."""
    not_after: float
    serial: str
    """Hexadecimal, 32 digits."""
    uris: tuple[str, ...]


def new_key() -> bytes:
    """Return a fresh ECDSA P-256 key: PKCS #8, PEM, not encrypted."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def new_csr(key_pem: bytes) -> bytes:
    """Return a PEM request for that key. It names nobody: who we are is proven by token or certificate."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(_load(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def sign(key_pem: bytes, payload: bytes) -> bytes:
    """Return the key's signature (ECDSA, SHA-256, DER); raises ValueError if it is no key."""
    return _load(key_pem).sign(payload, ec.ECDSA(hashes.SHA256()))


def read_chain(key_pem: bytes, chain_pem: bytes, identity: Identity) -> Leaf:
    """Return what the chain says, once sure that it is for this key and identity; raises ValueError with the fault."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        key = _load(key_pem)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, *_UNREADABLE) as error:
        raise ValueError("key or certificate cannot be read") from error
    if leaf.public_key() != key.public_key():
        raise ValueError("key and certificate do not belong together")
    uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
    if len(uris) != 1 or not _is_spiffe_id_of(uris[0], identity):
        raise ValueError(f"certificate is for {', '.join(uris) or 'nobody'}, not for {identity.path}")
    return Leaf(
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        serial=f"{leaf.serial_number:032x}",
        uris=uris,
    )


def _is_spiffe_id_of(uri: str, identity: Identity) -> bool:
    """Tell whether it is this identity's in some trust domain (the settings may not be known yet)."""
    return uri.startswith("spiffe://") and uri.removeprefix("spiffe://").partition("/")[2] == identity.path


def _load(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an ECDSA key")
    return key
