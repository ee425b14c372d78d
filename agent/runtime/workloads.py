"""services.d as this host serves it: what the interception settings leave uncaptured has no Envoy in front."""

from __future__ import annotations

import logging

import msgspec

from agent.config import Config, InterceptionConfig, load_workloads
from agent.mesh.gateway import INGRESS_ACCOUNT, INGRESS_SERVICE
from agent.mesh.names import DEFAULT_NAMESPACE
from agent.mesh.ports import NEVER_CAPTURED
from agent.mesh.routes import Fault
from agent.mesh.service import ServiceKey, Workload

log = logging.getLogger(__name__)


def read_workloads(config: Config, address: str) -> tuple[tuple[Workload, ...], tuple[Fault, ...]]:
    """Return what services.d declares, and a fault for each thing in it that can't be used."""
    workloads, problems = load_workloads(config.config_dir, address)
    for line in problems:
        log.error("%s", line)
    return workloads, tuple(Fault("services.d", line) for line in problems)


def gateway_workload(config: Config, address: str) -> tuple[Workload, ...]:
    """Return what stands for a gateway host itself, in whose name it calls services; none on any other host."""
    if config.gateway_labels is None:
        return ()
    key = ServiceKey(DEFAULT_NAMESPACE, INGRESS_SERVICE)
    return (Workload(key, address, (), config.gateway_labels, INGRESS_ACCOUNT),)


def served(workload: Workload, interception: InterceptionConfig) -> Workload:
    """Return the workload as peers may call it.

    A proxied one with a port that is not captured counts as not proxied: mutual TLS would reach the application itself.
    """
    open_ports = [port.number for port in workload.ports if not _is_captured(port.number, interception)]
    if not workload.proxied or not open_ports:
        return workload
    numbers = ", ".join(map(str, open_ports))
    log.warning("%s: port %s is not captured (interception): serves without mutual TLS", workload.service, numbers)
    return msgspec.structs.replace(workload, proxied=False)


def _is_captured(port: int, interception: InterceptionConfig) -> bool:
    chosen = interception.inbound_ports is None or port in interception.inbound_ports
    excluded = NEVER_CAPTURED.union(interception.exclude_inbound_ports)
    return interception.inbound and chosen and port not in excluded
