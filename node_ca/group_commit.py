"""One SQLite connection in a thread of its own; what arrives while a commit is under way shares the next one.

An fsync takes milliseconds: callers that wait for the disk together wait once. Each piece of work is all or nothing on
its own (a savepoint). May not know what the work is.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from node_ca.errors import CaError, InventoryError

MAX_GROUP = 256
"""Pieces of work in one commit, so that a long queue does not make the first of it wait for the last."""
BUSY_SECONDS = 1.0
"""How long a commit waits for another program that holds the file; nobody should."""

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]


class _Piece(Generic[T]):
    """Work, and who waits for it."""

    def __init__(self, work: Work[T], future: asyncio.Future[T]) -> None:
        self.work = work
        self.future = future
        self.outcome: T | None = None
        self.error: BaseException | None = None

    def do(self, connection: sqlite3.Connection) -> None:
        connection.execute("SAVEPOINT piece")
        try:
            self.outcome = self.work(connection)
        except (CaError, sqlite3.Error) as error:
            self.error = _translated(error)
            connection.execute("ROLLBACK TO piece")
        connection.execute("RELEASE piece")

    def answer(self) -> None:
        if self.future.done():  # the caller went away meanwhile; what was recorded stays recorded
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.outcome)  # type: ignore[arg-type]  # T may be None itself


class GroupCommit:
    """Runs work against the database; `run` returns when it is on the disk."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self._waiting: list[_Piece[Any]] = []
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> GroupCommit:
        """Open the file, making it (mode 0600) if it doesn't exist; `prepare` sees the connection first."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="inventory")

        def connect() -> sqlite3.Connection:
            path.touch(mode=0o600)  # SQLite gives its -wal and -shm files the mode of the database
            connection = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
            prepare(connection)
            return connection

        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, connect)
        except (sqlite3.Error, OSError) as error:
            thread.shutdown()
            raise _translated(error) from error
        return cls(connection, thread)

    async def run(self, work: Work[T]) -> T:
        """Do the work in the next commit; raises InventoryError if it or the commit fails, or what the work raises."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Piece(work, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="inventory")
        return await future

    async def close(self) -> None:
        """Finish what is under way and close the file."""
        if self._writer is not None:
            await self._writer
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            await loop.run_in_executor(self._thread, self._commit, group)
            for piece in group:
                piece.answer()

    def _commit(self, group: list[_Piece[Any]]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for piece in group:
                piece.do(self._connection)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:  # the disk: nobody's work is done
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            for piece in group:
                piece.error = _translated(error)


def _translated(error: BaseException) -> BaseException:
    if isinstance(error, CaError):
        return error
    fault = InventoryError(f"inventory: {error}")
    fault.__cause__ = error
    return fault
