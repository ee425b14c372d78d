"""The client of hostmesh-ca: enrolment for a join token, renewal, the trust bundle. Foreign errors end here.

Checks every answer before it is believed: right key, right identity. May not decide when to ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from agent.adapters.identity.bundle import bundle_of
from agent.adapters.identity.first_contact import fetch_root
from agent.adapters.identity.keys import Leaf, new_csr, read_chain, sign
from agent.errors import CaRefused, CaUnavailable
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate
from agent.mesh.trust import TrustBundle
from node_ca.proto import ca_pb2, ca_pb2_grpc
from node_ca.proto.challenge import proof_payload
from node_ca.proto.clock import CLOCK
from node_ca.proto.token import JoinToken

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a new certificate must mean a new connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 1024 * 1024),
    # A CA whose machine vanishes without a word is noticed within six seconds, on the stream of the trust bundle too
    # (node_ca/ports.py allows so many pings), and one that can't be connected to within three.
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),  # 0: as many as needed
    ("grpc.min_reconnect_backoff_ms", 3000),  # also how long an attempt to connect may take
)
_MAY_HELP = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Statuses after which the same question may get another answer."""


@dataclass(frozen=True)
class IssuedChain:
    """The CA's answer, checked."""

    certificate: Certificate
    leaf: Leaf
    trust_bundle_pem: bytes
    ca_time: float | None = None
    """The CA's Unix time when it answered, seconds."""


@dataclass(frozen=True)
class IssuedToken:
    """A JWT-SVID."""

    token: str
    lifetime: float
    """Seconds from its issue to its end, on the CA's clock."""


class CertificateAuthority(Protocol):
    """What issues certificates: one hostmesh-ca, or several."""

    async def enrol(self, identity: Identity, key_pem: bytes, token_text: str) -> IssuedChain:
        """Get a first certificate."""

    async def renew(self, identity: Identity, key_pem: bytes, present: Certificate, trust: bytes) -> IssuedChain:
        """Get the next one by the present one."""

    async def renew_expired(
        self, identity: Identity, key_pem: bytes, expired: Certificate, trust: bytes
    ) -> IssuedChain:
        """Get the next one by one that has just ended."""


