"""Follows the catalog: one long poll on the service names and one per service on its instances and their health.

1,000 long polls look many but cost Consul the least per change: only the service that changed is read again, by
whoever follows it (DESIGN's measurements, option B). A service out of the scope is read once and looked at again
seldom. Decides nothing about the mesh; hands typed updates to a sink and never raises on bad data.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from agent.adapters.consul.bereft import Bereft
from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.decode import decode_instances, decode_names, decode_tags, name_fault
from agent.adapters.consul.lanes import WAIT, Answer
from agent.adapters.consul.polling import REFUSED_WAIT, Backoff, Follower, Link, next_index
from agent.errors import ConsulRefused, ConsulUnavailable, HostmeshError
from agent.mesh.routes import Fault
from agent.mesh.service import Instance

log = logging.getLogger(__name__)

FIRST_READS = 24
"""First reads under way at once: a sweep of 1,000 services takes about half a second without crowding out others."""
NAMES_INTERVAL = 0.8
"""Seconds between two reads of all names, at least; only a name never seen before waits for them, up to a second.

Every new instance or changed metadata wakes this poll, and at 10,000 instances its answer costs a Consul server 12
ms of CPU, 30 times a service's own; times the agents of the mesh.
"""
EMPTY_WAIT = 5.0
"""Seconds a poll waits on a service without instances."""
LOOK_AGAIN = 600.0
"""Seconds (more or less) until a service out of the scope is read again; at once if its tags in the list change."""
MAX_SERVICES = 9_000
"""As many polls as the lanes hold."""


class ServiceEntries(Struct, frozen=True):
    """All instances now registered under a catalog name (none: it is gone), in place of what was said of it before."""

    name: str
    instances: tuple[Instance, ...]
    faults: tuple[Fault, ...] = ()
    """What of this service could not be used, in place of its earlier faults."""


class CatalogSynced(Struct, frozen=True):
    """Every service known at the start has been read; comes once."""


class CatalogLost(Struct, frozen=True):
    """Consul doesn't answer; what was said holds until told otherwise."""

    reason: str


class CatalogRecovered(Struct, frozen=True):
    """Consul answers again; changes meanwhile follow as ServiceEntries."""


CatalogUpdate = ServiceEntries | CatalogSynced | CatalogLost | CatalogRecovered
Sink = Callable[[CatalogUpdate], None]


class Scope:
    """Which services are followed; may change at any time. The others are known, only not up to date."""

    def __init__(self, names: frozenset[str] | None = frozenset()) -> None:
        self._names = names
        self._changed = asyncio.Event()

    def follow(self, names: frozenset[str] | None) -> None:
        """Follow these catalog names from now on; None: all of them."""
        if names != self._names:
            self._names = names
            self._changed.set()

    def admits(self, name: str) -> bool:
        """Tell whether a catalog name is followed."""
        return self._names is None or name in self._names

    async def change(self) -> None:
        """Wait until other names are followed than at the last call."""
        await self._changed.wait()
        self._changed.clear()


async def watch_catalog(client: ConsulClient, sink: Sink, scope: Scope | None = None) -> NoReturn:
    """Tell the sink all about the services, up to date for those that the scope (default: all) admits.

    Instances that were a service's last and went with their node are told of for a while yet (`bereft`). Runs until
    cancelled. To watch anew make a new client: this one's polls count at Consul for minutes yet (`lanes`).
    """
    async with asyncio.TaskGroup() as group:
        watch = _CatalogWatch(client, sink, scope or Scope(None), group)
        group.create_task(watch.follow_scope(), name="consul scope")
        await watch.follow_names()
    raise AssertionError("unreachable: the names are followed for ever")


