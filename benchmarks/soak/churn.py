"""What changes all the time: rules, instances, a host's own services, and every program but the agents looked at."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec

from agent.adapters.agent_socket import AgentSocket
from agent.errors import HostError
from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST
from agent.mesh.status import NodeStatus
from benchmarks.scale.catalog_load import CatalogWriter, Size, changes
from benchmarks.soak import rules
from benchmarks.testlab import note
from tests.integration.meshlab import agents
from tests.waiting import wait_for

LOADED, CRASHING = "productpage", "details"
"""Whose agents are looked at: the host that sends the load, and one whose Envoy and Consul client are killed."""
RESTARTED = ("reviews-v1", "reviews-v2")
"""Hosts whose agents are restarted and killed."""
FRESH_NAMES = 100
"""Services that come and go; their virtual addresses are kept for them while they are away, so the names repeat."""
EXTRA = "name: extra\nport: 9099\nprotocol: http\nserviceAccount: bookinfo-{}\ncheck: {{tcp: true, interval: 1s}}\n"
SETTLE_SECONDS = 60.0


class Churn:
    """Changes a lab until it is told to stop, and counts what it did."""

    def __init__(self, lab: Lab, size: Size, rate: float, restart_seconds: float) -> None:
        self.done: Counter[str] = Counter()
        self.unsettled: list[str] = []
        """After which restarts some host was not in order again within a minute."""
        self._lab, self._size, self._rate, self._restart_seconds = lab, size, rate, restart_seconds
        self._writer: CatalogWriter | None = None

    async def run(self, seconds: float) -> None:
        """Fill the catalog and KV, and change everything for so many seconds; ends what it has begun."""
        self._writer = CatalogWriter(f"http://127.0.0.1:{self._lab.plan.consul_port}")
        try:
            await self._writer.load(self._size)
            for key, value in rules.initial(self._size.services):
                await self._writer.put_value(key, value)
            until = time.monotonic() + seconds
            async with asyncio.TaskGroup() as tasks:
                for endless in (self._change_instances, self._change_rules, self._change_own_services, self._restart):
                    tasks.create_task(endless(until))
        finally:
            await self._writer.close()

    async def _change_instances(self, until: float) -> None:
        assert self._writer is not None
        made = changes(self._size, fresh_names=FRESH_NAMES)
        async for _ in _paced(self._rate, until):
            await self._writer.make(next(made))
            self.done["changes of the catalog"] += 1

    async def _change_rules(self, until: float) -> None:
        assert self._writer is not None
        made = rules.changes(self._size.services)
        async for _ in _paced(self._rate / 2, until):
            key, value = next(made)
            await (self._writer.delete_value(key) if value is None else self._writer.put_value(key, value))
            self.done["changes of rules"] += 1

    async def _change_own_services(self, until: float) -> None:
        """A service of their own comes and goes in services.d of the hosts that are looked at."""
        async for _ in _paced(0.2, until):
            for name in (LOADED, CRASHING):
                file = self._lab[name].path("etc/services.d/extra.yaml")
                if file.exists():
                    file.unlink()
                else:
                    file.write_text(EXTRA.format(name))
                self.done["changes of services.d"] += 1

    async def _restart(self, until: float) -> None:
        steps = itertools.cycle(self._steps())
        async for _ in _paced(1 / self._restart_seconds, until):
            what, step = next(steps)
            self.done[what] += 1
            try:
                await asyncio.to_thread(step)
                missing = await asyncio.to_thread(self._not_in_order)
            except (HostError, AssertionError) as error:
                missing = str(error)
            if missing:
                self.unsettled.append(f"{what}: {missing}")
                note(f"not in order {SETTLE_SECONDS:.0f} s after: {self.unsettled[-1]}")

    def _steps(self) -> list[tuple[str, Callable[[], None]]]:
        first, second = RESTARTED
        return [
            ("agents restarted", lambda: self._restart_agent(first)),
            ("Envoys killed", lambda: self._lab.kill(CRASHING, "envoy")),
            ("agents killed", lambda: self._revive(second, "agent")),
            ("Consul clients killed", lambda: self._revive(CRASHING, "consul")),
            ("CAs killed", lambda: self._revive(CONSUL_HOST.name, "ca")),
        ]

    def _revive(self, host: str, part: str) -> None:
        self._lab.kill(host, part)
        self._lab.start(host, part)

    def _restart_agent(self, name: str) -> None:
        """As systemd does for a restart: SIGUSR1, and the next one when it has ended."""
        host = self._lab[name]
        pid = host.pid("agent")
        assert pid is not None, f"{name}: no agent runs"
        os.kill(pid, signal.SIGUSR1)
        wait_for(lambda: host.pid("agent") is None, f"{name}: the agent ends", SETTLE_SECONDS)
        self._lab.start_agent(name)

    def _not_in_order(self) -> str:
        """Wait until every agent's Envoy is connected; return "" then, else which is not."""
        try:
            wait_for(lambda: all(map(_is_connected, agents(self._lab))), timeout=SETTLE_SECONDS, interval=0.5)
        except AssertionError:
            return ", ".join(host.name for host in agents(self._lab) if not _is_connected(host))
        return ""


def _is_connected(host: Host) -> bool:
    try:
        status = AgentSocket(host.path("run/admin.sock")).ask("/status", timeout=5.0)
    except HostError:  # it is just starting
        return False
    return msgspec.json.decode(status, type=NodeStatus).proxy.connected


async def _paced(rate: float, until: float) -> AsyncIterator[None]:
    """Yield so many times a second, until that moment; a slow turn is not made up for."""
    while (now := time.monotonic()) < until:
        yield
        await asyncio.sleep(max(0.0, now + 1 / rate - time.monotonic()))
