"""Whom this host trusts: the mesh's roots, their revocation lists, and what is revoked. Pure."""

from __future__ import annotations

from msgspec import Struct


class RevokedCertificate(Struct, frozen=True, order=True):
    """A revoked certificate that has not ended."""

    serial: str
    """Hexadecimal."""
    identity: str
    """ns/NAMESPACE/sa/ACCOUNT"""
    not_after: int
    """Unix time, seconds."""

    @property
    def number(self) -> int:
        """Return the serial number."""
        return int(self.serial, 16)


class TrustBundle(Struct, frozen=True):
    """Whom to trust, as the CA said it at one moment."""

    roots_pem: bytes
    crls_pem: bytes = b""
    """A list of each issuer below the roots, or none at all."""
    revoked: tuple[RevokedCertificate, ...] = ()
    version: str = ""
    """Hexadecimal hash: changes with the content."""
    jwks: bytes = b""
    """The public keys of JWT-SVIDs (RFC 7517, JSON); empty: the CA issues none."""
