"""A TCP client that keeps one connection, run as a program on a lab's host. Usage: talker.py HOST PORT [silent]

Sends a line ten times a second and wants it back, or (silent) only listens. Prints "started", and when the connection
ends the Unix time of that; it ends by itself never.
"""

from __future__ import annotations

import socket
import sys
import time


def main() -> None:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
        stream = connection.makefile("rwb")
        if not stream.readline():
            sys.exit("closed at once")
        connection.settimeout(None)
        sys.stdout.write("started\n")
        sys.stdout.flush()
        try:
            while True:
                if "silent" not in sys.argv:
                    stream.write(b"hello\n")
                    stream.flush()
                if stream.readline() == b"":
                    break
                time.sleep(0.1)
        except OSError:
            pass
        sys.stdout.write(f"{time.time():.3f}\n")


if __name__ == "__main__":
    main()
