"""The gRPC face: takes messages apart, calls the issuer, turns outcomes into statuses, writes the audit log.

Decides nothing. Whatever goes wrong, the caller gets a status and one line; what is ours to know stays in the log.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc
from cryptography import x509

from node_ca.audit import audit
from node_ca.errors import InventoryError, Refusal, RefusalKind, SigningFault
from node_ca.issuer import Issued, Issuer
from node_ca.policy import TokenRecord
from node_ca.proto import ca_pb2, ca_pb2_grpc
from node_ca.trust import Trust, TrustBundle

_LOG = logging.getLogger("hostmesh.ca")
_STATUS = {
    RefusalKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    RefusalKind.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    RefusalKind.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
}


class EnrolmentService(ca_pb2_grpc.EnrolmentServicer):
    """hostmesh.ca.v1.Enrolment."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def Enrol(self, request: ca_pb2.EnrolRequest, context: grpc.aio.ServicerContext) -> ca_pb2.IssuedCertificate:
        """Issue a first certificate for a join token."""
        async with _answered(context, "enrol"):
            return _answer(await self._issuer.enrol(request.csr_pem, request.token, request.identity), context)


class BundleService(ca_pb2_grpc.BundleServicer):
    """hostmesh.ca.v1.Bundle."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust

    async def Get(self, request: ca_pb2.GetBundleRequest, context: grpc.aio.ServicerContext) -> ca_pb2.TrustBundle:
        """Return the bundle."""
        return _bundle_message(self._trust.current)

    async def Watch(
        self, request: ca_pb2.WatchBundleRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[ca_pb2.TrustBundle]:
        """Send the bundle and every later one until the caller goes."""
        async for bundle in self._trust.follow(request.version):
            yield _bundle_message(bundle)


class RenewalService(ca_pb2_grpc.RenewalServicer):
    """hostmesh.ca.v1.Renewal; stands only on the port that requires client certificates."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def Renew(self, request: ca_pb2.RenewRequest, context: grpc.aio.ServicerContext) -> ca_pb2.IssuedCertificate:
        """Issue the next certificate for the present one."""
        async with _answered(context, "renew"):
            return _answer(await self._issuer.renew(request.csr_pem, _peer_certificate(context)), context)


class AdministrationService(ca_pb2_grpc.AdministrationServicer):
    """hostmesh.ca.v1.Administration; stands only on the Unix socket, whose mode says who may."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def CreateToken(
        self, request: ca_pb2.CreateTokenRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.CreateTokenResponse:
        """Make a join token."""
        async with _answered(context, "create-token"):
            token, record = await self._issuer.create_token(request.identity, request.ttl_seconds, request.uses)
            audit("token created", token=record.id, identity=str(record.identity), expiresAt=record.expires_at)
            return ca_pb2.CreateTokenResponse(token=token.text(), record=_token_message(record))

    async def ListTokens(
        self, request: ca_pb2.ListTokensRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.ListTokensResponse:
        """List the join tokens without their secrets."""
        async with _answered(context, "list-tokens"):
            return ca_pb2.ListTokensResponse(tokens=[_token_message(token) for token in await self._issuer.tokens()])


@asynccontextmanager
async def _answered(context: grpc.aio.ServicerContext, call: str) -> AsyncIterator[None]:
    try:
        yield
    except Refusal as error:
        await _refuse(context, call, _STATUS[error.kind], str(error))
    except InventoryError as error:
        _LOG.error("%s", error)
        await _refuse(context, call, grpc.StatusCode.UNAVAILABLE, "the CA cannot record it now; nothing was issued")
    except SigningFault as error:
        _LOG.critical("%s", error)
        await _refuse(context, call, grpc.StatusCode.INTERNAL, "the CA's own check failed; nothing was issued")


async def _refuse(context: grpc.aio.ServicerContext, call: str, status: grpc.StatusCode, reason: str) -> NoReturn:
    audit("refused", call=call, peer=context.peer(), status=status.name, reason=reason)
    await context.abort(status, reason)
    raise AssertionError("abort() always raises")


def _answer(issued: Issued, context: grpc.aio.ServicerContext) -> ca_pb2.IssuedCertificate:
    record = issued.record
    audit(
        "issued",
        identity=record.name,
        serial=record.serial,
        by=record.issued_by,
        peer=context.peer(),
        notAfter=record.not_after,
    )
    return ca_pb2.IssuedCertificate(chain_pem=issued.chain_pem, trust_bundle_pem=issued.trust_bundle_pem)


def _peer_certificate(context: grpc.aio.ServicerContext) -> x509.Certificate:
    pems = context.auth_context().get("x509_pem_cert", [])
    if not pems:
        raise Refusal.unauthenticated("renewal needs a client certificate")
    try:
        return x509.load_pem_x509_certificate(pems[0])
    except ValueError as error:
        raise Refusal.unauthenticated("client certificate: not readable") from error


def _bundle_message(bundle: TrustBundle) -> ca_pb2.TrustBundle:
    revoked = (
        ca_pb2.RevokedCertificate(
            serial=entry.serial,
            identity=entry.identity,
            fingerprint=entry.fingerprint,
            revoked_at=entry.revoked_at,
            not_after=entry.not_after,
        )
        for entry in bundle.revoked
    )
    return ca_pb2.TrustBundle(
        trust_domain=bundle.trust_domain,
        roots_pem=bundle.roots_pem,
        crls_pem=bundle.crls_pem,
        revoked=revoked,
        version=bundle.version,
    )


def _token_message(record: TokenRecord) -> ca_pb2.Token:
    return ca_pb2.Token(
        id=record.id,
        identity=str(record.identity),
        created_at=record.created_at,
        expires_at=record.expires_at,
        uses=record.uses,
        used=len(record.keys),
    )
