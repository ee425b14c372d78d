"""Envoy's admin interface on its Unix socket."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import msgspec
from msgspec import Struct

from agent.errors import HostError

_TRAFFIC = re.compile(r"^(http|listener)\.(?!admin\.)(?!.*\.worker_\d+\.).*\.downstream_((?:cx|rq)_(?:active|total))$")
"""Connections and requests, not those of the admin interface, and each once (not by worker too)."""


class Activity(Struct, frozen=True):
    """How much traffic Envoy has now and has had, all listeners but the admin's."""

    busy: int
    """Requests under way, and open connections that aren't HTTP (they have no requests to end with)."""
    total: int
    """Requests and connections since its start."""
    open_connections: int
    """Idle ones too."""


class _Stat(Struct, frozen=True):
    name: str = ""
    value: int = 0


class _Stats(Struct, frozen=True):
    stats: tuple[_Stat, ...] = ()


class AdminRefused(HostError):
    """Envoy answered that it can't do what was asked."""


class AdminClient:
    """Asks Envoy; every error is a HostError, what it refuses an AdminRefused."""

    def __init__(self, socket_path: Path, timeout_seconds: float = 5.0) -> None:
        self._socket_path = str(socket_path)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def get(self, path: str) -> str:
        """Return what a GET of the path (`/stats?filter=…`) answers."""
        return await self._request("GET", path)

    async def post(self, path: str) -> str:
        """Return what a POST to the path answers."""
        return await self._request("POST", path)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield what a GET of the path answers, piece by piece as Envoy says it."""
        async with self._answer("GET", path) as response:
            yield self._pieces(path, response)

    async def activity(self) -> Activity:
        """Return the extent of the traffic, from Envoy's statistics of listeners and HTTP connection managers."""
        text = await self.get("/stats?format=json&filter=downstream_(cx|rq)_(active|total)$")
        values: dict[str, int] = defaultdict(int)
        for stat in msgspec.json.decode(text, type=_Stats).stats:
            if match := _TRAFFIC.match(stat.name):
                values[f"{match[1]} {match[2]}"] += stat.value
        connections = values["listener cx_active"]
        return Activity(
            busy=values["http rq_active"] + max(0, connections - values["http cx_active"]),
            total=values["http rq_total"] + values["listener cx_total"],
            open_connections=connections,
        )

    async def _request(self, method: str, path: str) -> str:
        async with self._answer(method, path) as response:
            with self._translated(method, path):
                return await response.text()

    async def _pieces(self, path: str, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        # Only the reading is translated: what goes wrong with a piece at the reader is no fault of Envoy's.
        pieces = response.content.iter_any()
        while True:
            with self._translated("GET", path):
                piece = await anext(pieces, b"")
            if not piece:
                return
            yield piece

    @asynccontextmanager
    async def _answer(self, method: str, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        connector = aiohttp.UnixConnector(self._socket_path)
        async with aiohttp.ClientSession("http://envoy", connector=connector, timeout=self._timeout) as session:
            with self._translated(method, path):
                response = await session.request(method, path)
                if response.status != 200:
                    text = (await response.text()).strip()[:200]
                    raise AdminRefused(f"{self._where(method, path)}: status {response.status}: {text}")
            async with response:
                yield response

    @contextmanager
    def _translated(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise HostError(f"{self._where(method, path)}: {error or 'no answer in time'}") from error

    def _where(self, method: str, path: str) -> str:
        return f"Envoy's admin socket {self._socket_path}: {method} {path}"
