"""Serves a key set at every path, by HTTPS if NAME is given. A program for tests. Usage: key_server.py PORT [NAME]

At /list there is a list of one entry: a few times, and from then on an answer without an end.

The key set is in KEY_SET; certificate and key are NAME.crt and NAME.key in STATE_DIRECTORY.
"""

from __future__ import annotations

import os
import ssl
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

LISTS = 15
"""As often there is the list: enough for every agent."""
_ASKED = count()


class Handler(BaseHTTPRequestHandler):
    """Gives the key set."""

    def do_GET(self) -> None:
        """Answer."""
        if self.path == "/list":
            self._list()
            return
        body = os.environ["KEY_SET"].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _list(self) -> None:
        hostile = next(_ASKED) >= LISTS
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"mallory\n")
        with suppress(OSError):
            while hostile:
                self.wfile.write(b"alice\n" * 1000)
        self.close_connection = True


def main() -> None:
    """Serve until killed."""
    server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
    for name in sys.argv[2:]:
        folder, context = Path(os.environ["STATE_DIRECTORY"]), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
