"""The records of one CA in SQLite: what is answered has been recorded durably before.

May not decide entitlement (policy does), nor see a token's secret.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from node_ca.errors import InventoryError, Refusal
from node_ca.group_commit import GroupCommit
from node_ca.identity import WorkloadIdentity
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

_SCHEMA_VERSION = 2
_SCHEMAS = {
    1: """
CREATE TABLE certificates (
  serial TEXT PRIMARY KEY, name TEXT NOT NULL, not_before INTEGER NOT NULL, not_after INTEGER NOT NULL,
  issued_at REAL NOT NULL, issued_by TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX certificates_by_name ON certificates (name, not_after);
CREATE TABLE tokens (
  id TEXT PRIMARY KEY, secret_hash BLOB NOT NULL, identity TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, uses INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE token_keys (
  token_id TEXT NOT NULL, key_hash BLOB NOT NULL, PRIMARY KEY (token_id, key_hash)
) WITHOUT ROWID;
""",
    2: """
ALTER TABLE certificates ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
ALTER TABLE certificates ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE certificates ADD COLUMN revoked_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE certificates ADD COLUMN revoked_for TEXT NOT NULL DEFAULT '';
CREATE INDEX certificates_revoked ON certificates (not_after) WHERE revoked_at != 0;
CREATE INDEX certificates_by_end ON certificates (not_after);
ALTER TABLE tokens ADD COLUMN revoked_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tokens ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
UPDATE tokens SET used = (SELECT COUNT(*) FROM token_keys WHERE token_id = id);
CREATE TABLE late_successions (
  serial TEXT PRIMARY KEY, key_hash BLOB NOT NULL, not_after INTEGER NOT NULL
) WITHOUT ROWID;
""",
}
"""What each version adds to the one before."""
_PAGE = 500


class SqliteInventory:
    """`records.Inventory` in a file."""

    def __init__(self, database: GroupCommit) -> None:
        self._database = database

    @classmethod
    async def open(cls, path: Path) -> SqliteInventory:
        """Open the file, making it (mode 0600) or bringing it up to this version's form; raises InventoryError."""
        return cls(await GroupCommit.open(path, lambda connection: _prepare(connection, path)))

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        await self._database.close()

    async def record_issue(self, issue: IssueRecord, claim: Claim | None = None) -> None:
        """Record an issue together with the use of what pays for it; raises Refusal if that does not hold."""

        def record(connection: sqlite3.Connection) -> None:
            if claim is not None:
                _spend(connection, claim, issue)
            values = (
                issue.serial, issue.name, issue.not_before, issue.not_after, issue.issued_at, issue.issued_by,
                issue.fingerprint, issue.issuer, issue.revoked_at, issue.revoked_for,
            )  # fmt: skip
            connection.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

        await self._database.run(record)

    async def check_holds(self, held: Succession, name: str) -> None:
        """Raise Refusal if this certificate is revoked."""
        await self._database.run(lambda connection: _check_holds(connection, held.serial))

    async def add_token(self, token: TokenRecord) -> None:
        """Record a new token."""

        def add(connection: sqlite3.Connection) -> None:
            values = (
                token.id, token.secret_hash, str(token.identity), token.created_at, token.expires_at, token.uses,
                token.revoked_at, token.used,
            )  # fmt: skip
            connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

        await self._database.run(add)

    async def token(self, token_id: str) -> TokenRecord | None:
        """Return a token, or None."""
        return await self._database.run(lambda connection: _token(connection, token_id))

    async def knows_key(self, use: TokenUse) -> bool:
        """Tell whether this key was enrolled with this token."""
        return await self._database.run(lambda connection: _knows_key(connection, use))

    async def tokens(self) -> list[TokenRecord]:
        """Return all tokens, oldest first."""
        return await self._database.run(lambda connection: _tokens(connection, "1 ORDER BY created_at, id"))

    async def revoke_token(self, token_id: str, now: float) -> TokenRecord | None:
        """Make a token unusable; return it, or None if there is none."""

        def revoke(connection: sqlite3.Connection) -> TokenRecord | None:
            connection.execute("UPDATE tokens SET revoked_at = ? WHERE id = ? AND revoked_at = 0", (int(now), token_id))
            return _token(connection, token_id)

        return await self._database.run(revoke)

    async def search(self, search: Search) -> AsyncIterator[IssueRecord]:
        """Yield certificates in the order of their serials, read page by page."""
        last = ""
        while True:
            page = await self._database.run(partial(_page, search=search, after=last))
            for record in page:
                yield record
            if len(page) < _PAGE:
                return
            last = page[-1].serial

    async def revoke(self, revocation: Revocation, now: float) -> Revoked:
        """Revoke one certificate, or all of an identity with its tokens."""
        return await self._database.run(lambda connection: _revoke(connection, revocation, int(now)))

    async def revoked(self, now: float) -> tuple[IssueRecord, ...]:
        """Return the revoked certificates that have not ended, by serial."""

        def read(connection: sqlite3.Connection) -> tuple[IssueRecord, ...]:
            where = "WHERE revoked_at != 0 AND not_after > ? ORDER BY serial"
            return tuple(_issues(connection, where, (now,)))

        return await self._database.run(read)

    async def prune(self, now: float) -> None:
        """Forget certificates and tokens that ended long ago."""

        def prune(connection: sqlite3.Connection) -> None:
            ended, dead = (now - KEEP_ENDED,), (now - KEEP_EXPIRED_TOKENS,)
            connection.execute("DELETE FROM certificates WHERE not_after < ?", ended)
            connection.execute("DELETE FROM late_successions WHERE not_after < ?", dead)
            connection.execute(
                "DELETE FROM token_keys WHERE token_id IN (SELECT id FROM tokens WHERE expires_at < ?)", dead
            )
            connection.execute("DELETE FROM tokens WHERE expires_at < ?", dead)

        await self._database.run(prune)

    async def follow(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Wait for ever: nobody else writes here."""
        await asyncio.Event().wait()


def _spend(connection: sqlite3.Connection, claim: Claim, issue: IssueRecord) -> None:
    if isinstance(claim, TokenUse):
        token = _token(connection, claim.token_id)
        if token is None:
            raise Refusal.unauthenticated("join token: not known to this CA")
        check_lives(token, issue.issued_at)
        check_use(token, known=_knows_key(connection, claim))
        inserted = connection.execute("INSERT OR IGNORE INTO token_keys VALUES (?, ?)", (token.id, claim.key_hash))
        connection.execute("UPDATE tokens SET used = used + ? WHERE id = ?", (inserted.rowcount, token.id))
        return
    _check_holds(connection, claim.serial)
    if isinstance(claim, LateSuccession):
        _renew_late(connection, claim)


def _check_holds(connection: sqlite3.Connection, serial: str) -> None:
    found = _issues(connection, "WHERE serial = ?", (serial,))
    if found and found[0].revoked_at:
        raise Refusal.denied(f"certificate {serial}: revoked")


def _knows_key(connection: sqlite3.Connection, use: TokenUse) -> bool:
    where = "token_id = ? AND key_hash = ?"
    found = connection.execute(f"SELECT 1 FROM token_keys WHERE {where}", (use.token_id, use.key_hash))
    return found.fetchone() is not None


def _renew_late(connection: sqlite3.Connection, claim: LateSuccession) -> None:
    values = (claim.serial, claim.key_hash, claim.not_after)
    connection.execute("INSERT OR IGNORE INTO late_successions VALUES (?, ?, ?)", values)
    (key_hash,) = connection.execute(
        "SELECT key_hash FROM late_successions WHERE serial = ?", (claim.serial,)
    ).fetchone()
    if key_hash != claim.key_hash:
        raise Refusal.denied(f"certificate {claim.serial}: was renewed after its end already, once is allowed")


def _revoke(connection: sqlite3.Connection, revocation: Revocation, now: int) -> Revoked:
    if revocation.identity is None:
        which: tuple[str, tuple[object, ...]] = ("serial = ?", (revocation.serial,))
        tokens = []
    else:
        which = "name = ?", (str(revocation.identity),)  # those just ended, too: no late renewal for them
        living = "identity = ? AND revoked_at = 0 AND expires_at > ?"
        tokens = _tokens(connection, living, (str(revocation.identity), now))
    where, values = which
    found = _issues(connection, f"WHERE {where} AND revoked_at = 0 ORDER BY serial", values)
    for record in found:
        connection.execute(
            "UPDATE certificates SET revoked_at = ?, revoked_for = ? WHERE serial = ?",
            (now, revocation.reason, record.serial),
        )
    for token in tokens:
        connection.execute("UPDATE tokens SET revoked_at = ? WHERE id = ?", (now, token.id))
    return Revoked(
        tuple(replace(record, revoked_at=now, revoked_for=revocation.reason) for record in found),
        tuple(replace(token, revoked_at=now) for token in tokens),
    )


def _page(connection: sqlite3.Connection, search: Search, after: str) -> list[IssueRecord]:
    conditions = ["serial > ?", "not_after > ?"]
    values: list[object] = [after, search.ends_after]
    for column, value in (("name", search.name), ("serial", search.serial)):
        if value:
            conditions.append(f"{column} = ?")
            values.append(value)
    if search.revoked_only:
        conditions.append("revoked_at != 0")
    return _issues(connection, f"WHERE {' AND '.join(conditions)} ORDER BY serial LIMIT {_PAGE}", values)


def _issues(connection: sqlite3.Connection, where: str, values: object) -> list[IssueRecord]:
    rows = connection.execute(f"SELECT * FROM certificates {where}", values)  # type: ignore[arg-type]
    return [IssueRecord(*row) for row in rows]


def _token(connection: sqlite3.Connection, token_id: str) -> TokenRecord | None:
    found = _tokens(connection, "id = ?", (token_id,))
    return found[0] if found else None


def _tokens(connection: sqlite3.Connection, where: str, values: tuple[object, ...] = ()) -> list[TokenRecord]:
    rows = connection.execute(f"SELECT * FROM tokens WHERE {where}", values)
    return [
        TokenRecord(
            id=token_id,
            secret_hash=secret_hash,
            identity=WorkloadIdentity.from_path(identity),
            created_at=created_at,
            expires_at=expires_at,
            uses=uses,
            used=used,
            revoked_at=revoked_at,
        )
        for token_id, secret_hash, identity, created_at, expires_at, uses, revoked_at, used in rows
    ]


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _SCHEMA_VERSION:
        raise InventoryError(f"{path}: was written by another version of hostmesh-ca (schema {version})")
    for step in range(version + 1, _SCHEMA_VERSION + 1):
        connection.executescript(f"BEGIN; {_SCHEMAS[step]} PRAGMA user_version = {step}; COMMIT;")
