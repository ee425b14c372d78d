"""Issuing: entitlement → template → sign → re-check → record → answer. The one path every certificate takes.

Knows nothing of gRPC. A certificate leaves here only when its record is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.authority import Authority
from node_ca.constraints import refusal
from node_ca.errors import Refusal
from node_ca.identity import WorkloadIdentity
from node_ca.late_renewal import Nonces, check_lateness, check_proof, read_expired
from node_ca.policy import check_use, check_wanted, entitled_by_certificate, entitled_by_token, named_identity
from node_ca.proto.token import JoinToken
from node_ca.records import Claim, Inventory, IssueRecord, LateSuccession, Search, Succession, TokenUse
from node_ca.request import CertificateRequest
from node_ca.template import IpAddress, Template, Validity, server_template, workload_template


@dataclass(frozen=True)
class Issued:
    """An answer: the certificate with its record."""

    record: IssueRecord
    chain_pem: bytes
    trust_bundle_pem: bytes


@dataclass(frozen=True)
class Vouched:
    """A caller that somebody else than this CA has identified."""

    identity: WorkloadIdentity
    by: str
    """For the record: who vouched, and for what."""


class Entry(Protocol):
    """Another way in than a join token: somebody who knows what a secret stands for."""

    async def vouch(self, secret: str, wanted: WorkloadIdentity) -> Vouched:
        """Return who the bearer is; raises Refusal, or EntryFault if that can't be found out now."""

    async def close(self) -> None:
        """Let go of the other system."""


