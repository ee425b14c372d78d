"""The operator's client of hostmesh-ca: its administration socket, for the CLI.

Synchronous. Foreign errors end here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from msgspec import Struct

from agent.errors import CaRefused, CaUnavailable, HostError, UserError
from node_ca.proto import ca_pb2, ca_pb2_grpc

_TIMEOUT_SECONDS = 10.0


class TokenInfo(Struct, frozen=True, rename="camel"):
    """A join token as the CA knows it, without its secret."""

    id: str
    identity: str
    created_at: int
    """Unix time, seconds."""
    expires_at: int
    uses: int
    used: int
    revoked_at: int = 0
    """Unix time; 0 if it was not revoked."""

    def state(self, now: float) -> str:
        """Return one word for a table: valid, revoked, used or expired."""
        if self.revoked_at:
            return "revoked"
        if now >= self.expires_at:
            return "expired"
        return "used" if self.used >= self.uses else "valid"


class CertificateInfo(Struct, frozen=True, rename="camel"):
    """An issued certificate as the CA's records have it."""

    serial: str
    """Hexadecimal, 32 digits."""
    identity: str
    not_before: int
    """Unix time, seconds."""
    not_after: int
    issued_at: int
    issued_by: str
    fingerprint: str
    """SHA-256 of the certificate (DER), hexadecimal."""
    revoked_at: int
    """Unix time; 0 if it was not revoked."""
    revoked_for: str

    def state(self, now: float) -> str:
        """Return one word for a table: valid, revoked or expired."""
        if self.revoked_at:
            return "revoked"
        return "expired" if now >= self.not_after else "valid"


class IssuedFiles(Struct, frozen=True):
    """An issued certificate; PEM."""

    chain: bytes
    roots: bytes


class RootInfo(Struct, frozen=True, rename="camel"):
    """An issuer that is trusted: a root, or a plugged-in CA below one."""

    id: str
    state: str
    """prepared, active or retiring"""
    subject: str
    self_signed: bool
    not_before: int
    """Unix time, seconds."""
    not_after: int
    since: int
    """Since when it is in this state."""
    last_certificate_ends: int
    """When the last certificate that it signed ends; 0 for none."""


