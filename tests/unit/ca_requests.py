"""Keys and signing requests, good and hostile, for the CA's tests."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

SPIFFE_ID = "spiffe://cluster.local/ns/default/sa/reviews"
SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def p256() -> ec.EllipticCurvePrivateKey:
    """Return a fresh key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr(key: SigningKey | None = None, *, uris: tuple[str, ...] = ()) -> bytes:
    """Return a plain request."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return pem(builder, key)


def greedy_csr(key: SigningKey | None = None) -> bytes:
    """Return a request that asks for everything it must not get."""
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "admin"), x509.NameAttribute(NameOID.COUNTRY_NAME, "XX")]
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName("bank.example"), x509.DNSName("*"), x509.RFC822Name("root@example.com")]
    )
    usage = x509.KeyUsage(True, True, True, True, True, True, True, False, False)
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .add_extension(names, critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.9")]), critical=False)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True)
    )
    return pem(builder, key)


def pem(builder: x509.CertificateSigningRequestBuilder, key: SigningKey | None) -> bytes:
    """Sign and print a request."""
    key = key or p256()
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def forged_csr() -> bytes:
    """Return a well-formed request whose public key was swapped for a stranger's after signing."""
    mine, strangers = (x509.load_pem_x509_csr(csr()) for _ in range(2))
    der, wanted = mine.public_bytes(Encoding.DER), strangers.public_key()
    own = mine.public_key()
    assert isinstance(own, ec.EllipticCurvePublicKey)
    assert isinstance(wanted, ec.EllipticCurvePublicKey)
    return armour(der.replace(_point(own), _point(wanted)))


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def armour(der: bytes) -> bytes:
    """Return DER as a PEM request."""
    body = base64.encodebytes(der).decode().replace("\n", "")
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""]).encode()
