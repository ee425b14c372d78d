"""What the CA keeps: issued certificates, join tokens, revocations; and the interface of whatever keeps them.

Pure types. `inventory.py` keeps them in SQLite for one CA, `consul_inventory.py` in Consul for several replicas.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from node_ca.identity import WorkloadIdentity
from node_ca.policy import TokenRecord

KEEP_ENDED = 7 * 86400
"""Seconds that the record of a certificate is kept after its end, so that it can still be looked up."""
KEEP_EXPIRED_TOKENS = 30 * 86400
"""Seconds; so long `token list` can still say what became of one."""


@dataclass(frozen=True)
class IssueRecord:
    """One issued certificate."""

    serial: str
    """Hexadecimal, 32 digits."""
    name: str
    """The identity (ns/…/sa/…), or `server` for the CA's own."""
    not_before: int
    """Unix time, seconds."""
    not_after: int
    issued_at: float
    issued_by: str
    """`token:ID`, `certificate:SERIAL` (renewal), `expired:SERIAL`, `consul:ACCESSOR`, `admin` or `ca`."""
    fingerprint: str = ""
    """SHA-256 of the certificate (DER), hexadecimal."""
    issuer: str = ""
    """The first 16 hexadecimal digits of the issuing certificate's SHA-256."""
    revoked_at: int = 0
    """Unix time; 0 if it is not revoked."""
    revoked_for: str = ""


@dataclass(frozen=True)
class TokenUse:
    """Paid for by a use of a join token, for one key."""

    token_id: str
    key_hash: bytes


@dataclass(frozen=True)
class Succession:
    """Paid for by a certificate that holds; it must not be revoked."""

    serial: str
    not_after: int
    """Unix time, seconds."""


@dataclass(frozen=True)
class LateSuccession:
    """Paid for by an expired certificate, once: for one key; it must not be revoked."""

    serial: str
    not_after: int
    key_hash: bytes


Claim = TokenUse | Succession | LateSuccession
"""What an issue is paid for with."""


@dataclass(frozen=True)
class Search:
    """Which certificates to look for; empty fields select nothing."""

    name: str = ""
    serial: str = ""
    ends_after: float = 0.0
    """Unix time."""
    revoked_only: bool = False


@dataclass(frozen=True)
class Revocation:
    """What is to be revoked, one of the two, and what the record shall say."""

    serial: str = ""
    identity: WorkloadIdentity | None = None
    """All its certificates, also those just ended (which might be renewed late), and its join tokens."""
    reason: str = ""


@dataclass(frozen=True)
class Revoked:
    """What was revoked just now."""

    certificates: tuple[IssueRecord, ...]
    tokens: tuple[TokenRecord, ...] = ()


class Inventory(Protocol):
    """The records; what has been answered is durable. Every method raises InventoryError when it can't be had."""

    async def record_issue(self, issue: IssueRecord, claim: Claim | None = None) -> None:
        """Record an issue together with the use of what pays for it: both or neither.

        Raises Refusal if the claim does not hold (any more).
        """

    async def check_holds(self, held: Succession, name: str) -> None:
        """Raise Refusal if this certificate (`name`: its identity) is revoked."""

    async def add_token(self, token: TokenRecord) -> None:
        """Record a new token."""

    async def token(self, token_id: str) -> TokenRecord | None:
        """Return a token, or None."""

    async def knows_key(self, use: TokenUse) -> bool:
        """Tell whether this key was enrolled with this token."""

    async def tokens(self) -> list[TokenRecord]:
        """Return all tokens, oldest first; those long expired are gone."""

    async def revoke_token(self, token_id: str, now: float) -> TokenRecord | None:
        """Make a token unusable; return it, or None if there is none."""

    def search(self, search: Search) -> AsyncIterator[IssueRecord]:
        """Yield certificates."""

    async def revoke(self, revocation: Revocation, now: float) -> Revoked:
        """Revoke; certificates that were revoked before keep their time and reason, and are not returned."""

    async def revoked(self, now: float) -> tuple[IssueRecord, ...]:
        """Return the revoked certificates that have not ended, by serial."""

    async def prune(self, now: float) -> None:
        """Forget what ended so long ago that nobody asks for it."""

    async def follow(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Call `changed` after each revocation that somebody else recorded; for ever."""

    async def close(self) -> None:
        """Finish what is under way and close."""
