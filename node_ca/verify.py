"""Re-check a signed certificate against its template, from the bytes that will be sent. Pure.

Signing code that goes wrong (a library's fault, a bad key, a bit flip) must not become a certificate in the world.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from node_ca.errors import SigningFault
from node_ca.template import Template, authority_key_of, extensions_of


def check_signed(der: bytes, template: Template, issuer: x509.Certificate) -> x509.Certificate:
    """Return the parsed certificate if it is exactly what the template says, signed by issuer; raises SigningFault."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        faults = _faults(certificate, template, issuer)
    except ValueError as error:
        raise SigningFault("signed certificate: not readable") from error
    if faults:
        raise SigningFault(f"signed certificate: differs from its template in {', '.join(faults)}")
    return certificate


def _faults(certificate: x509.Certificate, template: Template, issuer: x509.Certificate) -> list[str]:
    checks = {
        "serial": certificate.serial_number == template.serial,
        "subject": certificate.subject == template.subject,
        "begin": certificate.not_valid_before_utc == template.not_before,
        "end": certificate.not_valid_after_utc == template.not_after,
        "key": _spki(certificate.public_key()) == _spki(template.public_key),
        "extensions": _extensions_match(certificate, template, issuer),
        "signature": _signed_by(certificate, issuer),
    }
    return [name for name, holds in checks.items() if not holds]


def _extensions_match(certificate: x509.Certificate, template: Template, issuer: x509.Certificate) -> bool:
    expected = extensions_of(template, authority_key_of(issuer))
    wanted = {(extension.oid, critical, extension) for extension, critical in expected}
    present = [(extension.oid, extension.critical, extension.value) for extension in certificate.extensions]
    return len(present) == len(wanted) and set(present) == wanted


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _spki(key: CertificatePublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