class _CatalogWatch:
    def __init__(self, client: ConsulClient, sink: Sink, scope: Scope, group: asyncio.TaskGroup) -> None:
        self._client, self._sink, self._scope, self._group = client, sink, scope, group
        self._watched: dict[str, _ServiceWatch | None] = {}
        self._first_read = asyncio.Semaphore(FIRST_READS)
        self._unread: set[str] | None = None
        """Names known at the start and not read yet; None before the first list."""
        self._synced = False
        self._link = Link("consul catalog", lambda reason: sink(CatalogLost(reason)), lambda: sink(CatalogRecovered()))

    async def follow_scope(self) -> NoReturn:
        while True:
            await self._scope.change()
            for service in self._watched.values():
                if service:
                    service.reconsider()

    async def follow_names(self) -> NoReturn:
        with self._client.lanes.front().member() as lane:
            follower = Follower(lane, self._link, "catalog/services", leads=True, min_interval=NAMES_INTERVAL)
            async for answer in follower.answers():
                try:
                    names = decode_names(answer.body)
                except ConsulUnavailable as error:
                    self._link.failed(str(error))
                    continue
                self._adopt(names)
        raise AssertionError("unreachable: a follower never ends")

    def _adopt(self, names: Mapping[str, bytes]) -> None:
        for name, service in self._watched.items():
            if service:
                service.is_listed = name in names
        if len(names) > MAX_SERVICES:
            log.error("consul catalog: %d services, only the first %d by name are watched", len(names), MAX_SERVICES)
            names = {name: names[name] for name in sorted(names)[:MAX_SERVICES]}
        for name in sorted(self._watched.keys() - names.keys()):
            service = self._watched[name]
            if service is None or service.is_listed or not service.tells_when_it_is_gone:
                self._forget(name)
        for name, service in self._watched.items():
            if service and service.is_listed:
                service.note_tags(names[name])
        added = sorted(names.keys() - self._watched.keys())
        if self._unread is None:
            self._unread = {name for name in added if not name_fault(name)}
        for name in added:
            self._watch(name, names[name])
        self._say_if_synced()

    def _watch(self, name: str, tags: bytes) -> None:
        fault = name_fault(name)
        if fault:
            self._watched[name] = None
            self._sink(ServiceEntries(name, (), (fault,)))
        else:
            service = _ServiceWatch(self._client, name, self._link, self._scope, self._first_read, self._say)
            service.note_tags(tags)
            self._watched[name] = service
            self._group.create_task(service.run(), name=f"consul service {name}")

    def _say(self, entries: ServiceEntries, again: bool) -> None:
        service = self._watched.get(entries.name)
        if service and not service.is_listed and not entries.instances:
            self._forget(entries.name)
            return
        if not again:
            self._sink(entries)
        self._read(entries.name)

    def _forget(self, name: str) -> None:
        service = self._watched.pop(name)
        if service:
            service.stop()
        self._read(name)
        self._sink(ServiceEntries(name, ()))

    def _read(self, name: str) -> None:
        if self._unread:
            self._unread.discard(name)
            self._say_if_synced()

    def _say_if_synced(self) -> None:
        if not self._synced and self._unread is not None and not self._unread:
            self._synced = True
            self._sink(CatalogSynced())


