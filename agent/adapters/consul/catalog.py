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
from agent.adapters.consul.polling import Follower, Link
from agent.errors import ConsulUnavailable, HostmeshError
from agent.mesh.routes import Fault
from agent.mesh.service import Instance

log = logging.getLogger(__name__)

FIRST_READS = 24
"""First reads under way at once: a sweep of 1,000 services takes about half a second without crowding out others."""
NAMES_INTERVAL = 0.3
"""Seconds between two reads of all names, at least; only a name never seen before waits for them.

Every new instance or changed metadata wakes this poll, and at 10,000 instances its answer costs a Consul server 12 ms of
CPU, 30 times a service's own; times the agents of the mesh.
"""
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
    """Tell the sink all about the services that the scope (default: all) admits, for ever; ends by cancellation."""
    async with asyncio.TaskGroup() as group:
        await _CatalogWatch(client, sink, scope, group).follow_names()
    raise AssertionError("unreachable: the names are followed for ever")


class _CatalogWatch:
    def __init__(
        self, client: ConsulClient, sink: Sink, scope: Callable[[str], bool] | None, group: asyncio.TaskGroup
    ) -> None:
        self._client, self._sink, self._group = client, sink, group
        self._scope = scope or (lambda _: True)
        self._followed: dict[str, asyncio.Task[None] | None] = {}
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
            self._followed[name] = self._group.create_task(self._follow_service(name), name=f"consul service {name}")

    def _forget(self, name: str) -> None:
        task = self._followed.pop(name)
        if task:
            task.cancel()
        self._read(name)
        self._sink(ServiceEntries(name, ()))

    async def _follow_service(self, name: str) -> None:
        last = ServiceEntries(name, ())
        first = True

        def say(entries: ServiceEntries) -> None:
            nonlocal last, first
            if first or entries != last:
                self._sink(entries)
            last, first = entries, False
            self._read(name)

        def trouble(error: HostmeshError) -> None:
            # While Consul is away altogether CatalogLost has said so; this is about one service alone.
            if self._link.up.is_set():
                say(ServiceEntries(name, last.instances, (Fault(f"service {name}", str(error)),)))

        with self._client.lanes.take().member() as lane:
            path = f"health/service/{name}"
            async for answer in Follower(
                lane, self._link, path, first_read=self._first_read, on_trouble=trouble
            ).answers():
                try:
                    decoded = decode_instances(name, answer.body)
                except ConsulUnavailable as error:
                    trouble(error)
                    continue
                say(ServiceEntries(name, decoded.instances, decoded.faults))

    def _read(self, name: str) -> None:
        if self._unread:
            self._unread.discard(name)
            self._say_if_synced()

    def _say_if_synced(self) -> None:
        if not self._synced and self._unread is not None and not self._unread:
            self._synced = True
            self._sink(CatalogSynced())
