"""Keeps texts that rules name by their addresses: fetched in time, within bounds; the last good one of each stays.

One is fetched when a rule begins to want it, and again and again; while its source is away, or answers nonsense, the
last good one serves on, also after restarts, for as long as a rule wants it. What the texts are is others' to say.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from agent.adapters.clock import Clock
from agent.adapters.key_sets import NoWay
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.translate.key_sets import key_set_name

_LOG = logging.getLogger(__name__)
_JITTER = 0.1
_FIRST_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 60.0
MAX_TEXTS = 100
MAX_FETCH_SECONDS = 30.0
_AT_ONCE = 8
"""Who may write rules shall not fill this host's memory, nor keep it busy with sources that never answer."""


class Fetcher(Protocol):
    """The way to the sources."""

    async def fetch(self, uri: str, name: str, timeout_seconds: float) -> str:
        """Return what is at the address; raises HostError, NoWay if there is no way yet."""


class Kept(Protocol):
    """What outlives the agent."""

    def load(self) -> dict[str, str]:
        """Return the texts by their addresses."""

    def store(self, texts: Mapping[str, str]) -> None:
        """Replace them; raises HostError."""


class Sort(Struct, frozen=True):
    """What is kept, in an operator's words."""

    name: str
    """`key set`."""
    without: str
    """What becomes of requests while there is none."""


class Want(Struct, frozen=True):
    """One text that is wanted."""

    timeout_seconds: float
    refresh_seconds: float
    read: Callable[[str], str]
    """Returns what of it can be used; raises HostError if nothing can."""


class Fetched:
    """The texts of one sort."""

    def __init__(
        self,
        sort: Sort,
        fetcher: Fetcher,
        file: Kept,
        clock: Clock,
        on_faults: Callable[[tuple[Fault, ...]], None],
        on_news: Callable[[], None],
    ) -> None:
        self._sort = sort
        self._fetcher = fetcher
        self._file = file
        self._clock = clock
        self._on_faults = on_faults
        self._on_news = on_news
        self.texts: Mapping[str, str] = file.load()
        """By their addresses."""
        self._stored: Mapping[str, str] = self.texts
        self._writing = asyncio.Lock()
        self._asked_for: Mapping[str, Want] = {}
        self._wanted: Mapping[str, Want] = {}
        self._faults: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def follow(self, wanted: Mapping[str, Want]) -> None:
        """Keep these and no others, by address."""
        if wanted != self._asked_for:
            self._asked_for = dict(wanted)
            self._wanted = dict(sorted(wanted.items(), key=lambda item: item[0])[:MAX_TEXTS])
            self._changed.set()

    async def run(self) -> None:
        """Keep them fresh until cancelled."""
        tasks: dict[str, tuple[Want, asyncio.Task[None]]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                left_out = len(self._asked_for) - len(self._wanted)
                excess = f"{left_out} are more than the {MAX_TEXTS} that this host keeps: {self._sort.without}"
                self._tell("", excess if left_out else "")
                for uri, (want, task) in list(tasks.items()):
                    if self._wanted.get(uri) != want:
                        del tasks[uri]
                        task.cancel()
                        if uri not in self._wanted:
                            self._note(uri, None)
                for uri in sorted(self._wanted.keys() - tasks.keys()):
                    want = self._wanted[uri]
                    tasks[uri] = want, group.create_task(self._keep(uri, want), name=f"{self._sort.name} {_shown(uri)}")
                await self._changed.wait()

    async def _keep(self, uri: str, want: Want) -> None:
        failures = 0
        while True:
            try:
                await self._fetch(uri, want)
            except HostError as error:
                wait = min(_FIRST_RETRY_SECONDS * 2 ** min(failures, 10), _LONGEST_RETRY_SECONDS)
                failures += 1
                if not isinstance(error, NoWay):  # an Envoy that is away, or not ready, is told elsewhere
                    self._note(uri, str(error))
            else:
                wait, failures = want.refresh_seconds * random.uniform(1 - _JITTER, 1 + _JITTER), 0
                self._note(uri, None)
            await self._clock.sleep(wait)

    async def _fetch(self, uri: str, want: Want) -> None:
        """Fetch one; raises HostError if that can't be done now, or what comes is of no use."""
        async with self._turns:
            seconds = min(want.timeout_seconds, MAX_FETCH_SECONDS)
            text = want.read(await self._fetcher.fetch(uri, key_set_name(uri), seconds))
        if self.texts.get(uri) == text:
            return
        wanted = {known: held for known, held in self.texts.items() if known in self._wanted}
        self.texts = {**wanted, uri: text}
        self._on_news()
        _LOG.info("%s %s: is new", self._sort.name, _shown(uri))
        await self._store()

    async def _store(self) -> None:
        """Put what is not on the disk yet there, one after the other."""
        async with self._writing:
            if self._stored is self.texts:
                return
            current = self._stored = self.texts
            try:
                await asyncio.to_thread(self._file.store, current)
            except HostError as error:
                _LOG.warning("%ss will be fetched again after a restart: %s", self._sort.name, error)

    def _note(self, uri: str, reason: str | None) -> None:
        said = ""
        if reason is not None:
            effect = "the last good one serves on" if uri in self.texts else f"{self._sort.without} until it is there"
            said = f"{reason}; {effect}"
        self._tell(uri, said)

    def _tell(self, uri: str, said: str) -> None:
        """Make this the fault of an address (of all, if it is empty), or none of it."""
        if said != self._faults.get(uri, ""):
            self._faults[uri] = said
            told = ((uri, said) for uri, said in sorted(self._faults.items()) if said)
            name = self._sort.name
            self._on_faults(tuple(Fault(f"{name} {_shown(uri)}" if uri else f"{name}s", said) for uri, said in told))


def _shown(uri: str) -> str:
    """Return the address for people, without what may be secret in it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
