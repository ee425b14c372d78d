"""The gRPC face to the mesh: enrolment, renewal, bundles, and Istio's clients. Takes messages apart, calls the issuer.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from cryptography import x509
from google.protobuf.struct_pb2 import Value

from node_ca.errors import Refusal
from node_ca.issuer import Issued, Issuer
from node_ca.jwt_issuer import JwtIssuer
from node_ca.late_renewal import NONCE_SECONDS
from node_ca.outcomes import Outcomes
from node_ca.proto import ca_pb2, ca_pb2_grpc, istio_ca_pb2, istio_ca_pb2_grpc
from node_ca.trust import Trust, TrustBundle

_BEARER = "bearer "
_END = b"-----END CERTIFICATE-----\n"


class EnrolmentService(ca_pb2_grpc.EnrolmentServicer):
    """hostmesh.ca.v1.Enrolment."""

    def __init__(self, issuer: Issuer, outcomes: Outcomes) -> None:
        self._issuer = issuer
        self._outcomes = outcomes

    async def Enrol(self, request: ca_pb2.EnrolRequest, context: grpc.aio.ServicerContext) -> ca_pb2.IssuedCertificate:
        """Issue a first certificate for a join token, or a Consul token."""
        async with self._outcomes.of(context, "Enrol"):
            if request.token and request.consul_token:
                raise Refusal.invalid("a join token and a Consul token: give one of the two")
            issued = await (
                self._issuer.enrol_vouched(request.csr_pem, request.consul_token, request.identity)
                if request.consul_token
                else self._issuer.enrol(request.csr_pem, request.token, request.identity)
            )
            return issued_message(self._outcomes.issued(issued, context))

    async def Challenge(
        self, request: ca_pb2.ChallengeRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.ChallengeResponse:
        """Return a nonce."""
        return ca_pb2.ChallengeResponse(nonce=self._issuer.challenge(), ttl_seconds=NONCE_SECONDS)

    async def RenewExpired(
        self, request: ca_pb2.RenewExpiredRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.IssuedCertificate:
        """Issue for a certificate that ended not long ago."""
        async with self._outcomes.of(context, "RenewExpired"):
            issued = await self._issuer.renew_expired(
                request.csr_pem, request.chain_pem, request.nonce, request.signature
            )
            return issued_message(self._outcomes.issued(issued, context))


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

    def __init__(self, issuer: Issuer, outcomes: Outcomes) -> None:
        self._issuer = issuer
        self._outcomes = outcomes

    async def Renew(self, request: ca_pb2.RenewRequest, context: grpc.aio.ServicerContext) -> ca_pb2.IssuedCertificate:
        """Issue the next certificate for the present one."""
        async with self._outcomes.of(context, "Renew"):
            issued = await self._issuer.renew(request.csr_pem, _peer_certificate(context))
            return issued_message(self._outcomes.issued(issued, context))


class JwtService(ca_pb2_grpc.JwtIdentityServicer):
    """hostmesh.ca.v1.JwtIdentity; stands only on the port that requires client certificates."""

    def __init__(self, issuer: JwtIssuer, outcomes: Outcomes) -> None:
        self._issuer = issuer
        self._outcomes = outcomes

    async def IssueJwt(self, request: ca_pb2.IssueJwtRequest, context: grpc.aio.ServicerContext) -> ca_pb2.IssuedJwt:
        """Issue a JWT-SVID for the present certificate."""
        async with self._outcomes.of(context, "IssueJwt"):
            svid = await self._issuer.issue(_peer_certificate(context), request.audience)
            self._outcomes.issued_jwt(svid, context)
            return ca_pb2.IssuedJwt(token=svid.token, expires_at=svid.expires_at)


class IstioService(istio_ca_pb2_grpc.IstioCertificateServiceServicer):
    """istio.v1.auth.IstioCertificateService, with our join tokens for Kubernetes' service account tokens."""

    def __init__(self, issuer: Issuer, outcomes: Outcomes) -> None:
        self._issuer = issuer
        self._outcomes = outcomes

    async def CreateCertificate(
        self, request: istio_ca_pb2.IstioCertificateRequest, context: grpc.aio.ServicerContext
    ) -> istio_ca_pb2.IstioCertificateResponse:
        """Issue a certificate; the chain comes in parts, the root last."""
        async with self._outcomes.of(context, "CreateCertificate"):
            if request.validity_duration < 0:
                raise Refusal.invalid(f"validity_duration: {request.validity_duration} s is less than nothing")
            _check_metadata(request)
            token, lifetime = _bearer_token(context), float(request.validity_duration)
            issued = await self._issuer.enrol(request.csr.encode(), token, "", lifetime)
            self._outcomes.issued(issued, context)
            parts = _certificates(issued.chain_pem) + _certificates(issued.trust_bundle_pem)
            return istio_ca_pb2.IstioCertificateResponse(cert_chain=parts)


def issued_message(issued: Issued) -> ca_pb2.IssuedCertificate:
    """Return an answer as it is sent."""
    return ca_pb2.IssuedCertificate(chain_pem=issued.chain_pem, trust_bundle_pem=issued.trust_bundle_pem)


def _peer_certificate(context: grpc.aio.ServicerContext) -> x509.Certificate:
    pems = context.auth_context().get("x509_pem_cert", [])
    if not pems:
        raise Refusal.unauthenticated("this port needs a client certificate")
    try:
        return x509.load_pem_x509_certificate(pems[0])
    except ValueError as error:
        raise Refusal.unauthenticated("client certificate: not readable") from error


def _check_metadata(request: istio_ca_pb2.IstioCertificateRequest) -> None:
    """Refuse wishes for another signer or identity; Istio's agent sends the names with empty values always."""
    for name, value in request.metadata.fields.items():
        is_empty = value.WhichOneof("kind") in (None, "null_value") or value == Value(string_value="")
        if not is_empty:
            raise Refusal.invalid(f"metadata.{name[:80]}: not supported; leave it out")


def _bearer_token(context: grpc.aio.ServicerContext) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str) or not values[0].lower().startswith(_BEARER):
        raise Refusal.unauthenticated("authorization: send one, `Bearer TOKEN`, with a join token")
    return values[0][len(_BEARER) :]


def _certificates(pem: bytes) -> list[str]:
    return [(part.lstrip() + _END).decode() for part in pem.split(_END) if part.strip()]


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
        jwks=bundle.jwks,
    )
