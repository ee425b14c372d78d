"""Builds a CA from its configuration, opens its doors and closes them again. Wiring only."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from node_ca.administration import AdministrationService
from node_ca.authority import Authority, Plugin
from node_ca.backing import consul_entry, known_replicas, open_inventory
from node_ca.config import Config
from node_ca.crl import revocations_of
from node_ca.door import Door
from node_ca.errors import CaError, ConfigError, InventoryError
from node_ca.expiry import endings, warn
from node_ca.issuer import Issuer
from node_ca.jwt_issuer import JwtIssuer
from node_ca.jwt_keys import JwtKeys
from node_ca.limits import Limits, Rate
from node_ca.metrics import Metrics, MetricsPort
from node_ca.outcomes import Outcomes
from node_ca.ports import add_health_and_reflection, bind_port, bind_socket, new_server
from node_ca.proto import ca_pb2, ca_pb2_grpc, istio_ca_pb2, istio_ca_pb2_grpc
from node_ca.records import Inventory
from node_ca.registrar import Registrar
from node_ca.rotation import RootRotation
from node_ca.server_certificate import ServerCertificate
from node_ca.service import BundleService, EnrolmentService, IstioService, JwtService, RenewalService
from node_ca.state_folder import finish_restore, lock_state
from node_ca.template import Validity
from node_ca.trust import RevokedCertificate, Trust, TrustBundle

_LOG = logging.getLogger("hostmesh.ca")
_SERVICES = ca_pb2.DESCRIPTOR.services_by_name
_ISTIO = istio_ca_pb2.DESCRIPTOR.services_by_name["IstioCertificateService"].full_name
_PRUNE_SECONDS = 3600.0
_WARN_SECONDS = 86400.0
_KEEP_REVOKED = 3600.0
"""Seconds that a certificate is on the lists after its end, for hosts whose clock is behind."""


class CaServer:
    """A running hostmesh-ca."""

    def __init__(
        self, config: Config, authority: Authority, jwt_keys: JwtKeys, inventory: Inventory, lock: int
    ) -> None:
        self._config = config
        self._authority = authority
        self._inventory = inventory
        self._lock = lock
        self._metrics = Metrics()
        self._metrics.watch_issuer(lambda: authority.certificate.not_valid_after_utc.timestamp() - time.time())
        self._metrics.watch_endings(lambda: endings(authority.issuers))
        self._metrics_port = MetricsPort(self._metrics)
        self._entry = consul_entry(config)
        self._replicas = known_replicas(config)
        self._jwt_keys = jwt_keys
        self._issuer = Issuer(
            authority,
            inventory,
            config.trust_domain,
            Validity(config.lifetime, config.skew_margin, config.min_lifetime, config.max_lifetime),
            grace=config.grace_renewal,
            entry=self._entry,
        )
        self._trust = Trust(self._gather_trust, TrustBundle(config.trust_domain, authority.trust_bundle_pem))
        self._certificate = ServerCertificate(self._issuer, config.server_names, config.server_lifetime)
        self._servers: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.enrolment_port = 0
        self.renewal_port = 0
        self.root_pem = authority.root_pem

    @classmethod
    async def open(cls, config: Config) -> CaServer:
        """Open or make the state; raises ConfigError or InventoryError."""
        directory = Path(config.state_dir)
        lock = lock_state(directory)
        try:
            finish_restore(directory)
            names = config.server_names.needed().general_names
            plugin = Plugin.read(config.ca_files, config.ca_key_passphrase_file, names)
            authority = Authority.open(directory, config.trust_domain, time.time(), plugin)
            jwt_keys = JwtKeys.open(directory, config.jwt, time.time())
            inventory = await open_inventory(config)
        except BaseException:
            os.close(lock)
            raise
        return cls(config, authority, jwt_keys, inventory, lock)

    async def start(self) -> None:
        """Open the doors; raises ConfigError if a port or the socket can't be had."""
        await self._trust.refresh()
        await self._certificate.renew()
        await self._announce()
        self._servers = [await self._enrolment(), await self._renewal(), await self._administration()]
        for server in self._servers:
            await server.start()
        await self._metrics_port.start(self._config.metrics.address, self._config.metrics.port)
        self._tasks = [
            asyncio.create_task(self._certificate.keep_fresh(), name="server certificate"),
            asyncio.create_task(self._prune(), name="prune"),
            asyncio.create_task(self._warn_of_ends(), name="warn of ends"),
            asyncio.create_task(self._inventory.follow(self._trust.refresh), name="follow revocations"),
        ]

    async def stop(self, grace: float = 5.0) -> None:
        """Take no more calls, give those under way `grace` seconds, close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(server.stop(grace) for server in self._servers), self._metrics_port.stop())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._config.admin_socket)
        await self._inventory.close()
        if self._entry is not None:
            await self._entry.close()
        if self._replicas is not None:
            await self._replicas.close()
        os.close(self._lock)

    async def _enrolment(self) -> Any:
        server, outcomes = new_server(self._door()), Outcomes(self._metrics)
        ca_pb2_grpc.add_EnrolmentServicer_to_server(EnrolmentService(self._issuer, outcomes), server)
        ca_pb2_grpc.add_BundleServicer_to_server(BundleService(self._trust), server)
        istio_ca_pb2_grpc.add_IstioCertificateServiceServicer_to_server(IstioService(self._issuer, outcomes), server)
        names = [_SERVICES["Enrolment"].full_name, _SERVICES["Bundle"].full_name, _ISTIO]
        await add_health_and_reflection(server, names)
        credentials = self._certificate.credentials(require_client=False)
        self.enrolment_port = bind_port(server, self._config.enrolment, "enrolment", credentials)
        return server

    async def _renewal(self) -> Any:
        server = new_server(self._door())
        outcomes, config = Outcomes(self._metrics), self._config
        ca_pb2_grpc.add_RenewalServicer_to_server(RenewalService(self._issuer, outcomes), server)
        jwt = JwtIssuer(self._jwt_keys.signer, self._inventory, config.trust_domain, config.jwt, config.skew_margin)
        ca_pb2_grpc.add_JwtIdentityServicer_to_server(JwtService(jwt, outcomes), server)
        names = [_SERVICES["Renewal"].full_name, _SERVICES["JwtIdentity"].full_name]
        await add_health_and_reflection(server, names)
        credentials = self._certificate.credentials(require_client=True)
        self.renewal_port = bind_port(server, self._config.renewal, "renewal", credentials)
        return server

    async def _administration(self) -> Any:
        server = new_server(Door(None, self._metrics))
        registrar = Registrar(self._inventory, lambda: self._authority.root_fingerprint, self._trust.refresh)
        rotation = RootRotation(
            self._authority,
            self._inventory,
            self._publish_roots,
            lambda: self._trust.version,
            replicas=self._replicas,
        )
        service = AdministrationService(self._issuer, registrar, rotation, Outcomes(self._metrics))
        ca_pb2_grpc.add_AdministrationServicer_to_server(service, server)
        ca_pb2_grpc.add_BundleServicer_to_server(BundleService(self._trust), server)
        names = [_SERVICES["Administration"].full_name, _SERVICES["Bundle"].full_name]
        await add_health_and_reflection(server, names)
        bind_socket(server, Path(self._config.admin_socket))
        return server

    def _door(self) -> Door:
        each, total = self._config.limits.per_caller, self._config.limits.total
        limits = Limits(Rate(each.per_second, each.burst), Rate(total.per_second, total.burst), time.monotonic)
        return Door(limits, self._metrics)

    async def _publish_roots(self) -> None:
        """Tell everybody of changed roots, the own doors too: they take clients of any of them.

        The step itself stands, so this is tried until it is done, also when the operator goes away meanwhile.
        """
        task = asyncio.create_task(self._publish_until_done(), name="publish roots")
        self._tasks.append(task)
        await asyncio.shield(task)
        self._tasks.remove(task)

    async def _publish_until_done(self) -> None:
        while True:
            try:
                await self._trust.refresh()
                await self._certificate.renew()
                await self._announce()
                return
            except CaError as error:
                _LOG.error("changed roots: cannot be published, trying again: %s", error)
                await asyncio.sleep(1.0)

    async def _announce(self) -> None:
        """Tell the other CAs, if there are some, which issuers this one has; and the log which of them has others."""
        if self._replicas is None:
            return
        own = [issuing.entry for issuing in self._authority.issuers]
        await self._replicas.announce(own)
        for other in await self._replicas.others():
            if {entry.id for entry in own} != {entry.id for entry in other.issuers}:
                _LOG.warning(
                    "the CA on %s has other issuers than this one: take each step of `hostmesh ca root` on all",
                    other.host,
                )

    async def _gather_trust(self) -> TrustBundle:
        now = time.time()
        revoked = await self._inventory.revoked(now - _KEEP_REVOKED)
        lists = revocations_of(revoked, self._authority.issuers[0].signer.id)
        return TrustBundle(
            self._config.trust_domain,
            self._authority.trust_bundle_pem,
            await asyncio.to_thread(self._make_lists, lists, now),
            tuple(sorted(issuing.entry.id for issuing in self._authority.issuers)),
            revoked=tuple(
                RevokedCertificate(record.serial, record.name, record.fingerprint, record.revoked_at, record.not_after)
                for record in revoked
            ),
            jwks=self._jwt_keys.jwks(now),
        )

    def _make_lists(self, revoked: dict[str, dict[int, int]], now: float) -> bytes:
        try:
            return self._authority.crls_pem(revoked, now)
        except ConfigError as error:  # the disk; that it holds no list is as bad as that it holds no record
            raise InventoryError(str(error)) from error

    async def _warn_of_ends(self) -> None:
        while True:
            warn(self._authority.issuers, time.time())
            await asyncio.sleep(_WARN_SECONDS)

    async def _prune(self) -> None:
        """Drop what ended from the records and the bundle, for ever."""
        while True:
            try:
                await self._inventory.prune(time.time())
                await self._trust.refresh()
                await self._announce()
            except CaError as error:
                _LOG.error("%s", error)
            await asyncio.sleep(_PRUNE_SECONDS)