class CaClient:
    """Asks one CA; every call raises CaUnavailable (try again) or CaRefused (the text has the CA's reason)."""

    def __init__(self, host: str, enrolment_port: int, renewal_port: int, timeout: float = 5.0) -> None:
        """Take a host name or IP that the CA's server certificate names; timeout in seconds, for a whole call."""
        self._host = host
        self._enrolment_port = enrolment_port
        self._renewal_port = renewal_port
        self._timeout = timeout

    async def enrol(self, identity: Identity, key_pem: bytes, token_text: str) -> IssuedChain:
        """Get a first certificate for this key; the token proves us to the CA and the CA to us."""
        try:
            token = JoinToken.from_text(token_text)
        except ValueError as error:
            raise CaRefused(f"join token: {error}") from error
        root = await asyncio.to_thread(
            fetch_root, self._host, self._enrolment_port, token.root_fingerprint, self._timeout
        )
        credentials = grpc.ssl_channel_credentials(root)
        request = ca_pb2.EnrolRequest(csr_pem=new_csr(key_pem), token=token.text(), identity=identity.path)
        async with self._channel(self._enrolment_port, credentials) as channel:
            call = ca_pb2_grpc.EnrolmentStub(channel).Enrol(request, timeout=self._timeout)
            return _checked(identity, key_pem, await call, await call.trailing_metadata())

    async def renew(self, identity: Identity, key_pem: bytes, present: Certificate, trust: bytes) -> IssuedChain:
        """Get the next certificate, for a new key, by the present certificate; `trust` are the roots in PEM."""
        credentials = grpc.ssl_channel_credentials(trust, present.key_pem, present.chain_pem)
        request = ca_pb2.RenewRequest(csr_pem=new_csr(key_pem))
        async with self._channel(self._renewal_port, credentials) as channel:
            call = ca_pb2_grpc.RenewalStub(channel).Renew(request, timeout=self._timeout)
            return _checked(identity, key_pem, await call, await call.trailing_metadata())

    async def renew_expired(
        self, identity: Identity, key_pem: bytes, expired: Certificate, trust: bytes
    ) -> IssuedChain:
        """Get the next certificate, for a new key, by one that has just ended: signed with its key, over a nonce."""
        csr = new_csr(key_pem)
        async with self._channel(self._enrolment_port, grpc.ssl_channel_credentials(trust)) as channel:
            stub = ca_pb2_grpc.EnrolmentStub(channel)
            challenge = await stub.Challenge(ca_pb2.ChallengeRequest(), timeout=self._timeout)
            proof = sign(expired.key_pem, proof_payload(challenge.nonce, csr))
            request = ca_pb2.RenewExpiredRequest(
                chain_pem=expired.chain_pem, csr_pem=csr, nonce=challenge.nonce, signature=proof
            )
            call = stub.RenewExpired(request, timeout=self._timeout)
            return _checked(identity, key_pem, await call, await call.trailing_metadata())

    async def issue_jwt(self, present: Certificate, trust: bytes, audience: tuple[str, ...]) -> IssuedToken:
        """Get a JWT-SVID for the identity of the present certificate; `trust` are the roots in PEM."""
        credentials = grpc.ssl_channel_credentials(trust, present.key_pem, present.chain_pem)
        request = ca_pb2.IssueJwtRequest(audience=audience)
        async with self._channel(self._renewal_port, credentials) as channel:
            call = ca_pb2_grpc.JwtIdentityStub(channel).IssueJwt(request, timeout=self._timeout)
            answer, ca_time = await call, _clock(await call.trailing_metadata())
        if not answer.token or ca_time is None:
            raise CaRefused("hostmesh-ca's answer is of no use: it has no token, or not the CA's time")
        return IssuedToken(answer.token, answer.expires_at - ca_time)

    async def follow_bundle(self, trust: bytes, known: str, seconds: float) -> AsyncIterator[TrustBundle]:
        """Yield the trust bundle unless its version is `known`, and each later one, for that many seconds."""
        credentials, request = grpc.ssl_channel_credentials(trust), ca_pb2.WatchBundleRequest(version=known)
        async with self._channel(self._enrolment_port, credentials) as channel:
            stream = ca_pb2_grpc.BundleStub(channel).Watch(request, timeout=seconds)
            try:
                async for message in stream:
                    yield bundle_of(message)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED or not await _is_ready(channel):
                    raise

    @asynccontextmanager
    async def _channel(self, port: int, credentials: Any) -> AsyncIterator[Any]:
        target = f"[{self._host}]:{port}" if ":" in self._host else f"{self._host}:{port}"
        try:
            async with grpc.aio.secure_channel(target, credentials, options=_OPTIONS) as channel:
                yield channel
        except grpc.aio.AioRpcError as error:
            text = f"hostmesh-ca at {target}: {_one_line(error.details())}"
            raise (CaUnavailable(text) if error.code() in _MAY_HELP else CaRefused(text)) from error


async def _is_ready(channel: Any) -> bool:
    """Tell whether the CA was there: a stream's deadline also passes while nothing can be connected."""
    return bool(channel.get_state() is grpc.ChannelConnectivity.READY)


def _checked(identity: Identity, key_pem: bytes, answer: ca_pb2.IssuedCertificate, metadata: Any) -> IssuedChain:
    try:
        leaf = read_chain(key_pem, answer.chain_pem, identity)
    except ValueError as error:
        raise CaRefused(f"hostmesh-ca's answer is of no use: {error}") from error
    if not answer.trust_bundle_pem:
        raise CaRefused("hostmesh-ca's answer is of no use: it has no trust bundle")
    certificate = Certificate(key_pem, answer.chain_pem)
    return IssuedChain(certificate, leaf, answer.trust_bundle_pem, _clock(metadata))


def _clock(metadata: Any) -> float | None:
    """Return what the CA says of its clock; older ones say nothing."""
    said = next((value for key, value in metadata or () if key == CLOCK), "")
    try:
        return float(said)
    except ValueError:
        return None


def _one_line(text: str | None) -> str:
    return " ".join((text or "no reason given").split())[:500]
