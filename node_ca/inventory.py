"""Issued certificates and join tokens in SQLite: what is answered has been recorded durably before.

WAL with synchronous FULL: a commit is on the disk when it returns. All work is done in one thread of its own, off the
event loop. May not decide entitlement (policy does), nor see a token's secret.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from node_ca.errors import InventoryError, Refusal
from node_ca.identity import WorkloadIdentity
from node_ca.policy import TokenRecord, check_use

_SCHEMA_VERSION = 1
_SCHEMA = """
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
"""
_KEEP_EXPIRED_TOKENS = 30 * 86400
"""Seconds; so long `token list` can still say what became of one."""

T = TypeVar("T")


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
    """`token:ID`, `certificate:SERIAL` (renewal) or `ca`."""


@dataclass(frozen=True)
class Redemption:
    """The use of a token that pays for an issue."""

    token_id: str
    key_hash: bytes


class Inventory:
    """The records of one CA; every method raises InventoryError when the disk or file fails."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path) -> Inventory:
        """Open the file, making it (mode 0600) if it doesn't exist."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="inventory")
        connection = await _in_thread(thread, lambda: _connect(path))
        return cls(connection, thread)

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def record_issue(self, issue: IssueRecord, redemption: Redemption | None = None) -> None:
        """Record an issue, and with it the use of the token that pays for it: both or neither.

        Raises Refusal if the token has been used up or has expired meanwhile.
        """
        await self._run(lambda: self._record_issue(issue, redemption))

    async def add_token(self, token: TokenRecord) -> None:
        """Record a new token."""
        await self._run(lambda: self._add_token(token))

    async def token(self, token_id: str) -> TokenRecord | None:
        """Return a token, or None."""
        return await self._run(lambda: self._token(token_id))

    async def tokens(self) -> list[TokenRecord]:
        """Return all tokens, oldest first; those long expired are gone."""
        return await self._run(self._tokens)

    async def issues(self, name: str | None = None) -> list[IssueRecord]:
        """Return the issued certificates (of one name), oldest first."""
        return await self._run(lambda: self._issues(name))

    async def _run(self, work: Callable[[], T]) -> T:
        return await _in_thread(self._thread, work)

    def _record_issue(self, issue: IssueRecord, redemption: Redemption | None) -> None:
        with self._transaction():
            if redemption is not None:
                self._redeem(redemption, issue.issued_at)
            values = (issue.serial, issue.name, issue.not_before, issue.not_after, issue.issued_at, issue.issued_by)
            self._connection.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?)", values)

    def _redeem(self, redemption: Redemption, now: float) -> None:
        token = self._token(redemption.token_id)
        if token is None or now >= token.expires_at:
            raise Refusal.unauthenticated(f"join token {redemption.token_id}: expired meanwhile")
        check_use(token, redemption.key_hash)
        self._connection.execute(
            "INSERT OR IGNORE INTO token_keys VALUES (?, ?)", (redemption.token_id, redemption.key_hash)
        )

    def _add_token(self, token: TokenRecord) -> None:
        with self._transaction():
            dead = (token.created_at - _KEEP_EXPIRED_TOKENS,)
            self._connection.execute(
                "DELETE FROM token_keys WHERE token_id IN (SELECT id FROM tokens WHERE expires_at < ?)", dead
            )
            self._connection.execute("DELETE FROM tokens WHERE expires_at < ?", dead)
            values = (
                token.id, token.secret_hash, str(token.identity), token.created_at, token.expires_at, token.uses
            )  # fmt: skip
            self._connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?)", values)

    def _token(self, token_id: str) -> TokenRecord | None:
        row = self._connection.execute("SELECT * FROM tokens WHERE id = ?", (token_id,)).fetchone()
        return self._token_from_row(row) if row else None

    def _tokens(self) -> list[TokenRecord]:
        rows = self._connection.execute("SELECT * FROM tokens ORDER BY created_at, id").fetchall()
        return [self._token_from_row(row) for row in rows]

    def _token_from_row(self, row: tuple[str, bytes, str, int, int, int]) -> TokenRecord:
        token_id, secret_hash, identity, created_at, expires_at, uses = row
        keys = self._connection.execute("SELECT key_hash FROM token_keys WHERE token_id = ?", (token_id,)).fetchall()
        return TokenRecord(
            id=token_id,
            secret_hash=secret_hash,
            identity=WorkloadIdentity.from_path(identity),
            created_at=created_at,
            expires_at=expires_at,
            uses=uses,
            keys=frozenset(key for (key,) in keys),
        )

    def _issues(self, name: str | None) -> list[IssueRecord]:
        where, values = ("", ()) if name is None else ("WHERE name = ? ", (name,))
        rows = self._connection.execute(f"SELECT * FROM certificates {where}ORDER BY issued_at", values).fetchall()
        return [IssueRecord(*row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _connect(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)  # SQLite gives its -wal and -shm files the mode of the database
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
    elif version != _SCHEMA_VERSION:
        raise InventoryError(f"{path}: was written by another version of hostmesh-ca (schema {version})")
    return connection


async def _in_thread(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    def translated() -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            raise InventoryError(f"inventory: {error}") from error

    return await asyncio.get_running_loop().run_in_executor(thread, translated)
