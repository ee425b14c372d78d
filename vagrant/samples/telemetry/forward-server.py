"""Prints what it gets by fluentd's forward protocol: a stand-in for Fluentd, to look at (needs msgspec).

forward-server.py [PORT]: a line for each entry, its tag and its record as JSON.
"""

from __future__ import annotations

import socketserver
import sys
from contextlib import suppress

import msgspec


class Connection(socketserver.BaseRequestHandler):
    """One sender; each of its messages is printed, then acknowledged."""

    def handle(self) -> None:
        """Take messages until the sender leaves."""
        said = b""
        while piece := self.request.recv(65536):
            said += piece
            with suppress(msgspec.DecodeError):  # until all of it is there
                tag, entries, options = msgspec.msgpack.decode(said)
                said = b""
                for _, record in entries:
                    sys.stdout.write(f"{tag} {msgspec.json.encode(record).decode()}\n")
                    sys.stdout.flush()
                self.request.sendall(msgspec.msgpack.encode({"ack": options["chunk"]}))


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", int(sys.argv[1]) if len(sys.argv) > 1 else 24224), Connection).serve_forever()
