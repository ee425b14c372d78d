"""Keeps this host's workloads registered in the local Consul agent, and takes exactly them out at the end.

A deregistration names one registration and never a later one (`generations`).

Waits on the local agent's own copy of each registration, so that a Consul that lost it, or a program that changed it,
is answered at once. Registers nothing before the data path is ready: a registration invites traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NoReturn
from urllib.parse import quote

import consul
import msgspec
from msgspec import Struct

from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.generations import Generations
from agent.adapters.consul.lanes import Answer, Lane
from agent.adapters.consul.meta import registration, service_id
from agent.adapters.consul.polling import REFUSED_WAIT, Backoff
from agent.errors import ConsulRefused, ConsulUnavailable
from agent.mesh.routes import Fault
from agent.mesh.service import Identity, Workload

log = logging.getLogger(__name__)

DEREGISTER_AFTER = "24h"
"""Consul itself removes an instance that was critical for so long: a host that never came back."""
NOT_FOUND = 404
REPAIR_INTERVAL = 1.0
"""Seconds between two repairs of one registration, so that two programs at odds don't keep Consul busy."""


class Entry(Struct, frozen=True):
    """One workload as it is to stand in the local agent."""

    id: str
    workload: Workload
    proxied: bool

    @classmethod
    def of(cls, workload: Workload, serves_tls: bool, generations: Generations) -> Entry:
        """Return the entry; an instance counts as proxied only while the data path serves mutual TLS for it."""
        return cls(generations.current(_base(workload)), workload, workload.proxied and serves_tls)

    @property
    def standing(self) -> _Standing:
        """Return what the local agent answers once this entry is registered."""
        workload = self.workload
        shape = registration(
            workload.service,
            workload.ports,
            workload.labels,
            workload.service_account,
            proxied=self.proxied,
            active_check=workload.active_check,
            port_modes=workload.port_modes,
        )
        return _Standing(
            workload.service.name, workload.address, workload.ports[0].number, dict(shape.meta), list(shape.tags)
        )

    @property
    def check(self) -> dict[str, Any]:
        """Return Consul's check of the application itself, past Envoy: by loopback, where Envoy reaches it too."""
        check = self.workload.check
        port = check.port or self.workload.ports[0].number
        host = "127.0.0.1" if self.workload.proxied else self.workload.address
        host = f"[{host}]" if ":" in host else host
        interval, timeout = f"{check.interval_seconds:g}s", f"{check.timeout_seconds:g}s"
        if check.http_path is None:
            built = consul.Check.tcp(host, port, interval, timeout=timeout, deregister=DEREGISTER_AFTER)
        else:
            path = "/" + check.http_path.lstrip("/")
            built = consul.Check.http(
                f"http://{host}:{port}{path}", interval, timeout=timeout, deregister=DEREGISTER_AFTER
            )
        return dict(built)


class _Standing(Struct, rename="pascal"):
    service: str
    address: str = ""
    port: int = 0
    meta: dict[str, str] | None = None
    tags: list[str] | None = None


