"""The interception of one host: what its settings leave open follows from what runs on it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from agent.mesh.callers import callers_by_uid
from agent.mesh.service import Workload
from agent.translate.netfilter import CallerSource, NetfilterOptions, NetfilterText, ruleset


def host_ruleset(options: NetfilterOptions, workloads: Iterable[Workload], capture_inbound: bool) -> NetfilterText:
    """Return the rules of a host with these workloads.

    Without ports of its own choice (`capture_inbound` and no `inbound_ports`) those of its proxied workloads are
    captured.
    """
    workloads = tuple(workloads)
    ports = options.inbound_ports
    if capture_inbound and not ports:
        numbers = {port.number for workload in workloads if workload.proxied for port in workload.ports}
        ports = tuple(sorted(numbers))
    callers = tuple(CallerSource(uid) for uid in callers_by_uid(workloads))
    return ruleset(structs.replace(options, inbound_ports=ports, callers=callers))
