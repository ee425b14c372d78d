"""Applies the desired state to this host in the order that never leads traffic to where nothing is ready.

Envoy first; names and interception only once Envoy has acknowledged what they lead to. Afterwards it looks every few
seconds whether they still stand, and puts back what another program took away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from agent.adapters.dns.hosts import HostsFile
from agent.adapters.netfilter.hold import Hold
from agent.adapters.netfilter.interception import Interception
from agent.adapters.xds.server import XdsServer
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.mesh.snapshot import Desired
from agent.runtime.events import FaultsChanged

log = logging.getLogger(__name__)

ACK_PATIENCE_SECONDS = 10.0
RETRY_SECONDS = 3.0
LOOK_SECONDS = 3.0
"""How often names and rules are compared with what is live: another program may have flushed or overwritten them."""
SHOWN_SECONDS = 12.0
"""How long a repair is shown as a fault, after the last one."""
GONE_SECONDS = 15.0
"""An Envoy that has not been there for so long, though it is started again and again, is gone for good."""


class DataPath:
    """Owns the order of Envoy's configuration, mesh names and interception on this host."""

    def __init__(
        self,
        xds: XdsServer,
        hosts: HostsFile,
        interception: Interception,
        hold: Hold,
        report: Callable[[FaultsChanged], None],
        opens_without_envoy: bool = False,
    ) -> None:
        self.ready = asyncio.Event()
        """Set once Envoy has acknowledged a configuration and interception leads to it."""
        self.repairs = 0
        """How many times another program's changes of ours were taken back."""
        self.opens_without_envoy = opens_without_envoy
        self._xds = xds
        self._hosts = hosts
        self._interception = interception
        self._hold = hold
        self._report = report
        self._desired: Desired | None = None
        self._published = asyncio.Event()
        self._rules: tuple[str, str] | None = None
        """The interception that stands, v4 and v6; None: not known."""
        self._gone_since: float | None = time.monotonic()
        self._shown: dict[str, tuple[Fault, ...]] = {}
        self._repaired_at = 0.0

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

    async def guard(self, v4: str, v6: str) -> None:
        """Refuse, until Envoy is ready, what would go past it; what captures already stays."""
        if self._hold.reason() is None and await self._interception.guard(v4, v6):
            log.info("until Envoy is ready, other hosts are refused at this host's mesh ports")

    async def run(self) -> None:
        """Follow the publications until cancelled; what fails on this host is reported and tried again."""
        while True:
            looking = not await self._published_before(LOOK_SECONDS)
            self._published.clear()
            if self._desired is not None and (not looking or self._rules is None):
                await self._settle()
            try:
                await self._look(looking)
            except HostError as error:
                self._rules = None
                self._show("host", Fault("interception", str(error)))
                log.error("interception and names: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._published.set()
            else:
                self._show("host")

    async def _look(self, looking: bool) -> None:
        """Make names and interception as desired, if they are anybody's to make; raises HostError."""
        held = self._hold.reason()
        self._show("hold", *([Fault("interception", held)] if held else []))
        if held is not None:
            self._rules = None
        elif not self._xds.state.connected:
            await self._without_envoy()
        elif self._desired is not None:
            self._gone_since = None
            self._show("envoy")
            await self._apply(self._desired, looking)

    async def _apply(self, desired: Desired, looking: bool) -> None:
        is_known = self._rules is not None
        renamed = await self._name(desired.dns_hosts)
        differences = await self._intercept(desired.netfilter_v4, desired.netfilter_v6, looking)
        if looking and is_known and (renamed or differences):
            self._note_repair((*differences, *(["the hosts file"] if renamed else [])))
        elif differences:
            log.info("interception changed: %d rules or routes", len(differences))
        elif time.monotonic() - self._repaired_at > SHOWN_SECONDS:
            self._show("drift")
        self.ready.set()

    async def _name(self, text: str) -> bool:
        """Give these names; tell whether others were given. A disk that takes nothing holds up nothing but names."""
        try:
            renamed = await asyncio.to_thread(self._hosts.write, text)
        except HostError as error:
            self._show("names", Fault("names", f"{error}; the names from before hold, and others are not given"))
            return False
        was_held_up = bool(self._shown.get("names"))
        self._show("names")
        return renamed and not was_held_up

    async def _intercept(self, v4: str, v6: str, looking: bool) -> tuple[str, ...]:
        # A look at what stands starts half a dozen programs, and every new service comes by here.
        if self._rules == (v4, v6) and not looking:
            return ()
        differences = await self._interception.apply(v4, v6)
        self._rules = (v4, v6)
        return differences

    async def _without_envoy(self) -> None:
        """Leave all as it is, which refuses what came to Envoy; or, if configured so, go without when it is gone."""
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        if not self.opens_without_envoy or now - self._gone_since < GONE_SECONDS:
            return
        if self._rules is not None or not self._shown.get("envoy"):
            await self._take_away()
            self._rules = None
            reason = "Envoy is gone: nothing is captured and mesh names are not given (onProxyFailure: open)"
            log.error("%s", reason)
            self._show("envoy", Fault("interception", reason))

    def _note_repair(self, what: tuple[str, ...]) -> None:
        self.repairs += 1
        self._repaired_at = time.monotonic()
        text = "; ".join(what[:5]) + (f" and {len(what) - 5} more" if len(what) > 5 else "")
        log.warning("another program had changed what is ours, it is repaired: %s", text)
        self._show("drift", Fault("interception", f"another program had changed it; repaired: {text}"))

    def _show(self, source: str, *faults: Fault) -> None:
        if self._shown.get(source, ()) != faults:
            self._shown[source] = faults
            self._report(FaultsChanged(source, faults))

    async def remove(self) -> None:
        """Take names and interception away, and an operator's hold on them; raises HostError."""
        await self._take_away()
        self._hold.release()

    async def _take_away(self) -> None:
        try:
            await asyncio.to_thread(self._hosts.clear)
        finally:
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
