"""Open TCP connections of this host as the kernel knows them (`ss`, from iproute2), and their end. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from agent.adapters.command import CommandRunner

_AT_ONCE = 100
Accepted = tuple[str, int]
"""An accepted connection: its peer (`ADDRESS:PORT`), and the local port."""


class Connections:
    """Accepted connections by local port, and those to others; HostError if `ss` is not there or may not."""

    def __init__(self, runner: CommandRunner) -> None:
        self._runner = runner

    async def idle_times(self, ports: Iterable[int]) -> dict[Accepted, float]:
        """Return for each connection that was accepted on these ports how long nothing has come, in seconds."""
        wanted = " or ".join(f"sport = :{port}" for port in sorted(ports))
        if not wanted:
            return {}
        output = await self._runner.run(["ss", "-HOtni", "state", "established", f"( {wanted} )"])
        return dict(_parsed(line) for line in output.splitlines() if line.strip())

    async def end(self, accepted: Iterable[Accepted]) -> None:
        """End these; both sides see a reset (needs CAP_NET_ADMIN)."""
        await self._end(f"( dst {peer} and sport = :{port} )" for peer, port in sorted(accepted))

    async def end_to(self, servers: Iterable[str], ports: Iterable[int]) -> None:
        """End the connections to these (`ADDRESS:PORT`), but none that was accepted on these ports."""
        others = "".join(f" and sport != :{port}" for port in sorted(ports))
        await self._end(f"( dst {server}{others} )" for server in sorted(servers))

    async def _end(self, conditions: Iterable[str]) -> None:
        every = list(conditions)
        for first in range(0, len(every), _AT_ONCE):
            await self._runner.run(["ss", "-HKtn", " or ".join(every[first : first + _AT_ONCE])])


def _parsed(line: str) -> tuple[Accepted, float]:
    """Read `RECV-Q SEND-Q LOCAL PEER … lastrcv:MILLISECONDS …`; ss leaves out a time of zero."""
    words = line.split()
    times = (word.removeprefix("lastrcv:") for word in words if word.startswith("lastrcv:"))
    return (words[3], int(words[2].rpartition(":")[2])), int(next(times, "0")) / 1000
