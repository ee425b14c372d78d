"""Applies the desired state to this host in the order that never leads traffic to where nothing is ready.

Envoy first; names and interception only once Envoy has acknowledged what they lead to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agent.adapters.dns.hosts import HostsFile
from agent.adapters.netfilter.interception import Interception
from agent.adapters.xds.server import XdsServer
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.mesh.snapshot import Desired
from agent.runtime.events import FaultsChanged

log = logging.getLogger(__name__)

ACK_PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 5.0
LOOK_SECONDS = 15.0
"""How often names and rules are compared with what is live: another program may have flushed or overwritten them."""


class DataPath:
    """Owns the order of Envoy's configuration, mesh names and interception on this host."""

    def __init__(
        self, xds: XdsServer, hosts: HostsFile, interception: Interception, report: Callable[[FaultsChanged], None]
    ) -> None:
        self.ready = asyncio.Event()
        """Set once Envoy has acknowledged a configuration and interception leads to it."""
        self._xds = xds
        self._hosts = hosts
        self._interception = interception
        self._report = report
        self._desired: Desired | None = None
        self._published = asyncio.Event()
        self._rules: tuple[str, str] | None = None
        """The interception that stands, v4 and v6; None: not known."""

    def publish(self, desired: Desired, revision: int) -> None:
        """Hand the resources to Envoy at once; names and interception follow its acknowledgement."""
        self._xds.publish(desired.resources, revision)
        changed = self._desired is None or (
            (desired.dns_hosts, desired.netfilter_v4, desired.netfilter_v6)
            != (self._desired.dns_hosts, self._desired.netfilter_v4, self._desired.netfilter_v6)
        )
        self._desired = desired
        if changed:
            self._published.set()

    async def run(self) -> None:
        """Follow the publications until cancelled; what fails on this host is reported and tried again."""
        failed = False
        while True:
            looking = not await self._published_before(LOOK_SECONDS)
            if looking and (self._desired is None or not self._xds.state.connected):
                continue
            self._published.clear()
            await self._settle()
            if self._desired is None or not self._xds.state.connected:
                self._published.set()
                continue
            try:
                renamed = await asyncio.to_thread(self._hosts.write, self._desired.dns_hosts)
                differences = await self._intercept(self._desired.netfilter_v4, self._desired.netfilter_v6, looking)
            except HostError as error:
                self._rules, failed = None, True
                self._report(FaultsChanged("host", (Fault("interception", str(error)),)))
                log.error("interception and names: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._published.set()
                continue
            if looking and (renamed or differences):
                what = [*differences, *(["the hosts file"] if renamed else [])]
                log.warning("another program had changed what is ours, it is repaired: %s", "; ".join(what[:5]))
            elif differences:
                log.info("interception changed: %d rules or routes", len(differences))
            if failed:
                failed = False
                self._report(FaultsChanged("host", ()))
            self.ready.set()

    async def _intercept(self, v4: str, v6: str, looking: bool) -> tuple[str, ...]:
        # A look at what stands starts half a dozen programs, and every new service comes by here.
        if self._rules == (v4, v6) and not looking:
            return ()
        differences = await self._interception.apply(v4, v6)
        self._rules = (v4, v6)
        return differences

    async def remove(self) -> None:
        """Take names and interception away; raises HostError."""
        await asyncio.to_thread(self._hosts.clear)
        await self._interception.remove()

    async def _published_before(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._published.wait()
        except TimeoutError:
            return False
        return True

    async def _settle(self) -> None:
        """Wait until Envoy has acknowledged the newest publication; go on after a bounded time if it is slow."""
        try:
            async with asyncio.timeout(ACK_PATIENCE_SECONDS):
                while not self._xds.state.settled:
                    await self._xds.wait_changed()
        except TimeoutError:
            log.warning("Envoy has not acknowledged its configuration within %g s", ACK_PATIENCE_SECONDS)
