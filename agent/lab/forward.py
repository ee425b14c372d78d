"""A TCP forwarder from the machine's loopback into a lab host: listens first, then moves into the host's namespace.

Run: python -m agent.lab.forward LISTEN_PORT NAMESPACE_FILE TARGET_PORT. Imports next to nothing, so that it is light.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from agent.lab.network import enter

NOBODY = 65534
_CHUNK = 1 << 16


def main() -> None:
    """Forward until a signal ends the process."""
    listen_port, namespace, target_port = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    listener = socket.create_server(("127.0.0.1", listen_port), backlog=512)
    enter(namespace)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    asyncio.run(_serve(listener, target_port))


async def _serve(listener: socket.socket, target_port: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _forward(reader, writer, target_port)

    server = await asyncio.start_server(accept, sock=listener)
    await server.serve_forever()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target_port: int) -> None:
    try:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", target_port)
    except OSError:
        writer.transport.abort()  # a reset, as a closed port would give
        return
    await asyncio.gather(_pump(reader, target_writer), _pump(target_reader, writer))
    for side in (writer, target_writer):
        side.close()  # what is still in its buffer goes out first


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction to its end, then close that direction (half-close is kept)."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()


if __name__ == "__main__":
    main()