class CaAdministration:
    """A CA's administration socket; calls raise CaUnavailable, HostError (no permission) or UserError (bad input)."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def create_token(self, identity: str, ttl_seconds: int, uses: int) -> tuple[str, TokenInfo]:
        """Make a join token; return it (this once) with its record."""
        request = ca_pb2.CreateTokenRequest(identity=identity, ttl_seconds=ttl_seconds, uses=uses)
        answer = self._call(lambda stub: stub.CreateToken(request, timeout=_TIMEOUT_SECONDS))
        return answer.token, _info(answer.record)

    def list_tokens(self) -> list[TokenInfo]:
        """Return all join tokens, oldest first."""
        answer = self._call(lambda stub: stub.ListTokens(ca_pb2.ListTokensRequest(), timeout=_TIMEOUT_SECONDS))
        return [_info(token) for token in answer.tokens]

    def revoke_token(self, token_id: str) -> TokenInfo:
        """Make a join token unusable."""
        request = ca_pb2.RevokeTokenRequest(id=token_id)
        return _info(self._call(lambda stub: stub.RevokeToken(request, timeout=_TIMEOUT_SECONDS)))

    def issue(self, identity: str, csr_pem: bytes, lifetime_seconds: int) -> IssuedFiles:
        """Issue a certificate; 0 seconds for the CA's default lifetime."""
        request = ca_pb2.IssueCertificateRequest(identity=identity, csr_pem=csr_pem, lifetime_seconds=lifetime_seconds)
        answer = self._call(lambda stub: stub.IssueCertificate(request, timeout=_TIMEOUT_SECONDS))
        return IssuedFiles(answer.chain_pem, answer.trust_bundle_pem)

    def certificates(
        self, identity: str = "", serial: str = "", *, expired: bool = False, revoked_only: bool = False
    ) -> list[CertificateInfo]:
        """Return issued certificates, latest first; of one identity, of one serial number, or all."""
        request = ca_pb2.ListCertificatesRequest(
            identity=identity, serial=serial, expired=expired, revoked_only=revoked_only
        )
        answers = self._call(lambda stub: [_certificate(answer) for answer in stub.ListCertificates(request)])
        return sorted(answers, key=lambda info: (-info.issued_at, info.serial))

    def revoke(self, serial: str, identity: str, reason: str) -> tuple[list[CertificateInfo], list[TokenInfo]]:
        """Revoke a certificate, or an identity's all and its join tokens; return what was revoked by this call."""
        request = ca_pb2.RevokeCertificatesRequest(serial=serial, identity=identity, reason=reason)
        answer = self._call(lambda stub: stub.RevokeCertificates(request, timeout=_TIMEOUT_SECONDS))
        return [_certificate(each) for each in answer.certificates], [_info(token) for token in answer.tokens]

    def roots(self) -> tuple[list[RootInfo], str]:
        """Return the issuers, oldest first, and the version of the trust bundle with them."""
        answer = self._call(lambda stub: stub.ListRoots(ca_pb2.ListRootsRequest(), timeout=_TIMEOUT_SECONDS))
        return [_root(root) for root in answer.roots], answer.bundle_version

    def prepare_root(self, files: Mapping[str, bytes], lifetime_seconds: int) -> RootInfo:
        """Trust an issuer from its files (key_pem, certificate_pem, chain_pem, root_pem), or a new root if none."""
        request = ca_pb2.PrepareRootRequest(lifetime_seconds=lifetime_seconds, **files)
        return _root(self._call(lambda stub: stub.PrepareRoot(request, timeout=_TIMEOUT_SECONDS)))

    def activate_root(self, root_id: str, acknowledged_version: str, *, force: bool) -> RootInfo:
        """Let the prepared issuer sign; with the bundle version that all hosts have acknowledged, if they have."""
        request = ca_pb2.ActivateRootRequest(id=root_id, force=force, acknowledged_version=acknowledged_version)
        return _root(self._call(lambda stub: stub.ActivateRoot(request, timeout=_TIMEOUT_SECONDS)))

    def retire_root(self, root_id: str, *, force: bool) -> RootInfo:
        """Trust an issuer no more; return what it was."""
        request = ca_pb2.RetireRootRequest(id=root_id, force=force)
        return _root(self._call(lambda stub: stub.RetireRoot(request, timeout=_TIMEOUT_SECONDS)))

    def jwks(self) -> bytes:
        """Return the public keys of JWT-SVIDs (RFC 7517, JSON); empty if the CA issues none."""
        request = ca_pb2.GetBundleRequest()
        return bytes(self._call(lambda stub: stub.Get(request, timeout=_TIMEOUT_SECONDS), ca_pb2_grpc.BundleStub).jwks)

    def _call(self, call: Callable[[Any], Any], service: Any = ca_pb2_grpc.AdministrationStub) -> Any:
        self._check_socket()
        with self._stub(service) as stub:
            try:
                return call(stub)
            except grpc.RpcError as error:
                status, reason = error.code(), " ".join(str(error.details()).split())
                if status in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
                    raise UserError(reason) from error
                if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise CaUnavailable(
                        f"{self._path}: hostmesh-ca does not answer: {reason} (`systemctl status hostmesh-ca`)"
                    ) from error
                raise CaRefused(f"hostmesh-ca: {reason}") from error

    @contextmanager
    def _stub(self, service: Any) -> Iterator[Any]:
        with grpc.insecure_channel(f"unix:{self._path}") as channel:
            yield service(channel)

    def _check_socket(self) -> None:
        try:
            mode = os.stat(self._path).st_mode
        except FileNotFoundError as error:
            raise CaUnavailable(
                f"{self._path}: no such socket: run this on the machine where hostmesh-ca runs "
                "(`systemctl start hostmesh-ca`), or name its adminSocket with --socket"
            ) from error
        except OSError as error:
            raise HostError(f"{self._path}: {error.strerror}: run this as root or as hostmesh-ca's user") from error
        if not stat.S_ISSOCK(mode):
            raise UserError(f"{self._path}: is not a socket; --socket takes hostmesh-ca's adminSocket")
        if not os.access(self._path, os.W_OK):
            raise HostError(f"{self._path}: permission denied: run this as root or as hostmesh-ca's user")


def _info(token: ca_pb2.Token) -> TokenInfo:
    return TokenInfo(
        id=token.id,
        identity=token.identity,
        created_at=token.created_at,
        expires_at=token.expires_at,
        uses=token.uses,
        used=token.used,
        revoked_at=token.revoked_at,
    )


def _certificate(message: ca_pb2.Certificate) -> CertificateInfo:
    return CertificateInfo(
        serial=message.serial,
        identity=message.identity,
        not_before=message.not_before,
        not_after=message.not_after,
        issued_at=message.issued_at,
        issued_by=message.issued_by,
        fingerprint=message.fingerprint,
        revoked_at=message.revoked_at,
        revoked_for=message.revoked_for,
    )


def _root(message: ca_pb2.Root) -> RootInfo:
    return RootInfo(
        id=message.id,
        state=message.state,
        subject=message.subject,
        self_signed=message.self_signed,
        not_before=message.not_before,
        not_after=message.not_after,
        since=message.since,
        last_certificate_ends=message.last_certificate_ends,
    )
