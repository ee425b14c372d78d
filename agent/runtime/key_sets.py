"""Keeps the key sets by which tokens are verified, and gives them to Envoy: the last good one of each stays.

A key set is fetched when a rule begins to want it, and every 20 minutes; while its source is away, or answers nonsense,
the last good one serves on, also after restarts, for as long as a rule wants it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web

from agent.adapters.clock import Clock, SystemClock
from agent.adapters.key_sets import KeySetFetcher, KeySetsFile, NoWay
from agent.config import Config
from agent.errors import HostError
from agent.mesh.key_set import usable_keys
from agent.mesh.routes import Fault
from agent.runtime.host_options import key_set_sockets
from agent.translate.key_sets import NAME_HEADER, PATH, REASON_HEADER, REFRESH_SECONDS, key_set_name

_LOG = logging.getLogger(__name__)
_JITTER = 0.1
_FIRST_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 60.0
MAX_KEY_SETS = 100
MAX_FETCH_SECONDS = 30.0
_AT_ONCE = 8
"""Who may write rules shall not fill this host's memory, nor keep it busy with sources that never answer."""
FIRST_WAIT_SECONDS = 1.0
"""Envoy holds back a new rule for so long while its key set is fetched for the first time."""


class Fetcher(Protocol):
    """The way to the sources."""

    async def fetch(self, uri: str, name: str, timeout_seconds: float) -> str:
        """Return what is at the address; raises HostError, NoWay if there is no way yet."""


class Kept(Protocol):
    """What outlives the agent."""

    def load(self) -> dict[str, str]:
        """Return the key sets by their addresses."""

    def store(self, key_sets: Mapping[str, str]) -> None:
        """Replace them; raises HostError."""


class KeySets:
    """The key sets of this host."""

    def __init__(
        self, fetcher: Fetcher, file: Kept, clock: Clock, on_faults: Callable[[tuple[Fault, ...]], None]
    ) -> None:
        self._fetcher = fetcher
        self._file = file
        self._clock = clock
        self._on_faults = on_faults
        self._key_sets = self._stored = file.load()
        self._writing = asyncio.Lock()
        self._asked_for: Mapping[str, float] = {}
        self._wanted: Mapping[str, float] = {}
        self._faults: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._arrived = asyncio.Condition()

    def follow(self, wanted: Mapping[str, float]) -> None:
        """Keep these and no others: how long a fetch may take, in seconds, by address."""
        if wanted != self._asked_for:
            self._asked_for = dict(wanted)
            self._wanted = dict(sorted(wanted.items())[:MAX_KEY_SETS])
            self._changed.set()

    async def run(self) -> None:
        """Keep them fresh until cancelled."""
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                left_out = len(self._asked_for) - len(self._wanted)
                excess = f"{left_out} are more than the {MAX_KEY_SETS} that this host keeps: their tokens are refused"
                self._tell("", excess if left_out else "")
                for uri in tasks.keys() - self._wanted.keys():
                    tasks.pop(uri).cancel()
                    self._note(uri, None)
                for uri in sorted(self._wanted.keys() - tasks.keys()):
                    tasks[uri] = group.create_task(self._keep(uri), name=f"key set {_shown(uri)}")
                await self._changed.wait()

    def routes(self) -> Iterable[web.RouteDef]:
        """Return what the agent's own socket serves of it."""
        return (web.get(PATH + "{name}", self._get),)

    async def _keep(self, uri: str) -> None:
        failures = 0
        while True:
            try:
                await self._fetch(uri)
            except HostError as error:
                wait = min(_FIRST_RETRY_SECONDS * 2 ** min(failures, 10), _LONGEST_RETRY_SECONDS)
                failures += 1
                if not isinstance(error, NoWay):  # an Envoy that is away, or not ready, is told elsewhere
                    self._note(uri, str(error))
            else:
                wait, failures = REFRESH_SECONDS * random.uniform(1 - _JITTER, 1 + _JITTER), 0
                self._note(uri, None)
            await self._clock.sleep(wait)

    async def _fetch(self, uri: str) -> None:
        """Fetch one; raises HostError if that can't be done now, or what comes is no key set."""
        async with self._turns:
            seconds = min(self._wanted.get(uri, 0.0), MAX_FETCH_SECONDS)
            text = usable_keys(await self._fetcher.fetch(uri, key_set_name(uri), seconds))
        if text is None:
            raise HostError("is no JSON Web Key Set with a key that Envoy can verify tokens by")
        if self._key_sets.get(uri) == text:
            return
        wanted = {known: held for known, held in self._key_sets.items() if known in self._wanted}
        self._key_sets = {**wanted, uri: text}
        async with self._arrived:
            self._arrived.notify_all()
        _LOG.info("key set %s: is new", _shown(uri))
        await self._store()

    async def _store(self) -> None:
        """Put what is not on the disk yet there, one after the other."""
        async with self._writing:
            if self._stored is self._key_sets:
                return
            current = self._stored = self._key_sets
            try:
                await asyncio.to_thread(self._file.store, current)
            except HostError as error:
                _LOG.warning("key sets will be fetched again after a restart: %s", error)

    def _note(self, uri: str, reason: str | None) -> None:
        said = ""
        if reason is not None:
            effect = "the last good one serves on" if uri in self._key_sets else "tokens are refused until it is there"
            said = f"{reason}; {effect}"
        self._tell(uri, said)

    def _tell(self, uri: str, said: str) -> None:
        """Make this the fault of an address (of all, if it is empty), or none of it."""
        if said != self._faults.get(uri, ""):
            self._faults[uri] = said
            told = ((uri, said) for uri, said in sorted(self._faults.items()) if said)
            self._on_faults(tuple(Fault(f"key set {_shown(uri)}" if uri else "key sets", said) for uri, said in told))

    async def _get(self, request: web.Request) -> web.Response:
        """Give Envoy a key set; one that a rule has only now begun to want may come in a moment."""
        name = request.match_info["name"]
        try:
            async with asyncio.timeout(FIRST_WAIT_SECONDS), self._arrived:
                found = await self._arrived.wait_for(lambda: self._named(name))
        except TimeoutError:
            return web.Response(status=503, text="this key set has not been had yet\n")
        return web.Response(text=found, content_type="application/json")

    def _named(self, name: str) -> str | None:
        return next((held for uri, held in self._key_sets.items() if key_set_name(uri) == name), None)


def key_sets_of(config: Config, on_faults: Callable[[tuple[Fault, ...]], None]) -> KeySets:
    """Return those of a host with this configuration."""
    fetcher = KeySetFetcher(Path(key_set_sockets(config).envoy), NAME_HEADER, REASON_HEADER)
    return KeySets(fetcher, KeySetsFile(config.state_dir / "key-sets.json"), SystemClock(), on_faults)


def _shown(uri: str) -> str:
    """Return the address for people, without what may be secret in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
