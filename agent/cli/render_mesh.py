"""A node of a catalog as a MeshSnapshot, and what an offline rendering of it must not do. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from agent.adapters.credentials import read_credentials
from agent.api.lowering.lower import Lowered
from agent.cli.catalog_file import Catalog, HostSettings
from agent.cli.certificate_files import CertificateFolder
from agent.config import VipConfig
from agent.errors import UserError
from agent.mesh.gateway import Credential, Gateway, named_files, stand_in
from agent.mesh.scope import Scope
from agent.mesh.selection import Selection
from agent.mesh.service import Workload
from agent.mesh.settings import MtlsMode
from agent.mesh.sidecar import LOCALHOST, sidecar_of_host
from agent.mesh.snapshot import Certificate, MeshSnapshot
from agent.mesh.trust import TrustBundle
from agent.mesh.vips import allocate
from agent.translate.netfilter import NetfilterOptions
from agent.translate.plan import PlanOptions

_IN_FILES = Certificate(b"", b"")
"""A certificate whose content stays in its files."""
_RANGES = IPv4Network(VipConfig().v4), IPv6Network(VipConfig().v6)


def node_snapshot(
    catalog: Catalog, node: str, lowered: Lowered, certificates: CertificateFolder | None
) -> MeshSnapshot:
    """Return the mesh as the node's agent would know it; the one certificate stands for all of its workloads."""
    registered = {service.key: service for service in catalog.services}
    services = {**registered, **Selection().join(lowered.outside, registered)}
    workloads = catalog.workloads(node)
    if catalog.host.gateway is not None:
        workloads = (stand_in(catalog.host.gateway, catalog.nodes[node]), *workloads)
    bearers = [workload.identity for workload in workloads]
    if certificates and not bearers:
        bearers = [certificates.identity]
    root = catalog.settings.root_namespace
    sidecar = sidecar_of_host(lowered.sidecars, workloads, root) if catalog.host.gateway is None else None
    own = [workload.service for workload in workloads]
    scope = Scope.of(sidecar, services, lowered.policies, own)
    return MeshSnapshot(
        node=node,
        services=scope.limit(services),
        policies=lowered.policies,
        settings=catalog.settings,
        workloads=workloads,
        vips=allocate({}, (key for key, service in services.items() if service.has_address), *_RANGES),
        certificates=dict.fromkeys(bearers, _IN_FILES) if certificates else {},
        trust=TrustBundle(b"in a file" if certificates else b""),
        ingress=lowered.ingress,
        credentials=_credentials(certificates, lowered.ingress.gateways),
        scope=scope,
        sidecars=lowered.sidecars,
        security=lowered.security,
        telemetry=lowered.telemetry,
    )


def _credentials(certificates: CertificateFolder | None, gateways: Iterable[Gateway]) -> dict[str, Credential]:
    """Return what is in the folder's own folder of secrets, and in files that Gateways name; contents stay there."""
    if certificates is None:
        return {}
    read = read_credentials(Path(certificates.files.secrets), named_files(gateways))
    return {name: _without_content(held) for name, held in read.credentials.items()}


def _without_content(held: Credential) -> Credential:
    parts = (held.key_pem, held.chain_pem, held.authorities_pem, held.crl_pem)
    return Credential(*(b"in a file" if part else b"" for part in parts))


def node_options(host: HostSettings, bind_outbound: str | None, bind_inbound: str | None) -> PlanOptions:
    """Return how listeners are reached: by iptables on 15001 and 15006, or at the addresses given."""
    upstreams = host.dns_upstreams
    if host.gateway is not None:
        return PlanOptions(intercepted=False, dns_upstreams=upstreams, gateway=host.gateway)
    if bind_outbound or bind_inbound:
        return PlanOptions(
            intercepted=False, bind_outbound=bind_outbound, bind_inbound=bind_inbound, dns_upstreams=upstreams
        )
    capture = NetfilterOptions(
        proxy_uid=0, service_cidr_v4=_RANGES[0], service_cidr_v6=_RANGES[1], outbound=host.outbound
    )
    return PlanOptions(capture, dns_upstreams=upstreams)


def security_warnings(snapshot: MeshSnapshot, certificates: CertificateFolder | None) -> list[str]:
    """Return what is likely not meant; raises UserError where mutual TLS is demanded and can't be had."""
    mode, domain = snapshot.settings.mtls, snapshot.settings.trust_domain
    if mode is MtlsMode.DISABLED:
        return []
    if certificates is None and mode is MtlsMode.STRICT:
        raise UserError("mesh.authPolicy is MUTUAL_TLS: give --certs DIR (key.pem, cert-chain.pem, root-cert.pem)")
    if certificates is None:
        return [f"mesh.authPolicy is {mode} and no --certs DIR is given: everything is plain text (or set it to NONE)"]
    return [
        f"the certificate is {certificates.spiffe_id or 'without a SPIFFE ID'}, but {workload.service} "
        f"is {workload.identity.spiffe_id(domain)}: its clients will refuse it"
        for workload in snapshot.workloads
        if workload.proxied and workload.ports and workload.identity.spiffe_id(domain) != certificates.spiffe_id
    ]


def check_bindings(snapshot: MeshSnapshot, options: PlanOptions) -> None:
    """Raise UserError if a listener would be in the way of another, or send to itself."""
    inbound = options.bind_inbound
    if inbound is None:
        return
    proxied = [workload for workload in snapshot.workloads if workload.proxied]
    for workload in proxied:
        if inbound == LOCALHOST == workload.address:
            raise UserError(
                f"--bind-inbound {inbound}: {workload.service} itself listens there; "
                f"choose another address, such as 127.0.0.2"
            )
    if inbound == options.bind_outbound:
        services = {port.number for service in snapshot.services.values() for port in service.ports}
        if both := sorted(services & _ports(proxied)):
            raise UserError(
                f"--bind-inbound and --bind-outbound are both {inbound} and both need port "
                f"{', '.join(map(str, both))}: choose two addresses"
            )


def _ports(workloads: Iterable[Workload]) -> set[int]:
    return {port.number for workload in workloads for port in workload.ports}
