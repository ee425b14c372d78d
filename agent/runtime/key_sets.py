"""Keeps the key sets by which tokens are verified (runtime/fetched), and gives them to Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from aiohttp import web

from agent.adapters.clock import Clock, SystemClock
from agent.adapters.key_sets import KeySetFetcher, KeySetsFile
from agent.config import Config
from agent.errors import HostError
from agent.mesh.key_set import usable_keys
from agent.mesh.routes import Fault
from agent.runtime.fetched import Fetched, Fetcher, Kept, Sort, Want
from agent.runtime.host_options import key_set_sockets
from agent.translate.key_sets import NAME_HEADER, PATH, REASON_HEADER, REFRESH_SECONDS, key_set_name

FIRST_WAIT_SECONDS = 1.0
"""Envoy holds back a new rule for so long while its key set is fetched for the first time."""
_SORT = Sort("key set", "tokens are refused")


class KeySets:
    """The key sets of this host."""

    def __init__(
        self, fetcher: Fetcher, file: Kept, clock: Clock, on_faults: Callable[[tuple[Fault, ...]], None]
    ) -> None:
        self._fetched = Fetched(_SORT, fetcher, file, clock, on_faults, self._notify)
        self._arrived = asyncio.Event()

    def follow(self, wanted: Mapping[str, float]) -> None:
        """Keep these and no others: how long a fetch may take, in seconds, by address."""
        self._fetched.follow({uri: Want(seconds, REFRESH_SECONDS, _read) for uri, seconds in wanted.items()})

    async def run(self) -> None:
        """Keep them fresh until cancelled."""
        await self._fetched.run()

    def routes(self) -> Iterable[web.RouteDef]:
        """Return what the agent's own socket serves of it."""
        return (web.get(PATH + "{name}", self._get),)

    def _notify(self) -> None:
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    async def _get(self, request: web.Request) -> web.Response:
        """Give Envoy a key set; one that a rule has only now begun to want may come in a moment."""
        name = request.match_info["name"]
        try:
            async with asyncio.timeout(FIRST_WAIT_SECONDS):
                while (found := self._named(name)) is None:
                    await self._arrived.wait()
        except TimeoutError:
            return web.Response(status=503, text="this key set has not been had yet\n")
        return web.Response(text=found, content_type="application/json")

    def _named(self, name: str) -> str | None:
        return next((held for uri, held in self._fetched.texts.items() if key_set_name(uri) == name), None)


def key_sets_of(config: Config, on_faults: Callable[[tuple[Fault, ...]], None]) -> KeySets:
    """Return those of a host with this configuration."""
    fetcher = KeySetFetcher(Path(key_set_sockets(config).envoy), NAME_HEADER, REASON_HEADER)
    return KeySets(fetcher, KeySetsFile(config.state_dir / "key-sets.json"), SystemClock(), on_faults)


def _read(text: str) -> str:
    usable = usable_keys(text)
    if usable is None:
        raise HostError("is no JSON Web Key Set with a key that Envoy can verify tokens by")
    return usable
