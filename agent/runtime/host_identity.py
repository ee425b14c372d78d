"""This host's identities: certificates, whom to trust, and the end of what was revoked. Wires them; decides nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from agent.adapters.clock import SystemClock
from agent.adapters.command import SystemRunner
from agent.adapters.connections import Connections
from agent.adapters.identity import CaClient, CaGroup, KeyStore, TokenFile
from agent.adapters.identity.bundle import BundleFile, SerialsFile
from agent.adapters.proxy.admin import AdminClient
from agent.adapters.workload_api import IssuedJwt, WorkloadApi
from agent.config import Config
from agent.errors import CaUnavailable, HostError
from agent.mesh.gateway import client_ports
from agent.mesh.ports import INBOUND_PORT
from agent.mesh.routes import Fault
from agent.mesh.service import Identity, Workload
from agent.mesh.snapshot import Certificate, MeshSnapshot
from agent.mesh.status import CertificateStatus
from agent.mesh.trust import TrustBundle
from agent.runtime.certificate_desk import CertificateDesk
from agent.runtime.certificates import certificate_status
from agent.runtime.events import CertificatesChanged, FaultsChanged, TrustChanged
from agent.runtime.local_identities import local_identities
from agent.runtime.revocation import RevocationGuard
from agent.runtime.rotator import Rotator
from agent.runtime.trust import TrustFollower

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
CERTIFICATE_PATIENCE_SECONDS = 10.0
"""How long a first start waits for the CA before it serves without a certificate."""


class HostIdentity:
    """Keeps the certificates of the host's workloads, and follows the CA's trust bundle."""

    def __init__(
        self,
        config: Config,
        admin_socket: Path,
        post: Callable[[CertificatesChanged | TrustChanged | FaultsChanged], None],
        on_change: Callable[[], None],
    ) -> None:
        """Take `on_change` for when `certificates` or `acknowledged` changed."""
        ca, clock = config.ca, SystemClock()
        self.certificates: tuple[CertificateStatus, ...] = ()
        self.acknowledged = TrustBundle(b"")
        """The trust bundle that Envoy has acknowledged."""
        self._published: MeshSnapshot | None = None
        self._post = post
        self._on_change = on_change
        self._has_ca = bool(ca.hosts)
        self._gateway_labels = config.gateway_labels
        clients = tuple(CaClient(host, ca.enrolment_port, ca.renewal_port) for host in ca.hosts)
        self._trust = TrustFollower(
            clients,
            BundleFile(config.state_dir / "trust-bundle.json"),
            clock,
            self._take_bundle,
            lambda faults: post(FaultsChanged("trust", faults)),
        )
        self._ca = CaGroup(clients)
        self._rotator = Rotator(
            (),
            KeyStore(config.state_dir / "certificates"),
            self._ca,
            TokenFile(config.token_file),
            clock,
            self._take_certificates,
            lambda faults: post(FaultsChanged("certificates", faults)),
        )
        self._root_change_spread = ca.root_change_spread
        self._workloads: tuple[Workload, ...] = ()
        self._bundle: TrustBundle | None = None
        self._workload_api = WorkloadApi(config.run_dir / "workload.sock", self._issue_jwt, clock)
        self._revocation = RevocationGuard(
            AdminClient(admin_socket),
            Connections(SystemRunner()),
            peer_log(config),
            SerialsFile(config.state_dir / "revoked"),
            clock,
            lambda faults: post(FaultsChanged("revocation", faults)),
        )

    @property
    def desk(self) -> CertificateDesk:
        """Return what the agent's socket serves of it."""
        return CertificateDesk(self._rotator, lambda: self.certificates, lambda: self.acknowledged.roots_pem)

    def set_workloads(self, workloads: Iterable[Workload]) -> None:
        """Replace the host's workloads; may be called while it runs."""
        self._workloads = tuple(workloads)
        wanted = (workload.identity for workload in self._workloads if workload.proxied or workload.user)
        self._rotator.set_identities(wanted)
        self._offer()

    def published(self, snapshot: MeshSnapshot) -> None:
        """Take note of what Envoy is sent."""
        self._published = snapshot

    def settled(self) -> None:
        """Take note that Envoy has acknowledged all that it was sent."""
        snapshot = self._published
        if snapshot is not None and self.acknowledged != snapshot.trust:
            self.acknowledged = snapshot.trust
            self._revocation.acknowledged(self.acknowledged, partial(_servers_of, snapshot), self._ports_of(snapshot))
            self._on_change()

    def _ports_of(self, snapshot: MeshSnapshot) -> frozenset[int]:
        """Return the ports of this host that clients with certificates connect to."""
        labels = self._gateway_labels
        if labels is None:
            return frozenset({INBOUND_PORT})
        return client_ports(one for one in snapshot.ingress.gateways if one.selects(labels))

    async def run(self) -> None:
        """Keep everything fresh until cancelled; without a CA there is nothing to keep."""
        if not self._has_ca:
            self._post(CertificatesChanged({}, b""))
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._trust.run(), name="trust bundle")
            tasks.create_task(self._rotator.run(), name="rotation")
            tasks.create_task(self._revocation.run(), name="revocation")
            tasks.create_task(self._serve_workloads(), name="workload API")
            await asyncio.sleep(CERTIFICATE_PATIENCE_SECONDS)
            if not self.certificates:
                log.warning("no certificate yet: serving without; services that demand mutual TLS can't be reached")
                self._post(CertificatesChanged({}, b""))

    def _take_certificates(self, certificates: Mapping[Identity, Certificate], trust_bundle: bytes) -> None:
        self._trust.note_roots(trust_bundle)
        self._post(CertificatesChanged(certificates, trust_bundle))
        renewals = {identity: stored.renew_at for identity, stored in self._rotator.held().items()}
        self.certificates = certificate_status(certificates, renewals)
        self._offer()
        self._on_change()

    def _take_bundle(self, bundle: TrustBundle) -> None:
        before, self._bundle = self._bundle, bundle
        self._rotator.note_revoked(frozenset(each.number for each in bundle.revoked))
        self._post(TrustChanged(bundle))
        if before is not None and before.roots_pem != bundle.roots_pem:
            log.info("the mesh's roots have changed: renewing within %g s", self._root_change_spread)
            self._rotator.hasten(self._root_change_spread)
        self._offer()
        self._on_change()

    def _offer(self) -> None:
        """Give local programs what their users may have."""
        offered, faults = local_identities(self._workloads, self._rotator.held(), self._bundle)
        self._workload_api.offer(offered)
        self._post(FaultsChanged("users", faults))

    async def _issue_jwt(self, spiffe_id: str, audience: tuple[str, ...]) -> IssuedJwt:
        """Get a JWT-SVID for one of this host's identities, by its certificate."""
        held = [stored for stored in self._rotator.held().values() if spiffe_id in stored.leaf.uris]
        if not held:
            raise CaUnavailable(f"this host has no certificate of {spiffe_id} now")
        roots = self._bundle.roots_pem if self._bundle else held[0].trust_bundle_pem
        issued = await self._ca.issue_jwt(held[0].certificate, roots, audience)
        return IssuedJwt(issued.token, issued.lifetime)

    async def _serve_workloads(self) -> None:
        """Serve the Workload API; a socket that can't be had costs only this."""
        while True:
            try:
                await self._workload_api.run()
            except HostError as error:
                self._post(FaultsChanged("workload API", (Fault("workload API", str(error)),)))
                log.error("workload API: %s", error)
                await asyncio.sleep(RETRY_SECONDS)


def _servers_of(snapshot: MeshSnapshot, identities: frozenset[str]) -> frozenset[str]:
    """Return where instances of these identities serve mutual TLS."""
    instances = (instance for service in snapshot.services.values() for instance in service.instances)
    return frozenset(
        f"{f'[{instance.address}]' if ':' in instance.address else instance.address}:{port.number}"
        for instance in instances
        if instance.serves_tls and instance.identity.path in identities
        for port in instance.ports
    )


def peer_log(config: Config) -> Path:
    """Return the file in which Envoy's connections say whose they are."""
    return config.run_dir / "envoy" / "peers.log"