class _ServiceWatch:
    """Knows one service, up to date while the scope admits it.

    `say` gets what it is now and whether that was said last time already.
    """

    def __init__(
        self,
        client: ConsulClient,
        name: str,
        link: Link,
        scope: Scope,
        first_read: asyncio.Semaphore,
        say: Callable[[ServiceEntries, bool], None],
    ) -> None:
        self._client, self._name, self._link, self._scope = client, name, link, scope
        self._first_read, self._say = first_read, say
        self.is_listed = True
        """Whether the name is in the list of all names."""
        self._last: ServiceEntries | None = None
        self._found: ServiceEntries | None = None
        """What the catalog has, whatever is held beside it."""
        self._bereft = Bereft(self._is_node, self._tell_what_was_found)
        self._follower: Follower | None = None
        self._path = f"health/service/{name}"
        self._backoff = Backoff()
        self._read_at = 0, 0
        """The index of the last answer, and how often the link had been lost before it."""
        self._tags = b""
        self._wake = asyncio.Event()
        self._gone = False

    @property
    def tells_when_it_is_gone(self) -> bool:
        """Tell whether its own poll will find out, if its name isn't listed any more; and whether that matters."""
        return self._follower is not None and not self._follower.stopped and bool(self._last and self._last.instances)

    def stop(self) -> None:
        """Say nothing from now on and end with the poll now under way."""
        self._gone = True
        self._bereft.release()
        self.reconsider()

    def note_tags(self, tags: bytes) -> None:
        """Take the tags in the list of names: if they change, so may the namespaces that the service is in."""
        if tags != self._tags and decode_tags(tags) != decode_tags(self._tags):
            self._wake.set()
        self._tags = tags

    def reconsider(self) -> None:
        """Follow the scope, which changed; a poll under way is left to end, or goes on being used."""
        wanted = not self._gone and self._scope.admits(self._name)
        if self._gone or wanted:
            self._wake.set()
        if self._follower:
            self._follower.stopped = not wanted

    async def run(self) -> None:
        """Keep the service known until stopped."""
        while not self._gone:
            self._wake.clear()
            if self._scope.admits(self._name):
                await self._follow()
            else:
                await self._rest(await self._look())

    async def _follow(self) -> None:
        """Read the service whenever it changes, until the scope no longer admits it."""
        index, losses = self._read_at
        with self._client.lanes.take().member() as lane:
            self._follower = follower = Follower(
                lane,
                self._link,
                self._path,
                first_read=self._first_read,
                index=index if losses == self._link.losses else 0,
                on_trouble=self._trouble,
            )
            async for answer in follower.answers():
                await self._note(answer)
                # The name will be gone in a moment, and this poll would count at Consul until its wait is over.
                follower.patience = EMPTY_WAIT if answer.body.strip() == b"[]" else WAIT
            self._follower = None

    async def _look(self) -> float:
        """Read the service once; return the seconds after which to do so again."""
        await self._link.up.wait()
        try:
            async with self._first_read:
                with self._client.lanes.take().member() as lane:
                    await self._note(await lane.poll(self._path, {}))
        except (ConsulUnavailable, ConsulRefused) as error:
            delay = self._backoff.next()
            if self._backoff.failures > 1 or isinstance(error, ConsulRefused):
                self._trouble(error)
            return REFUSED_WAIT if isinstance(error, ConsulRefused) else delay
        self._backoff.reset()
        return random.uniform(LOOK_AGAIN / 2, LOOK_AGAIN * 1.5)  # spreads reads, no secret

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _note(self, answer: Answer) -> None:
        self._read_at = next_index(0, answer.index), self._link.losses
        try:
            decoded = decode_instances(self._name, answer.body)
        except ConsulUnavailable as error:
            self._trouble(error)
            return
        self._found = ServiceEntries(self._name, decoded.instances, decoded.faults)
        counting = await self._bereft.counting(decoded.instances, decoded.members, decoded.silent)
        if not self._gone:
            self._tell(replace(self._found, instances=counting))

    def _tell_what_was_found(self) -> None:
        if self._found:
            self._tell(self._found)

    async def _is_node(self, name: str) -> bool:
        """Tell whether the catalog has this node; no, if Consul cannot say: what was known then holds."""
        try:
            with self._client.lanes.take().member() as lane:
                answer = await lane.poll(f"catalog/node/{quote(name, safe='')}", {})
        except ConsulUnavailable:
            return False
        except ConsulRefused:
            return True
        return answer.status == HTTPStatus.OK and answer.body.strip() != b"null"

    def _trouble(self, error: HostmeshError) -> None:
        # While Consul is away altogether CatalogLost has said so; this is about one service alone.
        if self._link.up.is_set():
            is_hidden = not self.is_listed and isinstance(error, ConsulRefused)
            instances = self._last.instances if self._last and not is_hidden else ()
            self._tell(ServiceEntries(self._name, instances, (Fault(f"service {self._name}", str(error)),)))

    def _tell(self, entries: ServiceEntries) -> None:
        again, self._last = entries == self._last, entries
        self._say(entries, again)
