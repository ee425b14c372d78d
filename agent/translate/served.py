"""Which ports of this host's workloads Envoy serves, and where behind it each application is reached. Pure.

Without a Sidecar that is the same port on loopback; an ingress listener may say another place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

from agent.mesh.names import certificate_secret
from agent.mesh.routes import Fault
from agent.mesh.security import WorkloadRules
from agent.mesh.service import MtlsMode, Port, Workload
from agent.mesh.sidecar import LOCALHOST, OWN_ADDRESS, IngressListener, Sidecar, sidecar_for
from agent.mesh.traffic_policy import ConnectionPool
from agent.translate.facts import Security


class InboundPort(Struct, frozen=True):
    """A local workload's port as Envoy serves it."""

    port: Port
    certificate: str
    """SDS name; it may not be there yet."""
    address: str
    """Where the application itself is reached: an IP address, or a Unix socket (`unix://PATH`)."""
    target: int
    """Its port there."""
    pool: ConnectionPool | None = None
    """Limits of the connections to it."""
    mode: MtlsMode = MtlsMode.PERMISSIVE
    rules: WorkloadRules = WorkloadRules()


def inbound_ports(
    workloads: Sequence[Workload], sidecars: Sequence[Sidecar], security: Security, bind: str | None
) -> tuple[tuple[InboundPort, ...], tuple[Fault, ...]]:
    """Return the ports to serve; of two workloads on one port the first has it, and the other is reported."""
    ports: dict[int, InboundPort] = {}
    faults: list[Fault] = []
    proxied = [workload for workload in workloads if workload.proxied and bind is None]
    captured = {port.number for workload in proxied for port in workload.ports}
    for workload in workloads:
        sidecar = sidecar_for(sidecars, workload.service.namespace, workload.labels, security.peers.root)
        faults += _unserved(workload, sidecar)
        name = certificate_secret(workload.identity, security.trust_domain)
        address = LOCALHOST if bind is None or bind == workload.address else workload.address
        rules = security.rules.of_workload(workload.service, workload.labels, security.peers.root)
        for port in workload.ports if workload.proxied else ():
            if port.number in ports:
                reason = f"port {port.number} has no inbound proxy: another service of this host has that port"
                faults.append(Fault(f"service {workload.service}", reason))
                continue
            mode = security.peers.mode(workload.service.namespace, workload.labels, port.number, workload.port_modes)
            pool = sidecar.pool if sidecar else None
            plain = InboundPort(port, name, address, port.number, pool, mode, rules)
            listener = sidecar.ingress_of(port.number) if sidecar else None
            served = _as_said(plain, listener, workload.address, captured) if listener else plain
            if isinstance(served, str):
                faults.append(Fault(str(sidecar.origin if sidecar else ""), served))
            ports[port.number] = plain if isinstance(served, str) else served
    return tuple(ports[number] for number in sorted(ports)), tuple(faults)


def _as_said(plain: InboundPort, listener: IngressListener, own: str, captured: Iterable[int]) -> InboundPort | str:
    """Return the port as an ingress listener wants it, or why it cannot be had so."""
    port = structs.replace(plain.port, protocol=listener.protocol or plain.port.protocol)
    pool = listener.pool or plain.pool
    if not listener.address:
        return structs.replace(plain, port=port, pool=pool)
    address = own if listener.address in OWN_ADDRESS else listener.address
    if address == own and listener.target in captured:
        return (
            f"the defaultEndpoint of port {port.number} has no effect: connections to {own}:{listener.target} would"
            f" come back to Envoy (let the application listen on {LOCALHOST})"
        )
    return structs.replace(plain, port=port, address=address, target=listener.target, pool=pool)


def _unserved(workload: Workload, sidecar: Sidecar | None) -> list[Fault]:
    """Return a fault for each ingress listener of a port that the workload has not got."""
    own = {port.number for port in workload.ports}
    listeners = sidecar.ingress if sidecar and workload.proxied else ()
    return [
        Fault(
            str(sidecar.origin if sidecar else ""),
            f"the ingress listener of port {listener.number} has no effect on {workload.service}, which has no such"
            " port (services.d says which it has)",
        )
        for listener in listeners
        if listener.number not in own
    ]
