"""Holds a TLS connection with a client certificate and says nothing. Usage: tls_idler.py HOST PORT CERTIFICATES

Makes one request, prints "started", then waits; when the connection ends, prints the Unix time of that. Ends at once
with an error where it is refused.
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
        connection.sendall(b"GET /details/0 HTTP/1.1\r\nhost: details\r\n\r\n")
        if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
            sys.exit("refused")
        sys.stdout.write("started\n")
        sys.stdout.flush()
        connection.settimeout(None)
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass
        sys.stdout.write(f"{time.time():.3f}\n")


if __name__ == "__main__":
    main()
