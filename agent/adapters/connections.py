"""Open TCP connections of this host as the kernel knows them (`ss`, from iproute2), and their end. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from agent.adapters.command import CommandRunner

_AT_ONCE = 100


class Connections:
    """Accepted connections of one local port, and those to others; HostError if `ss` is not there or may not."""

    def __init__(self, runner: CommandRunner, port: int) -> None:
        self._runner = runner
        self._port = port

    async def idle_times(self) -> dict[str, float]:
        """Return for each peer (`ADDRESS:PORT`) how long nothing has come from it, in seconds."""
        output = await self._runner.run(["ss", "-HOtni", "state", "established", f"sport = :{self._port}"])
        return dict(_parsed(line) for line in output.splitlines() if line.strip())

    async def end(self, peers: Iterable[str]) -> None:
        """End accepted connections with these peers; both sides see a reset (needs CAP_NET_ADMIN)."""
        await self._end(peers, f"sport = :{self._port}")

    async def end_to(self, servers: Iterable[str]) -> None:
        """End the connections to these (`ADDRESS:PORT`)."""
        await self._end(servers, f"sport != :{self._port}")

    async def _end(self, remote: Iterable[str], condition: str) -> None:
        ordered = sorted(remote)
        for first in range(0, len(ordered), _AT_ONCE):
            some = " or ".join(f"dst {address}" for address in ordered[first : first + _AT_ONCE])
            await self._runner.run(["ss", "-HKtn", f"{condition} and ( {some} )"])


def _parsed(line: str) -> tuple[str, float]:
    """Read `RECV-Q SEND-Q LOCAL PEER … lastrcv:MILLISECONDS …`; ss leaves out a time of zero."""
    words = line.split()
    times = (word.removeprefix("lastrcv:") for word in words if word.startswith("lastrcv:"))
    return words[3], int(next(times, "0")) / 1000
