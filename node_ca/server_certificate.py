"""The CA's own server certificate: made at start, renewed at half of its life, never on disk."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from node_ca.config import ServerNames
from node_ca.errors import InventoryError, SigningFault
from node_ca.issuer import Issuer

_LOG = logging.getLogger("hostmesh.ca")
_RETRY_SECONDS = 5.0


@dataclass(frozen=True)
class _Current:
    generation: int
    renew_at: float
    configuration: Any
    """grpc.ServerCertificateConfiguration (grpcio has no types)."""


class ServerCertificate:
    """Makes and renews the certificate, and hands it to gRPC ports."""

    def __init__(self, issuer: Issuer, names: ServerNames, lifetime: float) -> None:
        self._issuer = issuer
        self._names = names.with_defaults()
        self._lifetime = lifetime
        self._current: _Current | None = None

    async def renew(self) -> None:
        """Make a new key and certificate; raises InventoryError."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued, made = await self._issuer.issue_server(
            key.public_key(), self._names.dns, self._names.addresses, self._lifetime
        )
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        # The root goes along (TLS allows it): at first contact an agent knows the root's fingerprint only.
        chain = issued.chain_pem + issued.trust_bundle_pem
        self._current = _Current(
            generation=self._current.generation + 1 if self._current else 0,
            renew_at=made + self._lifetime / 2,
            configuration=grpc.ssl_server_certificate_configuration(
                [(key_pem, chain)], root_certificates=issued.trust_bundle_pem
            ),
        )

    async def keep_fresh(self) -> None:
        """Renew it at each half-life, for ever."""
        while self._current is not None:
            await asyncio.sleep(max(0.0, self._current.renew_at - time.time()))
            try:
                await self.renew()
            except (InventoryError, SigningFault) as error:
                _LOG.error("server certificate: cannot be renewed, trying again: %s", error)
                await asyncio.sleep(min(_RETRY_SECONDS, self._lifetime / 10))

    def credentials(self, *, require_client: bool) -> Any:
        """Return the credentials for one port; new connections get the certificate that is current then."""
        if self._current is None:
            raise AssertionError("renew() comes first")
        return grpc.dynamic_ssl_server_credentials(
            self._current.configuration, self._fetcher(self._current.generation), require_client
        )

    def _fetcher(self, served: int) -> Callable[[], Any]:
        def fetch() -> Any:
            """Called by gRPC for every new connection; None means no change."""
            nonlocal served
            current = self._current
            if current is None or current.generation == served:
                return None
            served = current.generation
            return current.configuration

        return fetch
