"""Holds a TLS connection with a client certificate. Usage: tls_idler.py HOST PORT CERTIFICATES [busy]

Makes one request, prints "started", then waits (busy: makes five requests a second); when the connection ends, prints
the Unix time of that. Ends at once with an error where it is refused.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time


def main() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(f"{sys.argv[3]}/cert-chain.pem", f"{sys.argv[3]}/key.pem")
    with (
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as plain,
        context.wrap_socket(plain) as connection,
    ):
        if not _ask(connection):
            sys.exit("refused")
        sys.stdout.write("started\n")
        sys.stdout.flush()
        connection.settimeout(None)
        try:
            while _ask(connection) if "busy" in sys.argv else connection.recv(65536):
                time.sleep(0.2)
        except OSError:
            pass
        sys.stdout.write(f"{time.time():.3f}\n")


def _ask(connection: ssl.SSLSocket) -> bool:
    connection.sendall(b"GET /details/0 HTTP/1.1\r\nhost: details\r\n\r\n")
    return connection.recv(65536).startswith(b"HTTP/1.1 200")


if __name__ == "__main__":
    main()
