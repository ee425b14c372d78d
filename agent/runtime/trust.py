"""Keeps the trust bundle: the disk's at once, then each one that hostmesh-ca sends, as soon as it does.

What is had is never taken away: while the CA is away the last bundle stays. May not say what Envoy does with it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from msgspec import structs

from agent.adapters.clock import Clock
from agent.adapters.identity.bundle import BundleFile, crl_fault
from agent.errors import HostError, HostmeshError
from agent.mesh.routes import Fault
from agent.mesh.trust import TrustBundle

_LOG = logging.getLogger(__name__)
WATCH_SECONDS = 60.0
"""How long one watch lasts. What was said while a stream broke without our noticing is said by the next one."""
_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 5.0
_SUBJECT = "trust bundle"


class BundleSource(Protocol):
    """One hostmesh-ca."""

    def follow_bundle(self, trust: bytes, known: str, seconds: float) -> AsyncIterator[TrustBundle]:
        """Yield the bundle unless its version is known, and each later one; raises CaUnavailable, CaRefused."""


class TrustFollower:
    """Follows the bundle of one of several CAs, as long as it answers; then that of the next."""

    def __init__(
        self,
        sources: tuple[BundleSource, ...],
        file: BundleFile,
        clock: Clock,
        on_bundle: Callable[[TrustBundle], None],
        on_faults: Callable[[tuple[Fault, ...]], None],
    ) -> None:
        self._sources = sources
        self._file = file
        self._clock = clock
        self._on_bundle = on_bundle
        self._on_faults = on_faults
        self._bundle: TrustBundle | None = None
        self._published: TrustBundle | None = None
        self._roots = b""
        self._faults: dict[str, str] = {}
        self._told = asyncio.Event()
        self._unsaved = False
        self._saving = asyncio.Lock()

    def note_roots(self, roots_pem: bytes) -> None:
        """Take the roots that came with a certificate: they too prove a CA to us (the first one, or one made anew)."""
        if roots_pem and roots_pem != self._roots:
            self._roots = roots_pem
            self._told.set()

    async def run(self) -> None:
        """Publish what the disk has, then follow the CA for ever."""
        try:
            self._bundle = self._file.load()
        except HostError as error:
            self._report("disk", str(error))
        self._publish()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="follow the trust bundle")
            tasks.create_task(self._keep_usable(), name="watch the revocation lists' ends")

    async def _follow(self) -> None:
        failures = present = 0
        while True:
            trust = self._trust()
            if not trust:
                await self._told.wait()
            self._told.clear()
            source = self._sources[present]
            try:
                # After a failure the bundle is asked for even if it is known: that it comes shows that the CA is back.
                known = "" if failures or not self._bundle else self._bundle.version
                async for bundle in source.follow_bundle(self._trust(), known, _spread(WATCH_SECONDS)):
                    failures = 0
                    self._report("CA", None)
                    await self._take(bundle)
                self._report("CA", None)
            except HostmeshError as error:
                failures += 1
                present = (present + 1) % len(self._sources)
                if failures % len(self._sources) == 0:
                    self._report("CA", f"{error}; the last known bundle holds")
                    await self._pause(failures // len(self._sources))

    async def _take(self, bundle: TrustBundle) -> None:
        if self._bundle is not None and bundle.version == self._bundle.version:
            return
        self._bundle = bundle
        self._publish()
        _LOG.info("trust bundle %s: %d revoked", bundle.version[:16], len(bundle.revoked))
        self._unsaved = True
        await self._save()

    async def _save(self) -> None:
        """Put the newest on the disk; if that fails, it is used all the same, and tried again every second."""
        async with self._saving:
            if self._bundle is None or not self._unsaved:
                return
            self._unsaved = False
            try:
                await asyncio.to_thread(self._file.store, self._bundle)
            except HostError as error:
                self._unsaved = True
                self._report("disk", f"{error} (the bundle is in use, but a restart would lose it)")
            else:
                self._report("disk", None)

    async def _keep_usable(self) -> None:
        """Look every second whether the lists can be used: the clock may be set, a list end, or the disk have room."""
        while True:
            await self._clock.sleep(1.0)
            self._publish()
            await self._save()

    def _publish(self) -> None:
        """Hand on the bundle; lists that Envoy would take for a reason to refuse everybody are left out, and named."""
        if self._bundle is None:
            return
        fault = crl_fault(self._bundle.crls_pem, self._clock.now())
        self._report("CRL", f"{fault}; revoked certificates are not refused" if fault else None)
        usable = structs.replace(self._bundle, crls_pem=b"") if fault else self._bundle
        if usable != self._published:
            self._published = usable
            self._on_bundle(usable)

    async def _pause(self, rounds: int) -> None:
        """Wait before all are asked again; roots that are new end the wait."""
        delay = min(_LONGEST_RETRY_SECONDS, _RETRY_SECONDS * 2 ** min(rounds - 1, 8))
        try:
            async with asyncio.timeout(_spread(delay)):
                await self._told.wait()
        except TimeoutError:
            pass

    def _trust(self) -> bytes:
        known = self._bundle.roots_pem if self._bundle else b""
        return known if self._roots in known else known + self._roots

    def _report(self, part: str, reason: str | None) -> None:
        before = dict(self._faults)
        self._faults.pop(part, None)
        if reason is not None:
            self._faults[part] = reason
        if self._faults != before:
            _LOG.warning("trust bundle: %s", reason or "in order again")
            self._on_faults(tuple(Fault(_SUBJECT, text) for text in self._faults.values()))


def _spread(seconds: float) -> float:
    """Return the time give or take a tenth, so that a thousand hosts don't come at once."""
    return seconds * random.uniform(0.9, 1.1)