class Issuer:
    """Issues certificates of one trust domain."""

    def __init__(
        self,
        authority: Authority,
        inventory: Inventory,
        trust_domain: str,
        validity: Validity,
        now: Callable[[], float] = time.time,
        *,
        grace: float = 0.0,
        entry: Entry | None = None,
    ) -> None:
        """Take `grace` in seconds: how long after its end a certificate may renew, once."""
        self._authority = authority
        self._inventory = inventory
        self._trust_domain = trust_domain
        self._validity = validity
        self._now = now
        self._grace = grace
        self._entry = entry
        self._nonces = Nonces(now)

    async def enrol(self, csr_pem: bytes, token_text: str, wanted: str = "", lifetime: float = 0) -> Issued:
        """Issue for a join token; raises Refusal or InventoryError, and then the token is as it was before.

        A lifetime (seconds) can only shorten the default one.
        """
        try:
            token = JoinToken.from_text(token_text)
        except ValueError as error:
            raise Refusal.unauthenticated(f"join token: {error}") from error
        record = await self._inventory.token(token.id)
        identity = entitled_by_token(token, record, self._now())
        check_wanted(identity, self._trust_domain, wanted, ())
        request = CertificateRequest.from_pem(csr_pem)
        claim = TokenUse(token.id, request.key_hash)
        if record is not None and record.used >= record.uses:  # refuse before signing; record_issue decides for good
            check_use(record, known=await self._inventory.knows_key(claim))
        return await self._issue(request, identity, f"token:{token.id}", claim, lifetime)

    async def enrol_vouched(self, csr_pem: bytes, secret: str, wanted: str) -> Issued:
        """Issue for a secret that another system knows; raises Refusal, InventoryError or EntryFault."""
        if self._entry is None:
            raise Refusal.unauthenticated("Consul token: this CA takes none (ca.yaml: consulEntry); use a join token")
        identity = named_identity(wanted)
        request = CertificateRequest.from_pem(csr_pem)
        vouched = await self._entry.vouch(secret, identity)
        return await self._issue(request, vouched.identity, vouched.by, None)

    async def renew(self, csr_pem: bytes, peer: x509.Certificate) -> Issued:
        """Issue for the certificate that TLS has verified; raises Refusal or InventoryError."""
        identity = entitled_by_certificate(peer, self._trust_domain)
        request = CertificateRequest.from_pem(csr_pem)
        serial = serial_text(peer)
        return await self._issue(request, identity, f"certificate:{serial}", Succession(serial, _end(peer)))

    def challenge(self) -> bytes:
        """Return a nonce for `renew_expired`."""
        return self._nonces.new()

    async def renew_expired(self, csr_pem: bytes, chain_pem: bytes, nonce: bytes, signature: bytes) -> Issued:
        """Issue for a certificate that ended not long ago and whose key signed our nonce; raises Refusal or others."""
        self._nonces.check(nonce)
        peer = read_expired(chain_pem)
        check_proof(peer, nonce, csr_pem, signature)
        self._nonces.use(nonce)
        serial = serial_text(peer)
        await self._check_ours(peer, serial)
        check_lateness(peer, self._now(), self._grace)
        identity = entitled_by_certificate(peer, self._trust_domain)
        request = CertificateRequest.from_pem(csr_pem)
        return await self._issue(
            request, identity, f"expired:{serial}", LateSuccession(serial, _end(peer), request.key_hash)
        )

    async def issue_directly(self, csr_pem: bytes, identity: str, lifetime: float) -> Issued:
        """Issue for the operator, who is entitled to everything; lifetime in seconds, 0 for the default."""
        shortest, longest = self._validity.shortest, self._validity.longest
        if lifetime and not shortest <= lifetime <= longest:
            raise Refusal.invalid(f"lifetime: {lifetime:.0f} s, {shortest:.0f} s to {longest:.0f} s are allowed")
        request = CertificateRequest.from_pem(csr_pem)
        return await self._issue(request, named_identity(identity), "admin", None, lifetime, may_lengthen=True)

    async def issue_server(
        self, key: ec.EllipticCurvePublicKey, dns: tuple[str, ...], ips: tuple[IpAddress, ...], lifetime: float
    ) -> tuple[Issued, float]:
        """Issue the CA's own server certificate (lifetime in seconds); return it with the time it was made.

        Names that the chain's constraints rule out (the loopback ones: others were refused at the start) are left out.
        """
        now, signer = self._now(), self._authority.active
        dns = tuple(name for name in dns if refusal(signer, x509.DNSName(name)) is None)
        ips = tuple(ip for ip in ips if refusal(signer, x509.IPAddress(ip)) is None)
        validity = Validity(lifetime, self._validity.skew_margin)
        template = server_template(key, dns, ips, validity, now)
        issued = await self._sign_and_record(template, "server", "ca", now, None)
        return replace(issued, chain_pem=issued.chain_pem + self._authority.crosses_pem(validity, now)), now

    async def _check_ours(self, certificate: x509.Certificate, serial: str) -> None:
        """Refuse a certificate that is not, byte by byte, in our records: by them we know that we signed it."""
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        async for record in self._inventory.search(Search(serial=serial)):
            if record.fingerprint == fingerprint:
                return
        raise Refusal.denied("certificate: not in this CA's records; enrol anew with a join token")

    async def _issue(
        self,
        request: CertificateRequest,
        identity: WorkloadIdentity,
        by: str,
        claim: Claim | None,
        lifetime: float = 0,
        *,
        may_lengthen: bool = False,
    ) -> Issued:
        check_wanted(identity, self._trust_domain, "", request.uris)
        now, validity = self._now(), self._validity.asked(lifetime, may_lengthen=may_lengthen)
        template = workload_template(request, identity, self._trust_domain, validity, now)
        return await self._sign_and_record(template, str(identity), by, now, claim)

    async def _sign_and_record(self, template: Template, name: str, by: str, now: float, claim: Claim | None) -> Issued:
        signer = self._authority.active
        certificate = signer.sign(template)
        record = IssueRecord(
            serial=serial_text(certificate),
            name=name,
            not_before=int(certificate.not_valid_before_utc.timestamp()),
            not_after=int(certificate.not_valid_after_utc.timestamp()),
            issued_at=now,
            issued_by=by,
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            issuer=signer.id,
        )
        await self._inventory.record_issue(record, claim)
        chain = certificate.public_bytes(Encoding.PEM) + signer.intermediates_pem
        return Issued(record, chain, self._authority.trust_bundle_pem)


def serial_text(certificate: x509.Certificate) -> str:
    """Return a serial number as it is written everywhere: 32 hexadecimal digits."""
    return f"{certificate.serial_number:032x}"


def _end(certificate: x509.Certificate) -> int:
    return int(certificate.not_valid_after_utc.timestamp())
