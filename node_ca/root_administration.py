"""The gRPC face to the operator for roots: takes messages apart, calls the rotation, decides nothing."""

from __future__ import annotations

import grpc
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.audit import audit
from node_ca.issuer_files import IssuerFiles
from node_ca.outcomes import Outcomes
from node_ca.proto import ca_pb2
from node_ca.rotation import KnownIssuer, RootRotation


class RootCalls:
    """The calls of hostmesh.ca.v1.Administration about roots."""

    def __init__(self, rotation: RootRotation, outcomes: Outcomes) -> None:
        self._rotation = rotation
        self._root_outcomes = outcomes

    async def ListRoots(
        self, request: ca_pb2.ListRootsRequest, context: grpc.aio.ServicerContext
    ) -> ca_pb2.ListRootsResponse:
        """List the issuers that are trusted, oldest first."""
        async with self._root_outcomes.of(context, "ListRoots"):
            known = await self._rotation.list()
            version = self._rotation.bundle_version
            return ca_pb2.ListRootsResponse(roots=[_message(issuer) for issuer in known], bundle_version=version)

    async def PrepareRoot(self, request: ca_pb2.PrepareRootRequest, context: grpc.aio.ServicerContext) -> ca_pb2.Root:
        """Trust a new root, or a plugged-in issuer's, which does not sign yet."""
        async with self._root_outcomes.of(context, "PrepareRoot"):
            files = IssuerFiles(request.key_pem, request.certificate_pem, request.chain_pem, request.root_pem)
            known = await self._rotation.prepare(files, request.lifetime_seconds)
            audit("root prepared", issuer=known.issuing.entry.id)
            return _message(known)

    async def ActivateRoot(self, request: ca_pb2.ActivateRootRequest, context: grpc.aio.ServicerContext) -> ca_pb2.Root:
        """Sign by the prepared issuer."""
        async with self._root_outcomes.of(context, "ActivateRoot"):
            known = await self._rotation.activate(request.id, request.acknowledged_version, force=request.force)
            audit("root activated", issuer=known.issuing.entry.id, forced=request.force)
            return _message(known)

    async def RetireRoot(self, request: ca_pb2.RetireRootRequest, context: grpc.aio.ServicerContext) -> ca_pb2.Root:
        """Trust an issuer no more."""
        async with self._root_outcomes.of(context, "RetireRoot"):
            known = await self._rotation.retire(request.id, force=request.force)
            audit("root retired", issuer=known.issuing.entry.id, forced=request.force)
            return _message(known)


def _message(known: KnownIssuer) -> ca_pb2.Root:
    entry, signer = known.issuing.entry, known.issuing.signer
    return ca_pb2.Root(
        id=entry.id,
        state=entry.state,
        subject=signer.certificate.subject.rfc4514_string(),
        not_before=int(signer.certificate.not_valid_before_utc.timestamp()),
        not_after=int(signer.ends.timestamp()),
        since=int(entry.since),
        last_certificate_ends=known.last_certificate_ends,
        certificate_pem=signer.certificate.public_bytes(Encoding.PEM),
        self_signed=len(signer.chain) == 1,
    )
