"""Sends metrics to a statsd server, by UDP: a server that is away or slow costs nothing but what was for it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.mesh.mixer_metrics import MetricKind, Outlet, Statsd
from agent.runtime.telemetry.series import number

MAX_WAITING = 10_000
"""Lines; what is more is lost, and counted."""
RESOLVE_SECONDS = 2.0
_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_UNFIT = re.compile(r"[:|@\s]")
"""What means something in statsd's own lines."""


class StatsdQueue:
    """What is to be sent to one server."""

    def __init__(self, server: Statsd) -> None:
        self.server = server
        self.lost = 0
        """Lines that could not be sent."""
        self.sent = 0
        self._lines: list[str] = []

    def add(
        self,
        outlet: Outlet,
        dimensions: Mapping[str, str],
        amounts: Iterable[tuple[float, float]],
        is_duration: bool,
    ) -> None:
        """Add values, each with how often it was there."""
        name = self.server.prefix + _FIELD.sub(lambda match: dimensions.get(match[1], ""), outlet.name)
        for line in _lines(_UNFIT.sub("_", name), outlet.kind, amounts, is_duration):
            if len(self._lines) < MAX_WAITING:
                self._lines.append(line)
            else:
                self.lost += 1

    def waiting(self) -> Iterator[bytes]:
        """Yield the datagrams that are to be sent."""
        return _datagrams(self._lines, self.server.flush_bytes)

    async def flush(self) -> None:
        """Send what has come since the last time."""
        count, datagrams = len(self._lines), tuple(self.waiting())
        self._lines = []
        if not datagrams:
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await loop.getaddrinfo(self.server.host, self.server.port, type=socket.SOCK_DGRAM)
        except (OSError, TimeoutError):
            found = []
        if any(_sent(family, address, datagrams) for family, _, _, _, address in found):
            self.sent += count
        else:
            self.lost += count


def _sent(family: int, address: Any, datagrams: Iterable[bytes]) -> bool:
    """Send to an address; tell whether nobody there has refused it so far (only the host itself says that at once)."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(address)
            for datagram in datagrams:
                sender.send(datagram)
            return sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    except OSError:
        return False


def _lines(name: str, kind: MetricKind, amounts: Iterable[tuple[float, float]], is_duration: bool) -> Iterator[str]:
    """Yield the lines of values; of durations, which are in seconds here, milliseconds."""
    values = list(amounts)
    total, times = sum(value * count for value, count in values), sum(count for _, count in values)
    match kind:
        case MetricKind.COUNTER:
            yield f"{name}:{number(total)}|c"
        case MetricKind.GAUGE:
            yield f"{name}:{number(round(total / times, 6))}|g"
        case MetricKind.DISTRIBUTION:
            for value, count in values:
                share = f"|@{1 / count:.9g}" if count > 1 else ""
                yield f"{name}:{number(round(value * (1000 if is_duration else 1), 6))}|ms{share}"


def _datagrams(lines: Iterable[str], limit: int) -> Iterator[bytes]:
    """Yield lines together, no more than `limit` bytes unless one alone is."""
    packet = b""
    for line in (text.encode() for text in lines):
        if packet and len(packet) + 1 + len(line) > limit:
            yield packet
            packet = b""
        packet = packet + b"\n" + line if packet else line
    if packet:
        yield packet
