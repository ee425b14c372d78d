"""Issuing: entitlement → template → sign → re-check → record → answer. The one path every certificate takes.

Knows nothing of gRPC. A certificate leaves here only when its record is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.authority import Authority
from node_ca.errors import Refusal
from node_ca.identity import WorkloadIdentity
from node_ca.inventory import Inventory, IssueRecord, Redemption
from node_ca.policy import TokenRecord, check_use, check_wanted, entitled_by_certificate, entitled_by_token
from node_ca.proto.token import JoinToken
from node_ca.request import CertificateRequest
from node_ca.template import IpAddress, Template, Validity, server_template, workload_template

DEFAULT_TOKEN_TTL = 3600
"""Seconds."""
MAX_TOKEN_TTL = 30 * 86400
MAX_TOKEN_USES = 100_000


@dataclass(frozen=True)
class Issued:
    """An answer: the certificate with its record."""

    record: IssueRecord
    chain_pem: bytes
    trust_bundle_pem: bytes


class Issuer:
    """Issues certificates and join tokens of one trust domain."""

    def __init__(
        self,
        authority: Authority,
        inventory: Inventory,
        trust_domain: str,
        validity: Validity,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._authority = authority
        self._inventory = inventory
        self._trust_domain = trust_domain
        self._validity = validity
        self._now = now

    async def enrol(self, csr_pem: bytes, token_text: str, wanted: str = "") -> Issued:
        """Issue for a join token; raises Refusal or InventoryError, and then the token is as it was before."""
        try:
            token = JoinToken.from_text(token_text)
        except ValueError as error:
            raise Refusal.unauthenticated(f"join token: {error}") from error
        record = await self._inventory.token(token.id)
        identity = entitled_by_token(token, record, self._now())
        check_wanted(identity, self._trust_domain, wanted, ())
        request = CertificateRequest.from_pem(csr_pem)
        if record is not None:  # refuse before signing; record_issue decides for good
            check_use(record, request.key_hash)
        return await self._issue(request, identity, f"token:{token.id}", Redemption(token.id, request.key_hash))

    async def renew(self, csr_pem: bytes, peer: x509.Certificate) -> Issued:
        """Issue for the certificate that TLS has verified; raises Refusal or InventoryError."""
        identity = entitled_by_certificate(peer, self._trust_domain)
        request = CertificateRequest.from_pem(csr_pem)
        return await self._issue(request, identity, f"certificate:{serial_text(peer)}", None)

    async def create_token(self, identity: str, ttl: int, uses: int) -> tuple[JoinToken, TokenRecord]:
        """Make and record a join token; ttl in seconds, 0 for an hour; uses 0 for one. Raises Refusal."""
        ttl, uses = ttl or DEFAULT_TOKEN_TTL, uses or 1
        if not 0 < ttl <= MAX_TOKEN_TTL:
            raise Refusal.invalid(f"ttl: {ttl} s is not allowed, 1 s to {MAX_TOKEN_TTL} s (30 days) are")
        if not 0 < uses <= MAX_TOKEN_USES:
            raise Refusal.invalid(f"uses: {uses} is not allowed, 1 to {MAX_TOKEN_USES} are")
        try:
            parsed = WorkloadIdentity.from_path(identity)
        except ValueError as error:
            raise Refusal.invalid(f"identity: {error}") from error
        token, created = JoinToken.new(self._authority.root_fingerprint), int(self._now())
        record = TokenRecord(token.id, token.secret_hash, parsed, created, created + ttl, uses)
        await self._inventory.add_token(record)
        return token, record

    async def tokens(self) -> list[TokenRecord]:
        """Return all tokens."""
        return await self._inventory.tokens()

    async def issue_server(
        self, key: ec.EllipticCurvePublicKey, dns: tuple[str, ...], ips: tuple[IpAddress, ...], lifetime: float
    ) -> tuple[Issued, float]:
        """Issue the CA's own server certificate (lifetime in seconds); return it with the time it was made."""
        now = self._now()
        validity = Validity(lifetime, self._validity.skew_margin)
        template = server_template(key, dns, ips, validity, now)
        return await self._sign_and_record(template, "server", "ca", now, None), now

    async def _issue(
        self, request: CertificateRequest, identity: WorkloadIdentity, by: str, redemption: Redemption | None
    ) -> Issued:
        check_wanted(identity, self._trust_domain, "", request.uris)
        now = self._now()
        template = workload_template(request, identity, self._trust_domain, self._validity, now)
        return await self._sign_and_record(template, str(identity), by, now, redemption)

    async def _sign_and_record(
        self, template: Template, name: str, by: str, now: float, redemption: Redemption | None
    ) -> Issued:
        certificate = self._authority.sign(template)
        record = IssueRecord(
            serial=serial_text(certificate),
            name=name,
            not_before=int(template.not_before.timestamp()),
            not_after=int(template.not_after.timestamp()),
            issued_at=now,
            issued_by=by,
        )
        await self._inventory.record_issue(record, redemption)
        return Issued(record, certificate.public_bytes(Encoding.PEM), self._authority.trust_bundle_pem)


def serial_text(certificate: x509.Certificate) -> str:
    """Return a serial number as it is written everywhere: 32 hexadecimal digits."""
    return f"{certificate.serial_number:032x}"
