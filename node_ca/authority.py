"""The only holder of the CA's key: makes the root on first start, loads it later, signs templates, re-checks them.

May not decide who gets what.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.errors import ConfigError
from node_ca.template import Template, Validity, extensions_of, root_template, subject_of
from node_ca.verify import check_signed

KEY_FILE = "ca-key.pem"
CERTIFICATE_FILE = "ca-cert.pem"
ROOT_LIFETIME = 3650 * 86400.0
"""Seconds."""


class Authority:
    """A CA key with its certificate."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self.certificate = certificate
        self.root_pem = certificate.public_bytes(Encoding.PEM)

    @property
    def root_fingerprint(self) -> bytes:
        """Return the SHA-256 of the root certificate (DER), as tokens carry it."""
        return self.certificate.fingerprint(hashes.SHA256())

    @property
    def trust_bundle_pem(self) -> bytes:
        """Return all roots to trust now."""
        return self.root_pem

    @classmethod
    def open(cls, directory: Path, trust_domain: str, now: float) -> Authority:
        """Load the root from the directory, or make one there if it is empty; raises ConfigError with every fault."""
        key_path, certificate_path = directory / KEY_FILE, directory / CERTIFICATE_FILE
        if certificate_path.exists() and not key_path.exists():
            raise ConfigError([f"{key_path}: missing beside {CERTIFICATE_FILE}: restore the CA key from its backup"])
        key = _load_key(key_path) if key_path.exists() else _make_key(key_path)
        if not certificate_path.exists():  # first start, or the last one died between the two files
            _write_private(certificate_path, _self_signed(key, trust_domain, now).public_bytes(Encoding.PEM))
        authority = cls(key, _load_certificate(certificate_path))
        authority._check(certificate_path, trust_domain, now)
        return authority

    def sign(self, template: Template) -> x509.Certificate:
        """Return a certificate of these fields, re-checked against them; raises SigningFault."""
        der = _sign(template, self.certificate.subject, self._key)
        return check_signed(der, template, self.certificate)

    def _check(self, path: Path, trust_domain: str, now: float) -> None:
        certificate = self.certificate
        problems = []
        if certificate.public_key() != self._key.public_key():
            problems.append(f"{path}: is not the certificate of {KEY_FILE} beside it")
        if not certificate.not_valid_before_utc.timestamp() <= now < certificate.not_valid_after_utc.timestamp():
            problems.append(f"{path}: is not valid now (until {certificate.not_valid_after_utc:%Y-%m-%d})")
        wanted = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
        names = _extension_values(certificate)
        if wanted not in names:
            problems.append(f"{path}: is not the root of trust domain {trust_domain}: it names {names}")
        if problems:
            raise ConfigError(problems)


def _self_signed(key: ec.EllipticCurvePrivateKey, trust_domain: str, now: float) -> x509.Certificate:
    template = root_template(key.public_key(), trust_domain, Validity(ROOT_LIFETIME, skew_margin=3600), now)
    certificate = x509.load_der_x509_certificate(_sign(template, subject_of(template), key))
    return check_signed(certificate.public_bytes(Encoding.DER), template, certificate)


def _sign(template: Template, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .serial_number(template.serial)
        .issuer_name(issuer)
        .subject_name(subject_of(template))
        .not_valid_before(template.not_before)
        .not_valid_after(template.not_after)
        .public_key(template.public_key)
    )
    for extension, critical in extensions_of(template, key.public_key()):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_private(path, pem)
    return key


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError([f"{path}: cannot be read as an unencrypted PEM private key"]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError([f"{path}: is not an ECDSA key"])
    return key


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: cannot be read as a PEM certificate"]) from error


def _extension_values(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _write_private(path: Path, data: bytes) -> None:
    """Write durably with mode 0600, all or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}"]) from error
