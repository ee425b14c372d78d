"""One CA key with its certificate and the way up to its root: signs templates, re-checked, and revocation lists.

May not decide what is signed, nor read or write files.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from node_ca.errors import SigningFault
from node_ca.template import Template, Validity, authority_key_of, cross_template, extensions_of, root_template
from node_ca.verify import check_signed

CaKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_CRL_SET_BACK = 3600.0
"""Seconds: to a host whose clock is behind, a list that is not valid yet would make every peer a stranger."""


class Signer:
    """An issuer."""

    def __init__(self, key: CaKey, chain: tuple[x509.Certificate, ...]) -> None:
        """Take the certificates from the key's own up to the root; one alone is a root."""
        self._key = key
        self.chain = chain
        self.certificate, self.root = chain[0], chain[-1]
        self.id = issuer_id(self.certificate)
        self.ends = min(certificate.not_valid_after_utc for certificate in chain)
        """When the first certificate of the chain ends, and all that it signed with it."""
        self._key_id = authority_key_of(self.certificate)
        self.root_pem = self.root.public_bytes(Encoding.PEM)
        self.intermediates_pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain[:-1])
        """What goes along with each certificate that it signs: itself and what is above it, without the root."""

    def key_pem(self, passphrase: bytes | None) -> bytes:
        """Return the key as it is stored: PKCS #8, PEM, encrypted where there is a passphrase."""
        return encoded_key(self._key, passphrase)

    def sign(self, template: Template) -> x509.Certificate:
        """Return a certificate of these fields that does not outlive the issuer, re-checked; raises SigningFault."""
        if template.not_before >= self.ends:
            raise SigningFault(f"issuer {self.id}: ended at {self.ends:%Y-%m-%dT%H:%M:%SZ}; prepare another root")
        fitting = replace(template, not_after=min(template.not_after, self.ends))
        der = sign_template(fitting, self.certificate.subject, self._key, self._key_id)
        return check_signed(der, fitting, self.certificate)

    def vouch_for(self, other: Signer, trust_domain: str, validity: Validity, now: float) -> bytes:
        """Return what leads from certificates by another root to ours (PEM), or nothing where that can't be.

        Who knows our root only believes the other's certificates with it: whoever missed a change of roots.
        """
        constraints = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        full = constraints.path_length == 0
        # Below an intermediate there would be two ways up, of which TLS libraries try only the first that they see.
        if full or len(other.chain) > 1:
            return b""
        cross = self.sign(cross_template(other.certificate, trust_domain, validity, now))
        return cross.public_bytes(Encoding.PEM) + self.intermediates_pem

    def sign_crl(self, revoked: dict[int, int], number: int, now: float) -> x509.CertificateRevocationList:
        """Return a list of serial numbers with their times of revocation (Unix, seconds).

        It ends with the issuer: Envoy refuses every peer once a list has ended, and the CA may be away for long.
        """
        begin = max(self.certificate.not_valid_before_utc, datetime.fromtimestamp(int(now - _CRL_SET_BACK), UTC))
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(begin)
            .next_update(self.certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(self._key_id, critical=False)
        )
        for serial, moment in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(
                entry.revocation_date(datetime.fromtimestamp(moment, UTC)).build()
            )
        crl = builder.sign(self._key, _digest(self._key))
        if not crl.is_signature_valid(self._key.public_key()):
            raise SigningFault(f"issuer {self.id}: the signature of its revocation list does not hold")
        return crl


def self_signed(key: CaKey, trust_domain: str, validity: Validity, now: float) -> x509.Certificate:
    """Return a root of this key, re-checked; raises SigningFault."""
    template = root_template(key.public_key(), trust_domain, validity, now)
    key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    der = sign_template(template, template.subject, key, key_id)
    return check_signed(der, template, x509.load_der_x509_certificate(der))


def sign_template(template: Template, issuer: x509.Name, key: CaKey, key_id: x509.AuthorityKeyIdentifier) -> bytes:
    """Return the signed certificate, DER; not re-checked."""
    builder = (
        x509.CertificateBuilder()
        .serial_number(template.serial)
        .issuer_name(issuer)
        .subject_name(template.subject)
        .not_valid_before(template.not_before)
        .not_valid_after(template.not_after)
        .public_key(template.public_key)
    )
    for extension, critical in extensions_of(template, key_id):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, _digest(key)).public_bytes(Encoding.DER)


def encoded_key(key: CaKey, passphrase: bytes | None) -> bytes:
    """Return a key as it is stored: PKCS #8, PEM, encrypted where there is a passphrase."""
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def issuer_id(certificate: x509.Certificate) -> str:
    """Return an issuer's name in records and lists: the first 16 hexadecimal digits of its SHA-256."""
    return certificate.fingerprint(hashes.SHA256()).hex()[:16]


def _digest(key: CaKey) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()
