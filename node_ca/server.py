"""Builds a CA from its configuration, opens its three doors and closes them again. Wiring only."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any

import grpc

from node_ca.authority import Authority
from node_ca.config import Config, Listener
from node_ca.errors import ConfigError
from node_ca.inventory import Inventory
from node_ca.issuer import Issuer
from node_ca.proto import ca_pb2_grpc
from node_ca.server_certificate import ServerCertificate
from node_ca.service import AdministrationService, BundleService, EnrolmentService, RenewalService
from node_ca.template import Validity
from node_ca.trust import Trust, TrustBundle

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.so_reuseport", 0),  # a second CA on this port must fail, not share it
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_connection_idle_ms", 60_000),
)
_MAX_CALLS = 1000
"""Calls under way at once on a port; more get RESOURCE_EXHAUSTED."""


class CaServer:
    """A running hostmesh-ca."""

    def __init__(self, config: Config, authority: Authority, inventory: Inventory, lock: int) -> None:
        self._config = config
        self._inventory = inventory
        self._lock = lock
        validity = Validity(config.lifetime, config.skew_margin)
        self._issuer = Issuer(authority, inventory, config.trust_domain, validity)
        self._certificate = ServerCertificate(self._issuer, config.server_names, config.server_lifetime)
        self._authority = authority
        self._trust = Trust(self._gather_trust, TrustBundle(config.trust_domain, authority.trust_bundle_pem))
        self._servers: list[Any] = []
        self._renewing: asyncio.Task[None] | None = None
        self.enrolment_port = 0
        self.renewal_port = 0
        self.root_pem = authority.root_pem

    @classmethod
    async def open(cls, config: Config) -> CaServer:
        """Open or make the state; raises ConfigError or InventoryError."""
        directory = Path(config.state_dir)
        lock = _lock_state(directory)
        try:
            authority = Authority.open(directory, config.trust_domain, time.time())
            inventory = await Inventory.open(directory / "inventory.db")
        except BaseException:
            os.close(lock)
            raise
        return cls(config, authority, inventory, lock)

    async def start(self) -> None:
        """Open the doors; raises ConfigError if a port or the socket can't be had."""
        await self._certificate.renew()
        enrolment, renewal, administration = _new_server(), _new_server(), _new_server()
        self._servers = [enrolment, renewal, administration]
        ca_pb2_grpc.add_EnrolmentServicer_to_server(EnrolmentService(self._issuer), enrolment)
        ca_pb2_grpc.add_BundleServicer_to_server(BundleService(self._trust), enrolment)
        ca_pb2_grpc.add_RenewalServicer_to_server(RenewalService(self._issuer), renewal)
        ca_pb2_grpc.add_AdministrationServicer_to_server(AdministrationService(self._issuer), administration)
        self.enrolment_port = self._bind(enrolment, self._config.enrolment, "enrolment", require_client=False)
        self.renewal_port = self._bind(renewal, self._config.renewal, "renewal", require_client=True)
        _bind_socket(administration, Path(self._config.admin_socket))
        for server in self._servers:
            await server.start()
        self._renewing = asyncio.create_task(self._certificate.keep_fresh(), name="server certificate")

    async def stop(self, grace: float = 5.0) -> None:
        """Take no more calls, give those under way `grace` seconds, close everything."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await asyncio.gather(*(server.stop(grace) for server in self._servers))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._config.admin_socket)
        await self._inventory.close()
        os.close(self._lock)

    async def _gather_trust(self) -> TrustBundle:
        return TrustBundle(self._config.trust_domain, self._authority.trust_bundle_pem)

    def _bind(self, server: Any, listener: Listener, name: str, *, require_client: bool) -> int:
        credentials = self._certificate.credentials(require_client=require_client)
        try:
            return int(server.add_secure_port(listener.target, credentials))
        except RuntimeError as error:  # grpcio's own, for a port in use or an absent address
            raise ConfigError([f"{name}: cannot listen on {listener.target}: is it in use?"]) from error


def _new_server() -> Any:
    return grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)


def _bind_socket(server: Any, path: Path) -> None:
    before = os.umask(0o177)  # gRPC makes the socket; it must never be open to others, not for a moment
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise ConfigError([f"adminSocket: cannot listen on {path}: is its folder there and writable?"]) from error
    finally:
        os.umask(before)


def _lock_state(directory: Path) -> int:
    """Return a descriptor that holds the state directory; two CAs on one would be two owners of its serials."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError([f"stateDir: {directory}: cannot be used: {error.strerror}"]) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError([f"stateDir: {directory}: another hostmesh-ca is using it"]) from error
    return descriptor
