"""May this caller have this identity? Pure: records and certificates in, an identity or a Refusal out.

May not sign, read or write anything.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography import x509

from node_ca.errors import Refusal
from node_ca.identity import WorkloadIdentity
from node_ca.proto.token import JoinToken


@dataclass(frozen=True)
class TokenRecord:
    """A join token as the inventory keeps it."""

    id: str
    secret_hash: bytes
    identity: WorkloadIdentity
    created_at: int
    """Unix time, seconds."""
    expires_at: int
    uses: int
    """How many keys may be enrolled with it."""
    used: int = 0
    """How many were."""
    revoked_at: int = 0
    """Unix time; 0 if it was not revoked."""


def entitled_by_token(token: JoinToken, record: TokenRecord | None, now: float) -> WorkloadIdentity:
    """Return the identity this token is for; raises Refusal (UNAUTHENTICATED).

    An unknown token and a wrong secret look alike to the caller, and take like time.
    """
    known = record.secret_hash if record else bytes(32)
    if not hmac.compare_digest(token.secret_hash, known) or record is None:
        raise Refusal.unauthenticated("join token: not known to this CA")
    check_lives(record, now)
    return record.identity


def check_lives(record: TokenRecord, now: float) -> None:
    """Refuse (UNAUTHENTICATED) a token that was revoked or has expired."""
    ended = "revoked" if record.revoked_at else "expired" if now >= record.expires_at else ""
    if ended:
        raise Refusal.unauthenticated(
            f"join token {record.id}: {ended}; make a new one with `hostmesh ca token create`"
        )


def check_use(record: TokenRecord, *, known: bool) -> None:
    """Refuse (UNAUTHENTICATED) a further key when all uses are spent.

    A known key, enrolled with this token already, may come again while the token lives: its answer was lost on the
    way. It needs the private key to ask, and gains nothing that renewal would not give it.
    """
    if not known and record.used >= record.uses:
        raise Refusal.unauthenticated(
            f"join token {record.id}: used up; make a new one with `hostmesh ca token create`"
        )


def entitled_by_certificate(certificate: x509.Certificate, trust_domain: str) -> WorkloadIdentity:
    """Return the identity a peer certificate proves; raises Refusal (PERMISSION_DENIED).

    TLS has verified its chain and dates; here it must be a workload's: exactly one URI name and no other (X509-SVID 2).
    """
    try:
        names = list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError) as error:
        raise Refusal.denied("client certificate: names no workload") from error
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise Refusal.denied("client certificate: is not a workload's (it must have one SPIFFE ID and no other name)")
    try:
        return WorkloadIdentity.from_spiffe_id(names[0].value, trust_domain)
    except ValueError as error:
        raise Refusal.denied(f"client certificate: {error}") from error


def named_identity(text: str) -> WorkloadIdentity:
    """Return the identity of that name; raises Refusal (INVALID_ARGUMENT)."""
    try:
        return WorkloadIdentity.from_path(text)
    except ValueError as error:
        raise Refusal.invalid(f"identity: {error}") from error


def check_wanted(entitled: WorkloadIdentity, trust_domain: str, wanted: str, uris: tuple[str, ...]) -> None:
    """Refuse (PERMISSION_DENIED) a caller who asks for another identity than its own, in words or in the CSR's URIs."""
    if wanted and wanted != str(entitled):
        raise Refusal.denied(f"asked for {wanted[:120]!r} but may only have {entitled}")
    for uri in uris:
        if uri != entitled.spiffe_id(trust_domain):
            raise Refusal.denied(f"the CSR asks for {uri[:120]!r} but the caller may only have {entitled}")