_STANDING = msgspec.json.Decoder(_Standing)
_SERVICES = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Registrar:
    """Owns the registrations of this host's workloads. `run` must be running for anything to happen."""

    def __init__(
        self,
        client: ConsulClient,
        workloads: Iterable[Workload],
        on_change: Callable[[], None] | None = None,
        generations: Generations | None = None,
    ) -> None:
        self._client = client
        self._generations = generations or Generations()
        self._workloads = tuple(workloads)
        self._on_change = on_change or (lambda: None)
        self._ready: bool | None = None
        self._certified: frozenset[Identity] | None = None
        self._changed = asyncio.Event()
        self._keepers: dict[str, tuple[Entry, asyncio.Task[None]]] = {}
        self._entered: set[str] = set()
        self._outdated: set[str] = set()
        self._faults: dict[str, Fault] = {}

    @property
    def registered(self) -> frozenset[str]:
        """Return the service IDs that this registrar keeps in Consul and has not taken out."""
        return frozenset(self._entered)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return what stands in the way of a registration now."""
        return tuple(sorted(self._faults.values()))

    def set_ready(self, ready: bool) -> None:
        """Say whether the data path serves; the first True lets registration begin, False takes the mTLS mark back."""
        if ready or self._ready is not None:
            self._ready = ready
            self._changed.set()

    def set_certified(self, identities: Iterable[Identity]) -> None:
        """Say which identities have a certificate: others' instances don't bear the mTLS mark (before: all do)."""
        certified = frozenset(identities)
        if certified != self._certified:
            self._certified = certified
            self._changed.set()

    def set_workloads(self, workloads: Iterable[Workload]) -> None:
        """Replace the workloads (services.d was read again); those no longer listed are deregistered."""
        self._workloads = tuple(workloads)
        self._changed.set()

    def renew(self) -> None:
        """Register everything anew: Consul's agent acts for a service by the token that registered it."""
        self._outdated = set(self._keepers)
        self._changed.set()

    async def run(self) -> NoReturn:
        """Keep everything registered for ever; ends by cancellation and then leaves the registrations standing."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._reconcile(group)

    async def deregister(self) -> None:
        """Take out exactly what this registrar keeps; raises ConsulUnavailable or ConsulRefused when Consul won't."""
        self._ready = None
        await self._stop_keepers(set(self._keepers))
        for name in sorted(self._entered):
            await self._take_out(name)

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        if self._ready is None:
            return
        wanted = {
            entry.id: entry
            for entry in (Entry.of(it, self._serves_tls(it), self._generations) for it in self._workloads if it.ports)
        }
        outdated, self._outdated = self._outdated, set()
        await self._stop_keepers(
            {name for name, (entry, _) in self._keepers.items() if wanted.get(name) != entry} | outdated
        )
        for name in sorted(self._entered - wanted.keys()):
            group.create_task(self._take_out_patiently(name))
        for name, entry in wanted.items():
            if name not in self._keepers:
                # Before any call: one cut short may have registered all the same, and what the agent before this one
                # registered stands already; both must be taken out at the end.
                self._entered.add(name)
                keeping = self._keep(entry, anew=name in outdated)
                self._keepers[name] = entry, group.create_task(keeping, name=f"consul keeps {name}")

    def _serves_tls(self, workload: Workload) -> bool:
        return bool(self._ready) and (self._certified is None or workload.identity in self._certified)

    async def _stop_keepers(self, names: set[str]) -> None:
        tasks = [self._keepers.pop(name)[1] for name in names if name in self._keepers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, entry: Entry, anew: bool) -> None:
        with self._client.lanes.front().member() as lane:
            await self._keep_by(lane, entry, anew)

    async def _keep_by(self, lane: Lane, entry: Entry, anew: bool) -> NoReturn:
        backoff, content_hash, stood = Backoff(), "", False
        while True:
            try:
                if anew:
                    await self._enter(entry)
                    anew = False
                answer = await lane.poll(f"agent/service/{quote(entry.id, safe='')}", {}, content_hash=content_hash)
                if answer.status != NOT_FOUND and _read(answer.body) == entry.standing:
                    content_hash = answer.content_hash
                    self._note(entry, None)
                    if not stood:
                        await self._take_out_spent(entry)
                    stood = True
                else:
                    content_hash = ""
                    if stood:
                        what = "lost" if answer.status == NOT_FOUND else "changed by another program"
                        log.warning("consul: %s was %s: registering again", entry.id, what)
                    await self._enter(entry)
                    await asyncio.sleep(0 if backoff.failures else REPAIR_INTERVAL)
                backoff.reset()
            except (ConsulUnavailable, ConsulRefused) as error:
                content_hash, delay = "", backoff.next()
                if backoff.failures > 1 or isinstance(error, ConsulRefused):
                    self._note(entry, str(error))
                await asyncio.sleep(REFUSED_WAIT if isinstance(error, ConsulRefused) else delay)

    async def _enter(self, entry: Entry) -> None:
        wanted = entry.standing
        await self._client.api.agent.service.register(
            wanted.service,
            service_id=entry.id,
            address=wanted.address,
            port=wanted.port,
            tags=wanted.tags,
            meta=wanted.meta,
            check=entry.check,
            replace_existing_checks=True,
        )
        log.info("consul: registered %s at %s:%d", entry.id, wanted.address, wanted.port)

    async def _take_out_patiently(self, name: str) -> None:
        backoff = Backoff()
        while name not in self._keepers:
            try:
                return await self._take_out(name)
            except (ConsulUnavailable, ConsulRefused) as error:
                log.warning("consul: %s can't be deregistered yet: %s", name, error)
                await asyncio.sleep(backoff.next())
        return None

    async def _take_out_spent(self, entry: Entry) -> None:
        """Take out what stands of the same instance from before: its deregistration did not get through."""
        base = _base(entry.workload)
        for name in _names(await self._client.lanes.front().poll("agent/services", {})):
            if self._generations.is_spent(name, base):
                await self._take_out(name)

    async def _take_out(self, name: str) -> None:
        self._generations.spend(name)
        # Asked first: deregistering what is not there is an error in some versions of Consul and none in others.
        if await self._stands(name):
            await self._client.api.agent.service.deregister(name)
            log.info("consul: deregistered %s", name)
        self._entered.discard(name)
        self._faults.pop(name, None)

    async def _stands(self, name: str) -> bool:
        answer = await self._client.lanes.front().poll(f"agent/service/{quote(name, safe='')}", {})
        return answer.status != NOT_FOUND

    def _note(self, entry: Entry, reason: str | None) -> None:
        before = self._faults.pop(entry.id, None)
        if reason is not None:
            self._faults[entry.id] = Fault(f"registration {entry.id}", reason)
            if before is None:
                log.warning("consul: %s is not registered: %s", entry.id, reason)
        if self._faults.get(entry.id) != before:
            self._on_change()


def _base(workload: Workload) -> str:
    return service_id(workload.service, workload.ports[0].number)


def _names(answer: Answer) -> tuple[str, ...]:
    """Return the IDs in an answer of agent/services."""
    try:
        return tuple(_SERVICES.decode(answer.body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()


def _read(body: bytes) -> _Standing:
    try:
        standing = _STANDING.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Standing("")
    standing.meta, standing.tags = standing.meta or {}, standing.tags or []
    return standing
