"""Follows the whole catalog: one long poll on the service names and one per service on its instances and their health.

1,000 long polls look many but cost Consul the least per change: only the service that changed is read again, by
whoever follows it (DESIGN's measurements, option B). Decides nothing about the mesh; hands typed updates to a sink
and never raises on bad data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

from msgspec import Struct

from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.decode import decode_instances, decode_names, name_fault
from agent.adapters.consul.lanes import WAIT
from agent.adapters.consul.polling import Follower, Link
from agent.errors import ConsulUnavailable, HostmeshError
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


async def watch_catalog(client: ConsulClient, sink: Sink, scope: Callable[[str], bool] | None = None) -> NoReturn:
    """Tell the sink all about the services that the scope (default: all) admits, until cancelled.

    To watch anew, with another scope, make a new client: this one's polls count at Consul for minutes yet (`lanes`).
    """
    async with asyncio.TaskGroup() as group:
        await _CatalogWatch(client, sink, scope, group).follow_names()
    raise AssertionError("unreachable: the names are followed for ever")


class _CatalogWatch:
    def __init__(
        self, client: ConsulClient, sink: Sink, scope: Callable[[str], bool] | None, group: asyncio.TaskGroup
    ) -> None:
        self._client, self._sink, self._group = client, sink, group
        self._scope = scope or (lambda _: True)
        self._followed: dict[str, _ServiceWatch | None] = {}
        self._first_read = asyncio.Semaphore(FIRST_READS)
        self._unread: set[str] | None = None
        """Names known at the start and not read yet; None before the first list."""
        self._synced = False
        self._link = Link("consul catalog", lambda reason: sink(CatalogLost(reason)), lambda: sink(CatalogRecovered()))

    async def follow_names(self) -> NoReturn:
        with self._client.lanes.front().member() as lane:
            follower = Follower(lane, self._link, "catalog/services", leads=True, min_interval=NAMES_INTERVAL)
            async for answer in follower.answers():
                try:
                    names = decode_names(answer.body)
                except ConsulUnavailable as error:
                    self._link.failed(str(error))
                    continue
                self._adopt(frozenset(filter(self._scope, names)))
        raise AssertionError("unreachable: a follower never ends")

    def _adopt(self, names: frozenset[str]) -> None:
        if len(names) > MAX_SERVICES:
            log.error("consul catalog: %d services, only the first %d by name are followed", len(names), MAX_SERVICES)
            names = frozenset(sorted(names)[:MAX_SERVICES])
        for name in sorted(self._followed.keys() - names):
            self._forget(name)
        added = sorted(names - self._followed.keys())
        if self._unread is None:
            self._unread = {name for name in added if not name_fault(name)}
        for name in added:
            self._follow(name)
        self._say_if_synced()

    def _follow(self, name: str) -> None:
        fault = name_fault(name)
        if fault:
            self._followed[name] = None
            self._sink(ServiceEntries(name, (), (fault,)))
        else:
            service = _ServiceWatch(self._client, name, self._link, self._first_read, self._say)
            self._followed[name] = service
            self._group.create_task(service.run(), name=f"consul service {name}")

    def _say(self, entries: ServiceEntries, again: bool) -> None:
        if not again:
            self._sink(entries)
        self._read(entries.name)

    def _forget(self, name: str) -> None:
        service = self._followed.pop(name)
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
    """Follows one service; `say` gets what it is now and whether that was said last time already."""

    def __init__(
        self,
        client: ConsulClient,
        name: str,
        link: Link,
        first_read: asyncio.Semaphore,
        say: Callable[[ServiceEntries, bool], None],
    ) -> None:
        self._client, self._name, self._link, self._first_read = client, name, link, first_read
        self._say = say
        self._last: ServiceEntries | None = None
        self._follower: Follower | None = None
        self._stopped = False

    def stop(self) -> None:
        """Say nothing from now on and end with the poll now under way."""
        self._stopped = True
        if self._follower:
            self._follower.stop()

    async def run(self) -> None:
        """Follow until stopped."""
        if self._stopped:
            return
        with self._client.lanes.take().member() as lane:
            path = f"health/service/{self._name}"
            self._follower = Follower(lane, self._link, path, first_read=self._first_read, on_trouble=self._trouble)
            async for answer in self._follower.answers():
                self._note(answer.body)

    def _note(self, body: bytes) -> None:
        assert self._follower is not None
        try:
            decoded = decode_instances(self._name, body)
        except ConsulUnavailable as error:
            self._trouble(error)
            return
        # The name will be gone in a moment, and this poll would count at Consul until its wait is over.
        self._follower.patience = EMPTY_WAIT if body.strip() == b"[]" else WAIT
        self._tell(ServiceEntries(self._name, decoded.instances, decoded.faults))

    def _trouble(self, error: HostmeshError) -> None:
        # While Consul is away altogether CatalogLost has said so; this is about one service alone.
        if self._link.up.is_set():
            instances = self._last.instances if self._last else ()
            self._tell(ServiceEntries(self._name, instances, (Fault(f"service {self._name}", str(error)),)))

    def _tell(self, entries: ServiceEntries) -> None:
        again, self._last = entries == self._last, entries
        self._say(entries, again)
