"""Sends log entries to a server by fluentd's forward protocol (version 1, forward mode, with acknowledgements).

Nothing is waited for by anybody else: what waits is bounded in entries and bytes, what is too much is lost and counted.
A batch that the server has not acknowledged is sent again, so an entry may come twice and is counted as sent once.
"""

from __future__ import annotations

import asyncio
import secrets
import struct
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from agent.mesh.mixer_logs import Fluentd

FIRST_RETRY_SECONDS = 0.2
LONGEST_RETRY_SECONDS = 5.0
MAX_ANSWER_BYTES = 4096
_EVENT_TIME = 0
"""The extension type of a time with nanoseconds."""


class _Entry(Struct, frozen=True):
    tag: str
    encoded: bytes


class Forwarder:
    """Sends to one server, through a Unix socket that leads there."""

    def __init__(self, server: Fluentd, socket: Path, on_state: Callable[[str | None], None]) -> None:
        """`on_state` is told why the server takes nothing, None once it does."""
        self.server = server
        self.sent = 0
        self.lost = 0
        self._socket = socket
        self._on_state = on_state
        self._waiting: list[_Entry] = []
        self._bytes = 0
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def put(self, tag: str, at: datetime, record: Mapping[str, Any]) -> None:
        """Take an entry, or lose it if too much waits."""
        whole, part = divmod(at.timestamp(), 1)
        time = msgspec.msgpack.Ext(_EVENT_TIME, struct.pack(">II", int(whole), int(part * 1e9)))
        encoded = msgspec.msgpack.encode((time, record))
        full = self._bytes + len(encoded) > self.server.batch_bytes
        if full or len(self._waiting) >= self.server.waiting_entries:
            self.lost += 1
            self._enough.set()
            return
        self._waiting.append(_Entry(tag, encoded))
        self._bytes += len(encoded)
        self._some.set()
        if 2 * len(self._waiting) >= self.server.waiting_entries or 2 * self._bytes >= self.server.batch_bytes:
            self._enough.set()

    async def run(self) -> None:
        """Send what comes, until cancelled; what waits then is lost."""
        try:
            while True:
                await self._some.wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.server.interval):
                        await self._enough.wait()
                await self._deliver(self._take())
        finally:
            self.lost += len(self._waiting)
            self._close()

    def _take(self) -> dict[str, list[bytes]]:
        """Return everything that waits, by tag."""
        batch: dict[str, list[bytes]] = {}
        for entry in self._waiting:
            batch.setdefault(entry.tag, []).append(entry.encoded)
        self._waiting, self._bytes = [], 0
        self._some.clear()
        self._enough.clear()
        return batch

    async def _deliver(self, batch: dict[str, list[bytes]]) -> None:
        """Send a batch, again and again, until the time is over."""
        deadline, wait = asyncio.get_running_loop().time() + self.server.timeout, FIRST_RETRY_SECONDS
        while batch:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._push(batch)
                    self._on_state(None)
                    continue
            except TimeoutError:
                reason = f"has acknowledged nothing for {self.server.timeout:g} s"
            except (OSError, ValueError) as error:
                reason = str(error) or type(error).__name__
            self._close()
            self._on_state(reason)
            if asyncio.get_running_loop().time() + wait >= deadline:
                self.lost += sum(map(len, batch.values()))
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_RETRY_SECONDS)

    async def _push(self, batch: dict[str, list[bytes]]) -> None:
        """Send tag by tag; what has been acknowledged leaves the batch. Raises OSError, ValueError."""
        reader, writer = self._stream = self._stream or await asyncio.open_unix_connection(self._socket)
        while batch:
            tag, entries = next(iter(batch.items()))
            chunk = b64encode(secrets.token_bytes(12)).decode()
            raw = [msgspec.Raw(entry) for entry in entries]
            writer.write(msgspec.msgpack.encode((tag, raw, {"chunk": chunk, "size": len(raw)})))
            await writer.drain()
            if await _answer(reader) != {"ack": chunk}:
                raise ValueError("answers something else than an acknowledgement")
            self.sent += len(batch.pop(tag))

    def _close(self) -> None:
        if self._stream is not None:
            self._stream[1].transport.abort()  # what is still to be written would be sent again anyway
            self._stream = None


async def _answer(reader: asyncio.StreamReader) -> Any:
    """Return the next answer; raises ConnectionError, ValueError."""
    said = b""
    while len(said) < MAX_ANSWER_BYTES:
        piece = await reader.read(MAX_ANSWER_BYTES)
        if not piece:
            raise ConnectionError("closes the connection, or cannot be reached")
        said += piece
        with suppress(msgspec.DecodeError):  # it may be cut off
            return msgspec.msgpack.decode(said)
    raise ValueError("answers something else than an acknowledgement")
