"""Request → the certificate's fields. Everything in a certificate is decided here, from our rules; pure.

May not sign. What a CSR wishes never gets in, but its public key.
"""

from __future__ import annotations

import ipaddress
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from node_ca.identity import WorkloadIdentity
from node_ca.request import CertificateRequest, WorkloadPublicKey

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
ROOT_PATH_LENGTH = 1
"""Room for one intermediate below the root."""
NO_SUBJECT = x509.Name([])


@dataclass(frozen=True)
class Validity:
    """How long certificates hold; seconds."""

    lifetime: float
    skew_margin: float = 300.0
    """How far before now they begin, for hosts whose clock is behind the CA's."""
    shortest: float = 2.0
    longest: float = 90 * 86400.0
    """What may be asked for."""

    def asked(self, lifetime: float, *, may_lengthen: bool) -> Validity:
        """Return this with the lifetime that was asked for, as far as it can be had; 0 asks for nothing."""
        if not lifetime:
            return self
        most = self.longest if may_lengthen else self.lifetime
        return replace(self, lifetime=min(max(lifetime, self.shortest), most))

    def window(self, now: float) -> tuple[datetime, datetime]:
        """Return the first and last moment; the end is rounded up, X.509 knows whole seconds."""
        begin = datetime.fromtimestamp(math.floor(now - self.skew_margin), UTC)
        return begin, datetime.fromtimestamp(math.ceil(now + self.lifetime), UTC)


@dataclass(frozen=True)
class Template:
    """The fields of a certificate to be."""

    public_key: WorkloadPublicKey
    serial: int
    not_before: datetime
    not_after: datetime
    names: tuple[x509.GeneralName, ...]
    subject: x509.Name = NO_SUBJECT
    """Without one the names are critical (RFC 5280, 4.2.1.6)."""
    usages: tuple[ObjectIdentifier, ...] = ()
    is_ca: bool = False
    path_length: int | None = None
    """Of a CA: how many CAs may be below it."""
    key_id: x509.SubjectKeyIdentifier | None = None
    """How others name its key; None: by the key's hash."""


def workload_template(
    request: CertificateRequest, identity: WorkloadIdentity, trust_domain: str, validity: Validity, now: float
) -> Template:
    """Return the fields of a workload's certificate: its SPIFFE ID as the only name, for both sides of TLS."""
    begin, end = validity.window(now)
    return Template(
        public_key=request.public_key,
        serial=random_serial(),
        not_before=begin,
        not_after=end,
        names=(x509.UniformResourceIdentifier(identity.spiffe_id(trust_domain)),),
        usages=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
    )


def server_template(
    key: ec.EllipticCurvePublicKey, dns: tuple[str, ...], ips: tuple[IpAddress, ...], validity: Validity, now: float
) -> Template:
    """Return the fields of the CA's own server certificate: host names only, useless as a client's."""
    begin, end = validity.window(now)
    return Template(
        public_key=key,
        serial=random_serial(),
        not_before=begin,
        not_after=end,
        names=(*(x509.DNSName(name) for name in dns), *(x509.IPAddress(ip) for ip in ips)),
        usages=(ExtendedKeyUsageOID.SERVER_AUTH,),
    )


def root_template(key: WorkloadPublicKey, trust_domain: str, validity: Validity, now: float) -> Template:
    """Return the fields of a self-signed root; its URI is the trust domain's SPIFFE ID (X509-SVID, section 2)."""
    begin, end = validity.window(now)
    serial = random_serial()
    return Template(
        public_key=key,
        serial=serial,
        not_before=begin,
        not_after=end,
        names=(x509.UniformResourceIdentifier(f"spiffe://{trust_domain}"),),
        # Each root has a name of its own: chains and revocation lists are looked up by it first.
        subject=_named(f"hostmesh root {serial >> 96:08x} {trust_domain}"[:64]),
        is_ca=True,
        path_length=ROOT_PATH_LENGTH,
    )


def cross_template(root: x509.Certificate, trust_domain: str, validity: Validity, now: float) -> Template:
    """Return the fields of a certificate by which another root vouches for this one: same name, same key."""
    begin, end = validity.window(now)
    key = root.public_key()
    assert isinstance(key, WorkloadPublicKey), "issuers are of these kinds"
    return Template(
        public_key=key,
        serial=random_serial(),
        not_before=begin,
        not_after=end,
        names=(x509.UniformResourceIdentifier(f"spiffe://{trust_domain}"),),
        subject=root.subject,
        is_ca=True,
        path_length=0,
        key_id=x509.SubjectKeyIdentifier(authority_key_of(root).key_identifier or b""),
    )


def random_serial(random_bits: Callable[[int], int] = secrets.randbits) -> int:
    """Return a positive serial number of 128 random bits."""
    return random_bits(128) or 1


def extensions_of(
    template: Template, issuer_key_id: x509.AuthorityKeyIdentifier
) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """Return every extension the certificate must have, with its critical flag; it may have no other."""
    return (
        (x509.SubjectAlternativeName(template.names), template.subject == NO_SUBJECT),
        (x509.BasicConstraints(ca=template.is_ca, path_length=template.path_length), True),
        (_key_usage(template), True),
        (template.key_id or x509.SubjectKeyIdentifier.from_public_key(template.public_key), False),
        (issuer_key_id, False),
        *(((x509.ExtendedKeyUsage(template.usages), False),) if template.usages else ()),
    )


def authority_key_of(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return how certificates name their issuer's key: as the issuer itself does, where it says."""
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(template: Template) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not template.is_ca,
        key_cert_sign=template.is_ca,
        crl_sign=template.is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
