"""A TCP server that speaks first, as MySQL does: says its name, then echoes lines. Usage: greeter.py PORT NAME"""

from __future__ import annotations

import asyncio
import sys


async def main() -> None:
    port, name = int(sys.argv[1]), sys.argv[2]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"hello from {name}\n".encode())
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "0.0.0.0", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
