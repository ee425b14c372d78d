"""Interception of this host as its files say it, for commands that work with or without a running agent."""

from __future__ import annotations

import os
import signal
import socket
import struct
from contextlib import closing
from ipaddress import IPv4Network, IPv6Network

from msgspec import Struct

from agent.adapters.command import CommandRunner, SystemRunner
from agent.adapters.consul.kv import SettingsUpdate
from agent.adapters.netfilter.hold import Hold
from agent.adapters.netfilter.interception import Interception
from agent.config import Config
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.mesh.service import Workload
from agent.runtime.host_options import netfilter_options, service_ranges
from agent.runtime.last_known import LastKnownFile
from agent.runtime.state import MeshState
from agent.runtime.workloads import ServicesFolder, gateway_workload, served
from agent.translate.host_rules import host_ruleset
from agent.translate.netfilter import NetfilterText


class HostInterception(Struct, frozen=True):
    """What is to stand on this host, and the means to make it so."""

    rules: NetfilterText
    ranges: tuple[IPv4Network | IPv6Network, ...]
    """Those with a route of their own."""
    workloads: tuple[Workload, ...]
    """As peers may call them."""
    faults: tuple[Fault, ...]
    """What of services.d is left out."""
    adapter: Interception
    hold: Hold


def host_interception(config: Config, runner: CommandRunner | None = None) -> HostInterception:
    """Return what these settings and services.d mean for this host; raises HostError without a state folder."""
    proxied, address = _last_known(config)
    workloads, faults = ServicesFolder(config, config.address or address or "127.0.0.1").read((), proxied)
    gateway = gateway_workload(config, address or "127.0.0.1")
    callable_ones = (*gateway, *(served(workload, config) for workload in workloads))
    options, ranges = netfilter_options(config, agent_uid(config)), service_ranges(config)
    return HostInterception(
        rules=host_ruleset(options, callable_ones, config.interception.inbound),
        ranges=ranges,
        workloads=callable_ones,
        faults=faults,
        adapter=Interception(runner or SystemRunner(), ranges),
        hold=Hold(config.run_dir),
    )


def agent_uid(config: Config) -> int:
    """Return the user as whom agent and Envoy run here, whose the state folder is; raises HostError without one."""
    try:
        return os.stat(config.state_dir).st_uid
    except OSError as error:
        raise HostError(f"{config.state_dir}: {error.strerror}: is hostmesh-agent installed here?") from error


def agent_runs(config: Config) -> bool:
    """Tell whether this host's agent answers on its socket."""
    return _agent_pid(config) is not None


def reload_agent(config: Config) -> None:
    """Have the agent, if one runs, read its settings again (SIGHUP); raises HostError if that isn't allowed."""
    pid = _agent_pid(config)
    if pid is not None:
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            raise HostError(
                f"the agent (pid {pid}) can't be told to reload: {error.strerror}: run it as root"
            ) from error


def _agent_pid(config: Config) -> int | None:
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(2)
        try:
            client.connect(str(config.run_dir / "admin.sock"))
        except OSError:
            return None
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[0])


def _last_known(config: Config) -> tuple[bool, str]:
    """Return the mesh's default for `proxied` and this host's address, as the agent last knew them."""
    last, _ = LastKnownFile(config.state_dir / "last-known").load()
    state = MeshState(config.node, config.vip_range_v4, config.vip_range_v6, {})
    if last is None:
        return state.settings.proxied, ""
    state.apply([SettingsUpdate(last.settings)])
    return state.settings.proxied, last.address
