"""Envoy's admin interface on its Unix socket."""

from __future__ import annotations

import re
from collections import defaultdict
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


class AdminClient:
    """Asks Envoy; every error is a HostError."""

    def __init__(self, socket_path: Path, timeout_seconds: float = 5.0) -> None:
        self._socket_path = str(socket_path)
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def get(self, path: str) -> str:
        """Return what a GET of the path (`/stats?filter=…`) answers."""
        return await self._request("GET", path)

    async def post(self, path: str) -> str:
        """Return what a POST to the path answers."""
        return await self._request("POST", path)

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
        where = f"Envoy's admin socket {self._socket_path}: {method} {path}"
        try:
            connector = aiohttp.UnixConnector(self._socket_path)
            async with (
                aiohttp.ClientSession("http://envoy", connector=connector, timeout=self._timeout) as session,
                session.request(method, path) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise HostError(f"{where}: {error or 'no answer in time'}") from error
        if response.status != 200:
            raise HostError(f"{where}: status {response.status}: {text.strip()[:200]}")
        return text
