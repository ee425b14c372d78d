"""Names and interception of one host as its configuration wants them: makes the parts, decides nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from agent.adapters.command import SystemRunner
from agent.adapters.dns.hosts import HostsFile
from agent.adapters.netfilter.hold import Hold
from agent.adapters.netfilter.interception import Interception
from agent.adapters.xds.server import XdsServer
from agent.config import Config, OnProxyFailure
from agent.errors import HostError
from agent.mesh.service import Workload
from agent.runtime.datapath import DataPath
from agent.runtime.events import FaultsChanged
from agent.runtime.host_options import plan_options, service_ranges
from agent.translate.host_rules import host_ruleset

log = logging.getLogger(__name__)


def data_path(config: Config, xds: XdsServer, report: Callable[[FaultsChanged], None]) -> DataPath:
    """Return the data path of a host with these settings."""
    return DataPath(
        xds,
        HostsFile(config.state_dir / "dns"),
        Interception(SystemRunner(), service_ranges(config)),
        Hold(config.run_dir),
        report,
        opens_without_envoy=config.interception.on_proxy_failure is OnProxyFailure.OPEN,
    )


async def guard(path: DataPath, config: Config, workloads: Iterable[Workload]) -> None:
    """Refuse at this host's mesh ports what Envoy can't take yet; without iptables the data path says so."""
    options = plan_options(config)
    if options.interception is not None and options.interception.closed:
        rules = host_ruleset(options.interception, workloads, options.capture_inbound)
        try:
            await path.guard(rules.v4, rules.v6)
        except HostError as error:
            log.error("mesh ports are open until Envoy is ready: %s", error)
