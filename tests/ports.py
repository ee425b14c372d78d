"""Ports for what a test starts."""

from __future__ import annotations

import random
import socket

_RANGE = range(20000, 32000)
"""Below those that the kernel gives to connections: one of these could take the port before the test's program has it,
and a connection to a port of that kind where nobody listens yet can succeed, by reaching itself."""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that is free at that address now."""
    return free_ports(1, address)[0]


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Return distinct ports that are free at that address now, for TCP and for UDP (Consul's gossip needs both)."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        for port in random.SystemRandom().sample(_RANGE, count + 100):
            if len(ports) == count:
                return ports
            stream = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            held += [stream, datagram]
            try:
                stream.bind((address, port))
                datagram.bind((address, port))
            except OSError:
                continue
            ports.append(port)
        raise OSError(f"{address}: no {count} ports are free")
    finally:
        for each in held:
            each.close()
