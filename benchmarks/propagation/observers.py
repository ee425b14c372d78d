"""Who tells when a change has arrived: each agent on its admin socket, Consul by a poll, each Envoy by its own dump."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType

import aiohttp

from agent.errors import HostError
from agent.lab.host import Host
from agent.mesh.names import KV_CONFIG

PATIENCE_SECONDS = 15.0


class Node:
    """One host's agent and Envoy, asked on their Unix sockets; each keeps its connection."""

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self._agent = _session(str(host.path("run/admin.sock")))
        self._envoy = _session(str(host.path("run/envoy-admin.sock")))

    async def acked(self, revision: int) -> float:
        """Return when this agent said that its Envoy has acknowledged the revision (seconds of time.perf_counter).

        The long poll is there before the acknowledgement or comes after it, so the answer is never early. Raises
        HostError after 15 s.
        """
        query = f"http://agent/acked?revision={revision}&timeout={PATIENCE_SECONDS}"
        async with self._agent.get(query) as answer:
            if answer.status != 200:
                raise HostError(f"{self.name}: revision {revision} is not acknowledged: {await answer.text()}")
            return time.perf_counter()

    async def reconcile_ms(self) -> float:
        """Return how long the agent's last reconcile took."""
        async with self._agent.get("http://agent/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return (
            next(float(line.split()[1]) for line in lines if line.startswith("hostmesh_last_reconcile_seconds ")) * 1e3
        )

    async def require_in_effect(self, revision: int, marker: str) -> None:
        """Raise HostError unless Envoy's route tables hold the marker at the moment the revision is acknowledged."""
        await self.acked(revision)
        async with self._envoy.get("http://envoy/config_dump?resource=dynamic_route_configs") as answer:
            if marker not in await answer.text():
                raise HostError(
                    f"{self.name}: revision {revision} is acknowledged, but Envoy's route tables lack {marker!r}"
                )

    async def close(self) -> None:
        """Close the connections."""
        await self._agent.close()
        await self._envoy.close()


class Nodes:
    """All hosts with an agent."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self.all: tuple[Node, ...] = ()

    async def __aenter__(self) -> Nodes:
        self.all = tuple(Node(host) for host in self._hosts)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(node.close() for node in self.all))

    async def acked(self, revision: int) -> list[float]:
        """Return when each said so, the last one last."""
        return sorted(await asyncio.gather(*(node.acked(revision) for node in self.all)))

    async def reconcile_ms(self) -> float:
        """Return the longest last reconcile."""
        return max(await asyncio.gather(*(node.reconcile_ms() for node in self.all)))

    async def require_in_effect(self, revision: int, marker: str) -> None:
        """Raise HostError unless the marker is in effect at each node as soon as that one acknowledges the revision."""
        await asyncio.gather(*(node.require_in_effect(revision, marker) for node in self.all))


class ConsulWatch:
    """A poll on the rules as the agents have one, at the server: when Consul itself tells of a change."""

    def __init__(self, consul_port: int) -> None:
        self._url = f"http://127.0.0.1:{consul_port}/v1/kv/{KV_CONFIG}"
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_SECONDS))
        self.index = 1

    async def woken(self) -> float:
        """Return when Consul told of an index beyond the last (seconds of time.perf_counter)."""
        parameters = {"recurse": "true", "keys": "true", "index": str(self.index), "wait": "10s"}
        async with self._session.get(self._url, params=parameters) as answer:
            await answer.read()
            self.index = int(answer.headers["X-Consul-Index"])
            return time.perf_counter()

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()


def _session(socket: str) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS + 5)
    return aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket), timeout=timeout)
