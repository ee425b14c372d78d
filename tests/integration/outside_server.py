"""A server outside of the mesh: HTTP on 80, HTTPS on 443 with a certificate by server name. A program for tests.

Usage: outside_server.py FOLDER ADDRESS; FOLDER holds one folder NAME (key.pem, cert-chain.pem) per server name. Every
answer is JSON: how it was reached. `/delay/N` answers after N seconds.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Says what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, after the delay that the path asks for."""
        if self.path.startswith("/delay/"):
            time.sleep(float(self.path.removeprefix("/delay/")))
        name = getattr(self.connection, "asked_for", None)
        body = json.dumps({"host": self.headers["host"], "path": self.path, "sni": name}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def _tls(folder: Path) -> ssl.SSLContext:
    contexts = {}
    for chain in sorted(folder.glob("*/cert-chain.pem")):
        context = contexts[chain.parent.name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, chain.parent / "key.pem")

    def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        connection.asked_for = name  # type: ignore[attr-defined]  # the connection is where the handler finds it
        wildcard = f"*.{(name or '').partition('.')[2]}"
        if found := contexts.get(name or "") or contexts.get(wildcard):
            connection.context = found

    first = next(iter(contexts.values()))
    first.sni_callback = choose
    return first


def main() -> None:
    """Serve until killed."""
    folder, address = Path(sys.argv[1]), sys.argv[2]
    plain = ThreadingHTTPServer((address, 80), Handler)
    secure = ThreadingHTTPServer((address, 443), Handler)
    secure.socket = _tls(folder).wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    secure.serve_forever()


if __name__ == "__main__":
    main()
