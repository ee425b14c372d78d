"""The composition root: learns what the parts need, makes them, and runs them until the operator stops the agent."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine

from agent.adapters.consul.client import ConsulClient
from agent.config import Config
from agent.errors import HostError, HostmeshError
from agent.runtime import garbage
from agent.runtime.configuration_check import consul_address
from agent.runtime.host_agent import FIRST_CONFIGURATION_SECONDS, HostAgent
from agent.runtime.last_known import LastKnownFile
from agent.runtime.levels import Levels
from agent.runtime.unit import Unit

log = logging.getLogger(__name__)

CONSUL_PATIENCE_SECONDS = 2.0


async def run_daemon(config: Config) -> None:
    """Run the agent until SIGTERM or SIGINT, then stop gracefully.

    SIGHUP reads services.d, and of agent.yaml interception and log levels, again.
    After SIGUSR1 it ends alone, and leaves what stands to the agent that comes next: what the unit sends at a restart.

    Raises HostError if this host can't carry the agent, ConfigError if Consul's token or TLS files can't be used.
    """
    garbage.begin()
    stop, unit = asyncio.Event(), Unit()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        loop.add_signal_handler(number, stop.set)
    for note in config.notes:
        log.warning("%s", note)
    for folder in (config.state_dir, config.run_dir):
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"{folder}: cannot be made: {error.strerror or error}") from error
    file = LastKnownFile(config.state_dir / "last-known")
    last, faults = file.load()
    agent: HostAgent | None = None
    watchdog = asyncio.create_task(unit.feed_watchdog(lambda: agent is None or agent.works))
    try:
        async with ConsulClient(consul_address(config)) as client:
            known = last.address if last else ""
            address = config.address or await _first(stop, _address_from_consul(client, known, unit))
            if address is None:
                return
            agent = HostAgent(config, client, address, file, faults, unit)
            if last is not None:
                agent.state.restore(last)
            _take_signals(agent, config, stop)
            await agent.run(stop)
    finally:
        watchdog.cancel()


def _take_signals(agent: HostAgent, config: Config, stop: asyncio.Event) -> None:
    levels, loop, tasks = Levels(config), asyncio.get_running_loop(), set[asyncio.Task[None]]()

    def reload() -> None:
        level = levels.read_again()
        agent.set_interception(levels.interception)
        agent.reload()
        if level is not None:
            tasks.add(task := asyncio.create_task(agent.set_envoy_log_level(level)))
            task.add_done_callback(tasks.discard)

    def leave() -> None:
        if not stop.is_set():
            agent.leave_standing()
            stop.set()

    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGUSR1, leave)


async def _address_from_consul(client: ConsulClient, last: str, unit: Unit) -> str:
    """Return the address that the local Consul agent advertises; while Consul is away the last one it said, if any."""
    said, patience = False, asyncio.get_running_loop().time() + FIRST_CONFIGURATION_SECONDS
    while True:
        try:
            return str((await client.api.agent.self())["Member"]["Addr"])
        except HostmeshError as error:
            if last:
                return last
            if not said:
                log.warning("waiting for Consul, to learn this host's address (or set `address`): %s", error)
                said = True
            unit.status(f"nothing is served yet, waiting for Consul, to learn this host's address: {error}")
            if asyncio.get_running_loop().time() > patience:
                unit.ready()  # nothing is known from before, so there is nothing to hold up the boot for
            await asyncio.sleep(CONSUL_PATIENCE_SECONDS)


async def _first(stop: asyncio.Event, address: Coroutine[None, None, str]) -> str | None:
    """Return the address, or None if the operator stops the agent while it waits."""
    waiting = asyncio.ensure_future(address)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None
