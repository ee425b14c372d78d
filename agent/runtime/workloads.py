"""services.d as this host serves it: what the interception settings leave uncaptured has no Envoy in front."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from agent.config import Config, InterceptionConfig, load_workloads
from agent.mesh.gateway import stand_in
from agent.mesh.names import AGENT_SERVICE, DEFAULT_NAMESPACE
from agent.mesh.ports import METRICS_PORT, NEVER_CAPTURED
from agent.mesh.routes import Fault
from agent.mesh.service import Check, Port, Protocol, ServiceKey, Workload
from agent.runtime.unix_users import uid_of

log = logging.getLogger(__name__)


LOOK_SECONDS = 0.5
_Signature = frozenset[tuple[str, int, int, int]]


class ServicesFolder:
    """services.d of this host: what it declares now, and when it has become something else."""

    def __init__(self, config: Config, address: str) -> None:
        self._config, self._address = config, address
        self._folder = config.config_dir / "services.d"
        self._last_good: dict[Path, list[Workload]] = {}
        self._read_at: _Signature = frozenset()

    def read(self, before: Sequence[Workload], proxied: bool) -> tuple[tuple[Workload, ...], tuple[Fault, ...]]:
        """Return what it declares, and a fault for each thing in it that can't be used.

        `before` is what was served until now: a new file never takes a port from a service that has it. `proxied` is
        the mesh's default.
        """
        self._read_at = _signature(self._folder)
        workloads, problems = load_workloads(self._config.config_dir, self._address, proxied, self._last_good)
        kept, refused = one_identity_per_port(workloads, before)
        for line in (*problems, *refused):
            log.error("%s", line)
        known = [msgspec.structs.replace(workload, uid=uid_of(workload.user)) for workload in kept]
        # The first is the host's default: one that says whose it is is nobody else's if there is another.
        ordered = tuple(sorted(known, key=lambda workload: bool(workload.user)))
        return ordered, tuple(Fault("services.d", line) for line in (*problems, *refused))

    async def watch(self, changed: Callable[[], None]) -> NoReturn:
        """Call `changed` whenever the folder has become another one and rests: an editor may write in several steps."""
        seen = self._read_at
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            before, seen = seen, await asyncio.to_thread(_signature, self._folder)
            if seen == before and seen != self._read_at:
                changed()


def _signature(folder: Path) -> _Signature:
    """Return what changes whenever a file of the folder does."""
    found = set()
    for path in folder.glob("*.y*ml"):
        try:
            stat = path.stat()
        except OSError:
            continue  # gone just now, or a link to nowhere: reading it says so
        found.add((path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return frozenset(found)


def one_identity_per_port(
    workloads: Sequence[Workload], before: Sequence[Workload]
) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """Return the workloads without those on a port that another one serves under its identity, and why not these.

    One port has one certificate: callers of the other service would refuse it. Who was there `before` has the port.
    """
    present = {(workload.service, workload.identity) for workload in before}
    owners: dict[int, Workload] = {}
    refused: dict[Workload, str] = {}
    for workload in sorted(workloads, key=lambda w: (w.service, w.identity) not in present):
        numbers = [port.number for port in workload.ports] if workload.proxied else []
        taken = [number for number in numbers if owners.get(number, workload).identity != workload.identity]
        if taken:
            refused[workload] = (
                f"service {workload.service}: port {taken[0]} is that of {owners[taken[0]].service}, under another "
                f"service account; left out (give it the same serviceAccount, another port, or proxied: false)"
            )
            continue
        for number in numbers:
            owners.setdefault(number, workload)
    return tuple(workload for workload in workloads if workload not in refused), tuple(refused.values())


def gateway_workload(config: Config, address: str) -> tuple[Workload, ...]:
    """Return what stands for a gateway host itself, in whose name it calls services; none on any other host."""
    return () if config.gateway_labels is None else (stand_in(config.gateway_labels, address),)


def agent_entry(address: str) -> Workload:
    """Return the agent's own entry in Consul's catalog, by which Prometheus finds its metrics and /healthz is seen."""
    return Workload(
        ServiceKey(DEFAULT_NAMESPACE, AGENT_SERVICE),
        address,
        (Port(METRICS_PORT, "http-metrics", Protocol.HTTP),),
        proxied=False,
        check=Check(http_path="/healthz", interval_seconds=10.0),
    )


def served(workload: Workload, config: Config) -> Workload:
    """Return the workload as peers may call it.

    A proxied one with a port that is not captured counts as not proxied: mutual TLS would reach the application itself.
    On a gateway nothing is captured: its Envoy serves the ports itself, as Gateway objects say.
    """
    interception = config.interception
    open_ports = [port.number for port in workload.ports if not _is_captured(port.number, interception)]
    if not workload.proxied or not open_ports:
        return workload
    if config.gateway_labels is None:
        numbers = ", ".join(map(str, open_ports))
        log.warning("%s: port %s is not captured (interception): serves without mutual TLS", workload.service, numbers)
    return msgspec.structs.replace(workload, proxied=False)


def _is_captured(port: int, interception: InterceptionConfig) -> bool:
    chosen = interception.inbound_ports is None or port in interception.inbound_ports
    excluded = NEVER_CAPTURED.union(interception.exclude_inbound_ports)
    return interception.inbound and chosen and port not in excluded
