"""Open TCP connections of this host as the kernel knows them (`ss`, from iproute2), and their end. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from agent.adapters.command import CommandRunner

_AT_ONCE = 100


class Connections:
    """The accepted connections of one local port; HostError if `ss` is not there or may not."""

    def __init__(self, runner: CommandRunner, port: int) -> None:
        self._runner = runner
        self._port = port

    async def idle_times(self) -> dict[str, float]:
        """Return for each peer (`ADDRESS:PORT`) how long nothing has come from it, in seconds."""
        output = await self._runner.run(["ss", "-HOtni", "state", "established", f"sport = :{self._port}"])
        return dict(_parsed(line) for line in output.splitlines() if line.strip())

    async def end(self, peers: Iterable[str]) -> None:
        """End the connections with these peers; both sides see a reset (needs CAP_NET_ADMIN)."""
        peers = sorted(peers)
        for first in range(0, len(peers), _AT_ONCE):
            some = " or ".join(f"dst {peer}" for peer in peers[first : first + _AT_ONCE])
            await self._runner.run(["ss", "-HKtn", f"sport = :{self._port} and ( {some} )"])


def _parsed(line: str) -> tuple[str, float]:
    """Read `RECV-Q SEND-Q LOCAL PEER … lastrcv:MILLISECONDS …`; ss leaves out a time of zero."""
    words = line.split()
    times = (word.removeprefix("lastrcv:") for word in words if word.startswith("lastrcv:"))
    return words[3], int(next(times, "0")) / 1000
