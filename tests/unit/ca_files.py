"""Plugged-in CAs, good and bad, for the CA's tests: roots, intermediates and the four files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from node_ca.issuer_files import IssuerFiles
from node_ca.signer import CaKey, encoded_key
from tests.unit.ca_requests import p256


@dataclass(frozen=True)
class MadeCa:
    """A CA key with its certificate."""

    key: CaKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """Return the certificate."""
        return self.certificate.public_bytes(Encoding.PEM)


@dataclass(frozen=True)
class Shape:
    """What a CA certificate says of itself."""

    path_length: int | None = None
    is_ca: bool = True
    constrained: bool = True
    signs_certificates: bool = True
    signs_lists: bool = True
    begins: float = -86400.0
    """Seconds from now."""
    ends: float = 86400.0 * 3650
    uri: str = ""
    more: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    """Other extensions, with their critical flags."""


PLAIN = Shape()


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a fresh RSA key."""
    return rsa.generate_private_key(65537, bits)


def make_ca(
    name: str, issuer: MadeCa | None = None, shape: Shape = PLAIN, key: CaKey | None = None, now: float | None = None
) -> MadeCa:
    """Make a CA below the issuer, or a root."""
    key = key or p256()
    moment = datetime.now(UTC) if now is None else datetime.fromtimestamp(now, UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment + timedelta(seconds=shape.begins))
        .not_valid_after(moment + timedelta(seconds=shape.ends))
        .add_extension(x509.SubjectKeyIdentifier(name.encode().ljust(20, b"-")), critical=False)
        .add_extension(_usage(shape), critical=True)
    )
    if shape.constrained:
        constraints = x509.BasicConstraints(shape.is_ca, shape.path_length if shape.is_ca else None)
        builder = builder.add_extension(constraints, critical=True)
    if shape.uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(shape.uri)])
        builder = builder.add_extension(names, critical=False)
    for extension, critical in shape.more:
        builder = builder.add_extension(extension, critical)
    if issuer is not None:
        own = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        key_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        builder = builder.add_extension(key_id, critical=False)
    return MadeCa(key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))


def p384() -> ec.EllipticCurvePrivateKey:
    """Return a fresh key."""
    return ec.generate_private_key(ec.SECP384R1())


def files_of(*chain: MadeCa, passphrase: bytes | None = None) -> IssuerFiles:
    """Return the four files of an issuer whose chain this is, up to the root, as Istio's tools write them."""
    own, root = chain[0], chain[-1]
    between = b"".join(ca.pem for ca in chain[:-1])
    return IssuerFiles(encoded_key(own.key, passphrase), own.pem, between, root.pem)


def write_files(folder: Path, files: IssuerFiles) -> Path:
    """Write them; return the folder."""
    files.write(folder)
    return folder


def key_file(folder: Path, name: str, key: CaKey | None = None) -> str:
    """Write a key (a fresh ECDSA one) into a file, PKCS #8, PEM; return the path."""
    path = folder / name
    path.write_bytes(encoded_key(key or p256(), None))
    path.chmod(0o600)
    return str(path)


def _usage(shape: Shape) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not shape.signs_certificates,
        key_cert_sign=shape.signs_certificates,
        crl_sign=shape.signs_lists,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
