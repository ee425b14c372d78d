"""Certificates for tests: a root, and leaf certificates with a SPIFFE ID, as `--certs DIR` wants them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class TestAuthority:
    """A self-signed root with its key in memory."""

    __test__ = False

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "test")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self._name, self._name, self._key).add_extension(constraints, critical=True)
        self.root = builder.sign(self._key, SHA256())

    def write(self, folder: Path, spiffe_id: str) -> Path:
        """Write key.pem, cert-chain.pem and root-cert.pem for an identity; returns the folder."""
        return self._write(folder, x509.UniformResourceIdentifier(spiffe_id))

    def write_for_host(self, folder: Path, host: str) -> Path:
        """Write the same for a server outside the mesh, known by its host name."""
        return self._write(folder, x509.DNSName(host))

    def write_for_address(self, folder: Path, address: str) -> Path:
        """Write the same for a server that is known by its address."""
        return self._write(folder, x509.IPAddress(ip_address(address)))

    def write_secret(self, folder: Path, host: str) -> Path:
        """Write what a gateway's folder of a `credentialName` holds: tls.key, tls.crt, ca.crt (of this authority)."""
        self.write_for_host(folder, host)
        for old, new in (("key.pem", "tls.key"), ("cert-chain.pem", "tls.crt"), ("root-cert.pem", "ca.crt")):
            (folder / old).rename(folder / new)
        return folder

    def revoke(self, certificate: x509.Certificate, lasting: timedelta = timedelta(hours=1)) -> bytes:
        """Return the list (PEM) that has this certificate as revoked."""
        now = datetime.now(UTC)
        since = now - timedelta(minutes=1)
        entry = x509.RevokedCertificateBuilder(certificate.serial_number, since).build()
        builder = x509.CertificateRevocationListBuilder(self._name, since, now + lasting)
        return builder.add_revoked_certificate(entry).sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def _write(self, folder: Path, name: x509.GeneralName) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([name])
        leaf = _builder(x509.Name([]), self._name, key).add_extension(san, critical=True).sign(self._key, SHA256())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (folder / "cert-chain.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
        (folder / "root-cert.pem").write_bytes(self.root.public_bytes(Encoding.PEM))
        return folder


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
    )
