"""The records of several CAs in Consul's KV, so that each of them knows what the others did.

Every issue is one transaction with what pays for it. Below `hostmesh/ca/`:
  certificates/HOUR/SERIAL         by the hour of their end, so that old ones go hour by hour
  tokens/ID, token-keys/ID/KEY     a token, and the keys enrolled with it
  revocations/certificates/SERIAL  when and why
  revocations/identities/IDENTITY  everything of this identity that was recorded before (by Raft's order) is revoked
  late/SERIAL                      the key that an expired certificate was renewed for
May not decide entitlement (policy does), nor see a token's secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import msgspec

from node_ca.consul import Consul, ConsulFault, Operation, Stored
from node_ca.errors import InventoryError, Refusal
from node_ca.policy import TokenRecord, check_lives, check_use
from node_ca.records import (
    KEEP_ENDED,
    KEEP_EXPIRED_TOKENS,
    Claim,
    IssueRecord,
    LateSuccession,
    Revocation,
    Revoked,
    Search,
    Succession,
    TokenUse,
)

_TOP = "hostmesh/ca/"
_CERTIFICATES, _TOKENS, _KEYS, _LATE = (_TOP + name for name in ("certificates/", "tokens/", "token-keys/", "late/"))
_REVOCATIONS = _TOP + "revocations/"
_REVOKED, _IDENTITIES = _REVOCATIONS + "certificates/", _REVOCATIONS + "identities/"
_TRIES = 50
"""Of a transaction that others were quicker than; each time one of them has succeeded."""
_PAUSE_SECONDS = 1.0
_KEEP_MARKS = 400 * 86400
"""Seconds; longer than any certificate from before the mark can be renewed."""
_LOG = logging.getLogger("hostmesh.ca")
T = TypeVar("T")


@dataclass(frozen=True)
class _Late:
    key_hash: bytes
    not_after: int


class ConsulInventory:
    """`records.Inventory` in Consul."""

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    async def open(cls, consul: Consul) -> ConsulInventory:
        """Return it, once sure that Consul answers and lets us read; raises InventoryError."""
        await _kept(consul.names(_TOP))
        return cls(consul)

    async def close(self) -> None:
        """Close the connections to Consul."""
        await self._consul.close()

    async def record_issue(self, issue: IssueRecord, claim: Claim | None = None) -> None:
        """Record an issue together with the use of what pays for it; raises Refusal if that does not hold."""
        own = Operation("cas", _certificate_key(issue), msgspec.json.encode(issue))
        if isinstance(claim, TokenUse):
            async with self._locks[claim.token_id]:  # among ourselves one after the other, instead of conflicts
                await self._try(lambda: self._spend_token(claim, issue, own))
        elif claim is None:
            await self._try(lambda: self._write([own]))
        else:
            await self._try(lambda: self._succeed(claim, issue, own))

    async def check_holds(self, held: Succession, name: str) -> None:
        """Raise Refusal if this certificate is revoked, or was recorded before its identity was."""
        await _kept(self._mark_of(held, name))

    async def add_token(self, token: TokenRecord) -> None:
        """Record a new token."""
        await self._try(lambda: self._write([Operation("cas", _TOKENS + token.id, msgspec.json.encode(token))]))

    async def token(self, token_id: str) -> TokenRecord | None:
        """Return a token, or None."""
        found = await _kept(self._consul.read(_TOKENS + token_id))
        return _token(found) if found else None

    async def knows_key(self, use: TokenUse) -> bool:
        """Tell whether this key was enrolled with this token."""
        return await _kept(self._consul.read(_key_key(use))) is not None

    async def tokens(self) -> list[TokenRecord]:
        """Return all tokens, oldest first."""
        found = [_token(stored) for stored in await _kept(self._consul.read_all(_TOKENS))]
        return sorted(found, key=lambda token: (token.created_at, token.id))

    async def revoke_token(self, token_id: str, now: float) -> TokenRecord | None:
        """Make a token unusable; return it, or None if there is none."""

        async def revoke() -> tuple[TokenRecord | None, ...]:
            found = await self._consul.read(_TOKENS + token_id)
            if found is None:
                return (None,)
            token = _token(found)
            if token.revoked_at:
                return (token,)
            token = replace(token, revoked_at=int(now))
            return (token,) if await self._write([_changed(found, token)]) else ()

        (result,) = await self._try(revoke)
        return result

    async def search(self, search: Search) -> AsyncIterator[IssueRecord]:
        """Yield certificates, hour by hour of their end."""
        revoked = {record.serial: record for record in await self._revoked()}
        first = _hour(search.ends_after)
        for hour in await _kept(self._consul.names(_CERTIFICATES)):
            if hour < first:
                continue
            for stored in await _kept(self._consul.read_all(_CERTIFICATES + hour + search.serial)):
                record = msgspec.json.decode(stored.value, type=IssueRecord)
                if _wanted(record := revoked.get(record.serial, record), search):
                    yield record

    async def revoke(self, revocation: Revocation, now: float) -> Revoked:
        """Revoke one certificate, or all of an identity with its tokens.

        The order matters: after the first step no certificate of before can be renewed, after the second no token
        used, so that the third finds all that there will ever be.
        """
        tokens: list[TokenRecord] = []
        identity = revocation.identity
        if identity is not None:
            mark = Operation("set", f"{_IDENTITIES}{identity}", msgspec.json.encode(int(now)))
            await self._try(lambda: self._write([mark]))
            living = [token for token in await self.tokens() if token.identity == identity and not token.revoked_at]
            for token in living:
                if token.expires_at > now and (gone := await self.revoke_token(token.id, now)) is not None:
                    tokens.append(gone)
        search = Search(serial=revocation.serial, name=str(identity) if identity else "")
        certificates = []
        async for record in self.search(search):
            if not record.revoked_at:
                dead = replace(record, revoked_at=int(now), revoked_for=revocation.reason)
                step = Operation("cas", _REVOKED + record.serial, msgspec.json.encode(dead))
                if await _kept(self._consul.transact([step])) is None:
                    certificates.append(dead)
        return Revoked(tuple(sorted(certificates, key=lambda record: record.serial)), tuple(tokens))

    async def revoked(self, now: float) -> tuple[IssueRecord, ...]:
        """Return the revoked certificates that have not ended, by serial."""
        return tuple(record for record in await self._revoked() if record.not_after > now)

    async def prune(self, now: float) -> None:
        """Forget what ended long ago; two CAs that do it at once do no harm."""
        ended, dead = now - KEEP_ENDED, now - KEEP_EXPIRED_TOKENS
        for hour in await _kept(self._consul.names(_CERTIFICATES)):
            if hour < _hour(ended - 3600):
                await _kept(self._consul.delete_all(_CERTIFICATES + hour))
        gone = [_REVOKED + record.serial for record in await self._revoked() if record.not_after < ended]
        for stored in await _kept(self._consul.read_all(_LATE)):
            if msgspec.json.decode(stored.value, type=_Late).not_after < dead:
                gone.append(stored.key)
        for stored in await _kept(self._consul.read_all(_IDENTITIES)):
            if msgspec.json.decode(stored.value, type=int) < now - _KEEP_MARKS:
                gone.append(stored.key)
        for token in await self.tokens():
            if token.expires_at < dead:
                await _kept(self._consul.delete_all(f"{_KEYS}{token.id}/"))
                gone.append(_TOKENS + token.id)
        for key in gone:
            await _kept(self._consul.transact([Operation("delete", key)]))

    async def follow(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Call `changed` whenever a revocation was recorded, by whomever; for ever."""
        index = 0
        while True:
            try:
                now = await _kept(self._consul.wait(_REVOCATIONS, index))
                if now != index:
                    index = now
                    await changed()
            except InventoryError as error:
                _LOG.error("%s", error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _spend_token(self, use: TokenUse, issue: IssueRecord, own: Operation) -> bool:
        found = await self._consul.read(_TOKENS + use.token_id)
        if found is None:
            raise Refusal.unauthenticated("join token: not known to this CA")
        token, known = _token(found), await self.knows_key(use)
        check_lives(token, issue.issued_at)
        check_use(token, known=known)
        if known:
            return await self._write([Operation("check-index", found.key, index=found.modified), own])
        spent = replace(token, used=token.used + 1)
        return await self._write([_changed(found, spent), Operation("cas", _key_key(use), b"1"), own])

    async def _succeed(self, claim: Succession | LateSuccession, issue: IssueRecord, own: Operation) -> bool:
        mark = await self._mark_of(claim, issue.name)
        steps = [Operation("check-not-exists", _REVOKED + claim.serial), _unchanged(f"{_IDENTITIES}{issue.name}", mark)]
        if isinstance(claim, LateSuccession):
            steps += await self._late_steps(claim, issue)
        return await self._write([*steps, own])

    async def _mark_of(self, claim: Succession | LateSuccession, name: str) -> Stored | None:
        """Return the mark of a revoked identity, if there is one; raises Refusal if this certificate is revoked."""
        mark = await self._consul.read(f"{_IDENTITIES}{name}")
        if await self._consul.read(_REVOKED + claim.serial) or (mark and not await self._is_after(claim, mark)):
            raise Refusal.denied(f"certificate {claim.serial}: revoked")
        return mark

    async def _late_steps(self, claim: LateSuccession, issue: IssueRecord) -> list[Operation]:
        before = await self._consul.read(_LATE + claim.serial)
        if before is None:
            value = msgspec.json.encode(_Late(claim.key_hash, issue.not_after))
            return [Operation("cas", _LATE + claim.serial, value)]
        if msgspec.json.decode(before.value, type=_Late).key_hash != claim.key_hash:
            raise Refusal.denied(f"certificate {claim.serial}: was renewed after its end already, once is allowed")
        return []

    async def _is_after(self, claim: Succession | LateSuccession, mark: Stored) -> bool:
        """Tell whether a certificate was recorded after the mark; by Raft's order, which no clock can confuse."""
        found = await self._consul.read(f"{_CERTIFICATES}{_hour(claim.not_after)}{claim.serial}")
        return found is not None and found.created > mark.modified

    async def _revoked(self) -> list[IssueRecord]:
        found = await _kept(self._consul.read_all(_REVOKED))
        return [msgspec.json.decode(stored.value, type=IssueRecord) for stored in found]

    async def _write(self, operations: list[Operation]) -> bool:
        return await self._consul.transact(operations) is None

    async def _try(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do the work again while others are quicker (it returns nothing true then)."""
        for _ in range(_TRIES):
            done = await _kept(work())
            if done:
                return done
        raise InventoryError("inventory: too many others write the same record at once; or the record is there already")


def _certificate_key(record: IssueRecord) -> str:
    return f"{_CERTIFICATES}{_hour(record.not_after)}{record.serial}"


def _hour(moment: float) -> str:
    """Return the folder of an hour; they sort by time."""
    return (datetime.fromtimestamp(0, UTC) + timedelta(seconds=moment)).strftime("%Y%m%d%H/")


def _key_key(use: TokenUse) -> str:
    return f"{_KEYS}{use.token_id}/{use.key_hash.hex()}"


def _token(stored: Stored) -> TokenRecord:
    return msgspec.json.decode(stored.value, type=TokenRecord)


def _changed(stored: Stored, token: TokenRecord) -> Operation:
    return Operation("cas", stored.key, msgspec.json.encode(token), stored.modified)


def _unchanged(key: str, stored: Stored | None) -> Operation:
    return Operation("check-index", key, index=stored.modified) if stored else Operation("check-not-exists", key)


def _wanted(record: IssueRecord, search: Search) -> bool:
    return (
        record.not_after > search.ends_after
        and (not search.name or record.name == search.name)
        and (not search.serial or record.serial == search.serial)
        and (bool(record.revoked_at) or not search.revoked_only)
    )


async def _kept(work: Coroutine[Any, Any, T]) -> T:
    """Await what asks Consul; its faults and unreadable values are the inventory's."""
    try:
        return await work
    except (ConsulFault, msgspec.DecodeError) as error:
        raise InventoryError(f"inventory: {error}") from error
