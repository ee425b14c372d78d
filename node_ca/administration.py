"""The gRPC face to the operator, on the Unix socket whose mode says who may. Takes messages apart, decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from node_ca.audit import audit
from node_ca.issuer import Issuer
from node_ca.outcomes import Outcomes
from node_ca.policy import TokenRecord
from node_ca.proto import ca_pb2, ca_pb2_grpc
from node_ca.records import IssueRecord
from node_ca.registrar import Registrar
from node_ca.root_administration import RootCalls
from node_ca.rotation import RootRotation
from node_ca.service import issued_message


class AdministrationService(RootCalls, ca_pb2_grpc.AdministrationServicer):
    """hostmesh.ca.v1.Administration."""

    def __init__(self, issuer: Issuer, registrar: Registrar, rotation: RootRotation, outcomes: Outcomes) -> None:
        super().__init__(rotation, outcomes)
        self._issuer = issuer
        self._registrar = registrar
        self._outcomes = outcomes

    async def CreateToken(
        self, request: ca_pb2.CreateTokenRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.CreateTokenResponse:
        """Make a join token."""
        async with self._outcomes.of(context, "CreateToken"):
            token, record = await self._registrar.create_token(request.identity, request.ttl_seconds, request.uses)
            audit("token created", token=record.id, identity=str(record.identity), expiresAt=record.expires_at)
            return ca_pb2.CreateTokenResponse(token=token.text(), record=_token_message(record))

    async def ListTokens(
        self, request: ca_pb2.ListTokensRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.ListTokensResponse:
        """List the join tokens without their secrets."""
        async with self._outcomes.of(context, "ListTokens"):
            tokens = await self._registrar.tokens()
            return ca_pb2.ListTokensResponse(tokens=[_token_message(token) for token in tokens])

    async def RevokeToken(self, request: ca_pb2.RevokeTokenRequest, context: grpc.aio.ServicerContext) -> ca_pb2.Token:
        """Make a join token unusable."""
        async with self._outcomes.of(context, "RevokeToken"):
            record = await self._registrar.revoke_token(request.id)
            audit("token revoked", token=record.id, identity=str(record.identity))
            return _token_message(record)

    async def IssueCertificate(
        self, request: ca_pb2.IssueCertificateRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.IssuedCertificate:
        """Issue a certificate for a machine without an agent."""
        async with self._outcomes.of(context, "IssueCertificate"):
            issued = await self._issuer.issue_directly(request.csr_pem, request.identity, request.lifetime_seconds)
            return issued_message(self._outcomes.issued(issued, context))

    async def ListCertificates(
        self, request: ca_pb2.ListCertificatesRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ca_pb2.Certificate]:
        """Send the issued certificates, one by one."""
        async with self._outcomes.of(context, "ListCertificates"):
            records = self._registrar.certificates(
                request.identity, request.serial, expired=request.expired, revoked_only=request.revoked_only
            )
            async for record in records:
                yield _certificate_message(record)

    async def RevokeCertificates(
        self, request: ca_pb2.RevokeCertificatesRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.RevokeCertificatesResponse:
        """Revoke, and answer when the new CRL is out."""
        async with self._outcomes.of(context, "RevokeCertificates"):
            revoked = await self._registrar.revoke(request.serial, request.identity, request.reason)
            for record in revoked.certificates:
                audit("revoked", identity=record.name, serial=record.serial, reason=record.revoked_for)
            for token in revoked.tokens:
                audit("token revoked", token=token.id, identity=str(token.identity))
            self._outcomes.revoked(len(revoked.certificates))
            return ca_pb2.RevokeCertificatesResponse(
                certificates=[_certificate_message(record) for record in revoked.certificates],
                tokens=[_token_message(token) for token in revoked.tokens],
            )


def _token_message(record: TokenRecord) -> ca_pb2.Token:
    return ca_pb2.Token(
        id=record.id,
        identity=str(record.identity),
        created_at=record.created_at,
        expires_at=record.expires_at,
        uses=record.uses,
        used=record.used,
        revoked_at=record.revoked_at,
    )


def _certificate_message(record: IssueRecord) -> ca_pb2.Certificate:
    return ca_pb2.Certificate(
        serial=record.serial,
        identity=record.name,
        not_before=record.not_before,
        not_after=record.not_after,
        issued_at=int(record.issued_at),
        issued_by=record.issued_by,
        fingerprint=record.fingerprint,
        revoked_at=record.revoked_at,
        revoked_for=record.revoked_for,
    )
