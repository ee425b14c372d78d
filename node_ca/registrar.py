"""What the operator asks of the CA's records: join tokens, certificates, revocations. Signs nothing.

Knows nothing of gRPC. A revocation is answered when it is on the disk and in the trust bundle.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from node_ca.errors import Refusal
from node_ca.policy import TokenRecord, named_identity
from node_ca.proto.token import JoinToken
from node_ca.records import Inventory, IssueRecord, Revocation, Revoked, Search

DEFAULT_TOKEN_TTL = 3600
"""Seconds."""
MAX_TOKEN_TTL = 30 * 86400
MAX_TOKEN_USES = 100_000
MAX_REASON = 200
_SERIAL = re.compile(r"[0-9a-f]{32}")


class Registrar:
    """Keeps tokens and revocations for the operator; every call raises Refusal or InventoryError."""

    def __init__(
        self,
        inventory: Inventory,
        root_fingerprint: Callable[[], bytes],
        publish: Callable[[], Awaitable[object]],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take what returns the fingerprint of the root that new tokens carry, and what makes a new trust bundle."""
        self._inventory = inventory
        self._root_fingerprint = root_fingerprint
        self._publish = publish
        self._now = now

    async def create_token(self, identity: str, ttl: int, uses: int) -> tuple[JoinToken, TokenRecord]:
        """Make and record a join token; ttl in seconds, 0 for an hour; uses 0 for one."""
        ttl, uses = ttl or DEFAULT_TOKEN_TTL, uses or 1
        if not 0 < ttl <= MAX_TOKEN_TTL:
            raise Refusal.invalid(f"ttl: {ttl} s is not allowed, 1 s to {MAX_TOKEN_TTL} s (30 days) are")
        if not 0 < uses <= MAX_TOKEN_USES:
            raise Refusal.invalid(f"uses: {uses} is not allowed, 1 to {MAX_TOKEN_USES} are")
        parsed = named_identity(identity)
        token, created = JoinToken.new(self._root_fingerprint()), int(self._now())
        record = TokenRecord(token.id, token.secret_hash, parsed, created, created + ttl, uses)
        await self._inventory.add_token(record)
        return token, record

    async def tokens(self) -> list[TokenRecord]:
        """Return all tokens."""
        return await self._inventory.tokens()

    async def revoke_token(self, token_id: str) -> TokenRecord:
        """Make a token unusable."""
        record = await self._inventory.revoke_token(token_id, self._now())
        if record is None:
            raise Refusal.unknown(f"join token {token_id[:40]!r}: there is none (`hostmesh ca token list`)")
        return record

    def certificates(
        self, identity: str, serial: str, *, expired: bool, revoked_only: bool
    ) -> AsyncIterator[IssueRecord]:
        """Yield issued certificates; of one identity, with one serial number, or all."""
        search = Search(
            name=identity if identity in ("", "server") else str(named_identity(identity)),
            serial=_serial(serial) if serial else "",
            ends_after=0.0 if expired or serial else self._now(),
            revoked_only=revoked_only,
        )
        return self._inventory.search(search)

    async def revoke(self, serial: str, identity: str, reason: str) -> Revoked:
        """Revoke one certificate, or an identity's all with its join tokens; what was revoked before stays so."""
        if bool(serial) == bool(identity):
            raise Refusal.invalid("revoke: give a serial number or an identity, one of the two")
        if len(reason) > MAX_REASON:
            raise Refusal.invalid(f"reason: {len(reason)} characters, at most {MAX_REASON} are allowed")
        revocation = (
            Revocation(serial=_serial(serial), reason=reason)
            if serial
            else Revocation(identity=named_identity(identity), reason=reason)
        )
        search = Search(serial=revocation.serial, name=identity)
        if not [record async for record in self._inventory.search(search)]:
            tokens = [token for token in await self._inventory.tokens() if str(token.identity) == identity]
            if not tokens:
                raise Refusal.unknown(f"{(serial or identity)[:80]!r}: no such certificate (`hostmesh ca cert list`)")
        revoked = await self._inventory.revoke(revocation, self._now())
        await self._publish()
        return revoked


def _serial(text: str) -> str:
    """Return a serial number in the form of the records; openssl's (capitals, colons, no leading zeros) are taken."""
    plain = text.replace(":", "").lower().removeprefix("0x").zfill(32)
    if not _SERIAL.fullmatch(plain):
        raise Refusal.invalid(f"serial: {text[:80]!r} is not a serial number (up to 32 hexadecimal digits)")
    return plain
