"""Issuing JWT-SVIDs: entitlement by the present certificate → claims → sign → answer.

Knows nothing of gRPC. They are not in the records: they can't be revoked one by one, and end within minutes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography import x509

from node_ca.config import JwtConfig
from node_ca.errors import Refusal
from node_ca.identity import WorkloadIdentity
from node_ca.issuer import serial_text
from node_ca.jwt_key import JwtKey
from node_ca.policy import entitled_by_certificate
from node_ca.records import Inventory, Succession

MAX_AUDIENCES = 8
MAX_AUDIENCE = 255
"""Characters."""


@dataclass(frozen=True)
class JwtSvid:
    """An issued token."""

    token: str
    id: str
    """Its claim `jti`."""
    identity: WorkloadIdentity
    by: str
    """What it was issued for: `certificate:SERIAL`."""
    audience: tuple[str, ...]
    expires_at: int
    """Unix time, seconds."""


class JwtIssuer:
    """Issues JWT-SVIDs of one trust domain (JWT-SVID standard, 2 to 4)."""

    def __init__(
        self,
        key: JwtKey | None,
        inventory: Inventory,
        trust_domain: str,
        config: JwtConfig,
        skew_margin: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take `skew_margin` in seconds: so far back a token says it was issued, for hosts whose clock is behind."""
        self._key = key
        self._inventory = inventory
        self._trust_domain = trust_domain
        self._config = config
        self._skew_margin = skew_margin
        self._now = now

    async def issue(self, peer: x509.Certificate, audience: Sequence[str]) -> JwtSvid:
        """Issue for the certificate that TLS has verified, its identity only; raises Refusal or InventoryError."""
        if self._key is None:
            raise Refusal.unavailable("this CA issues no JWT-SVIDs: it has no JWT key (ca.yaml: jwt.keyFile)")
        identity = entitled_by_certificate(peer, self._trust_domain)
        wanted = _checked(audience)
        serial = serial_text(peer)
        held = Succession(serial, int(peer.not_valid_after_utc.timestamp()))
        await self._inventory.check_holds(held, str(identity))
        now, token_id = self._now(), secrets.token_hex(16)
        expires_at = int(now + self._config.lifetime)
        claims = {
            "sub": identity.spiffe_id(self._trust_domain),
            "aud": list(wanted),
            "exp": expires_at,
            "iat": int(now - self._skew_margin),
            "jti": token_id,
            **({"iss": self._config.issuer} if self._config.issuer else {}),
        }
        return JwtSvid(self._key.sign(claims), token_id, identity, f"certificate:{serial}", wanted, expires_at)


def _checked(audience: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(audience))
    if not 1 <= len(wanted) <= MAX_AUDIENCES:
        raise Refusal.invalid(f"audience: {len(wanted)} names, a token is for 1 to {MAX_AUDIENCES}")
    for name in wanted:
        if not 1 <= len(name) <= MAX_AUDIENCE or not name.isprintable():
            raise Refusal.invalid(f"audience: {name[:80]!r}: 1 to {MAX_AUDIENCE} printable characters are allowed")
    return wanted
