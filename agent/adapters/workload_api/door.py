"""The socket that local programs connect to: learns from the kernel who they are and passes their bytes on.

gRPC does not tell a server the Unix user of its peer. So this door asks the kernel (SO_PEERCRED), and connects to the
gRPC server's own socket, in a folder for this user alone, from an address that names the user.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import socket
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path

from agent.errors import HostError

MAX_PER_USER = 64
MAX_CONNECTIONS = 512
_CREDENTIALS = struct.Struct("3i")
_PIECE = 65536
_NAME = re.compile(r"hostmesh-workload-[0-9a-f]{16}-\d+-uid-(\d+)$")


def uid_of(peer: str) -> int | None:
    """Return the Unix user of a connection that came through the door, by gRPC's name of its peer."""
    match = _NAME.search(peer)
    return int(match[1]) if match else None


class Door:
    """Listens for local programs, everybody of this host; `inner` is the gRPC server's socket."""

    def __init__(self, outer: Path, inner: Path) -> None:
        self._outer = outer
        self._inner = inner
        self._name = f"hostmesh-workload-{secrets.token_hex(8)}"
        self._numbers = itertools.count()
        self._open: Counter[int] = Counter()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; raises HostError."""
        try:
            self._outer.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._pass, str(self._outer), limit=_PIECE)
            os.chmod(self._outer, 0o666)  # who it is decides, not who may connect
        except OSError as error:
            raise HostError(f"{self._outer}: cannot be listened on: {error.strerror or error}") from error

    async def stop(self) -> None:
        """Close it and what came through it."""
        if self._server is not None:
            self._server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _uid(writer.get_extra_info("socket"))
        if self._open[uid] >= MAX_PER_USER or self._open.total() >= MAX_CONNECTIONS:
            writer.close()
            return
        self._open[uid] += 1
        try:
            with suppress(OSError):
                inner_reader, inner_writer = await self._connect(uid)
                try:
                    await _both(reader, writer, inner_reader, inner_writer)
                finally:
                    inner_writer.close()
        finally:
            self._open[uid] -= 1
            writer.close()

    async def _connect(self, uid: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        inner.setblocking(False)
        inner.bind(f"\0{self._name}-{next(self._numbers)}-uid-{uid}")
        await asyncio.get_running_loop().sock_connect(inner, str(self._inner))
        return await asyncio.open_unix_connection(sock=inner, limit=_PIECE)


def _uid(accepted: socket.socket) -> int:
    credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


async def _both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    inner_reader: asyncio.StreamReader,
    inner_writer: asyncio.StreamWriter,
) -> None:
    """Pass bytes both ways until one side ends."""
    ways = [asyncio.create_task(_one_way(reader, inner_writer)), asyncio.create_task(_one_way(inner_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
