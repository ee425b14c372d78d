"""What a unit does around the agent's life: before it nothing passes the mesh's ports, after a stop nothing is left."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path

from agent.adapters.consul.departure import Departure
from agent.adapters.dns.hosts import HostsFile
from agent.adapters.proxy.supervisor import EnvoySupervisor
from agent.config import Config, OnProxyFailure, load_config
from agent.errors import ConfigError, ConflictError, ConsulRefused, ConsulUnavailable, HostError
from agent.runtime.configuration_check import consul_address
from agent.runtime.host_interception import agent_runs, host_interception
from agent.runtime.host_options import proxy_options

log = logging.getLogger(__name__)

CONSUL_PATIENCE_SECONDS = 5.0


async def guard(config: Config) -> None:
    """Refuse at this host's mesh ports what Envoy can't take yet, if onProxyFailure is closed; raises HostError."""
    if config.interception.on_proxy_failure is OnProxyFailure.OPEN:
        return
    host = host_interception(config)
    if host.hold.reason() is None:
        await host.adapter.guard(host.rules.v4, host.rules.v6)


async def take_down(config_dir: Path, state_dir: Path, run_dir: Path) -> None:
    """Do what a stop does, for an agent that died before it could: catalog, names and rules, Envoy, in this order.

    After an orderly stop there is nothing to do. Works with a spoilt configuration, too. Raises HostError if an agent
    runs, or if rules can't be removed.
    """
    config = _config_or_defaults(config_dir, state_dir, run_dir)
    if agent_runs(config):
        raise HostError("hostmesh-agent runs here: stop it, it then takes everything down itself")
    envoy = EnvoySupervisor(proxy_options(config))
    if await envoy.find_left():
        log.warning("the agent died before it could stop: taking down what it left")
        await _leave_catalog(config)
    try:
        await asyncio.to_thread(_take_names, config)
    finally:
        try:
            await host_interception(config).adapter.remove()
        finally:
            await envoy.stop()


def _take_names(config: Config) -> None:
    dns = HostsFile(config.state_dir / "dns")
    if dns.path.exists():
        dns.clear()


async def _leave_catalog(config: Config) -> None:
    try:
        async with asyncio.timeout(CONSUL_PATIENCE_SECONDS):
            await asyncio.to_thread(_deregister, config)
    except (ConsulUnavailable, ConsulRefused, ConflictError, ConfigError, TimeoutError) as error:
        log.warning("instances of this host stay in the catalog until their checks fail: %s", error or "no answer")


def _deregister(config: Config) -> None:
    departure = Departure(consul_address(config))
    departure.remove_local(departure.of_this_node(config.node).services)


def _config_or_defaults(config_dir: Path, state_dir: Path, run_dir: Path) -> Config:
    try:
        return load_config(config_dir, state_dir, run_dir)
    except ConfigError as error:
        log.warning("going by the defaults: %s", error.problems[0])
        with tempfile.TemporaryDirectory() as empty:
            return load_config(Path(empty), state_dir, run_dir)
