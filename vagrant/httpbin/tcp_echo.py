"""A server that is not HTTP: sends back each line with a word before it. Run: python tcp_echo.py [PORT [WORD]]"""

from __future__ import annotations

import socketserver
import sys

MAX_LINE = 1 << 16


class Echo(socketserver.StreamRequestHandler):
    """One connection: line after line, until the client ends it."""

    word = "hello"

    def handle(self) -> None:
        """Answer each line."""
        while line := self.rfile.readline(MAX_LINE):
            self.wfile.write(f"{self.word} ".encode() + line)


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128


if __name__ == "__main__":
    arguments = [*sys.argv[1:], "9000"]
    Echo.word = sys.argv[2] if len(sys.argv) > 2 else Echo.word
    with Server(("0.0.0.0", int(arguments[0])), Echo) as server:
        server.serve_forever()
