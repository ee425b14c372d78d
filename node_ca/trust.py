"""What everybody shall trust now, as one value with a version, and those who wait for the next one.

May not decide what is in it: `refresh` gathers the roots from the authority and the revocations from the inventory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

_END = b"-----END CERTIFICATE-----\n"


@dataclass(frozen=True)
class RevokedCertificate:
    """A revoked certificate that has not ended."""

    serial: str
    """Hexadecimal, 32 digits."""
    identity: str
    fingerprint: str
    """SHA-256 of the certificate (DER), hexadecimal."""
    revoked_at: int
    """Unix time, seconds."""
    not_after: int


@dataclass(frozen=True)
class TrustBundle:
    """Roots, CRLs and revocations of one moment."""

    trust_domain: str
    roots_pem: bytes
    crls_pem: bytes = b""
    """A CRL of each issuer, one after the other."""
    issuers: tuple[str, ...] = ()
    """Whose CRLs these are."""
    revoked: tuple[RevokedCertificate, ...] = ()
    jwks: bytes = b""
    """The public keys of JWT-SVIDs (RFC 7517); empty for none."""

    @property
    def version(self) -> str:
        """Return a hash of the content (SHA-256, hexadecimal).

        The CRLs count by what they say, not by their signatures, and the roots in any order: several CAs with the same
        issuers and records have the same version, whichever of these signs, so a host that goes from one to the other
        has nothing to load, and what it has acknowledged counts at all of them.
        """
        digest = hashlib.sha256()
        rows = [repr(revoked).encode() for revoked in self.revoked]
        roots = b"".join(sorted(self.roots_pem.split(_END)))
        said = (self.trust_domain.encode(), roots, " ".join(self.issuers).encode(), self.jwks, *rows)
        for part in said:
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


class Trust:
    """The current trust bundle; `refresh` after every change of roots or revocations."""

    def __init__(self, gather: Callable[[], Awaitable[TrustBundle]], first: TrustBundle) -> None:
        self._gather = gather
        self._changed = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self.current = first
        self.version = first.version

    async def refresh(self) -> TrustBundle:
        """Gather the bundle anew and tell those who wait, if it changed; raises what gathering raises."""
        async with self._one_at_a_time:
            gathered = await self._gather()
            version = gathered.version
            if version != self.version:
                self.current, self.version = gathered, version
                woken, self._changed = self._changed, asyncio.Event()
                woken.set()
        return self.current

    async def follow(self, known: str) -> AsyncIterator[TrustBundle]:
        """Yield the bundle unless the caller knows its version, then each later one; what was missed is skipped."""
        while True:
            changed = self._changed
            if self.version != known:
                known = self.version
                yield self.current
            else:
                await changed.wait()
