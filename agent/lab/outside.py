"""What makes a lab's outside credible: certificates of an authority that the lab's hosts trust. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
"""What programs, and Envoy for hosts outside of the mesh, trust on Debian."""
AUTHORITY = "authority.crt"
_DAYS = 365


def certificates(names: Iterable[str]) -> dict[str, bytes]:
    """Return the text of each file: NAME.crt and NAME.key of a server of that name, and the authority's certificate."""
    from cryptography import x509  # 0.1 s to import: only where a lab comes up
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hostmesh lab: outside")])
    authority = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)

    def signed(key: ec.EllipticCurvePrivateKey, subject: x509.Name, extension: x509.ExtensionType) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=_DAYS))
            .add_extension(extension, critical=True)
        )
        return builder.sign(authority, SHA256()).public_bytes(Encoding.PEM)

    files = {AUTHORITY: signed(authority, issuer, x509.BasicConstraints(ca=True, path_length=0))}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.SubjectAlternativeName([x509.DNSName(name)])
        files[f"{name}.crt"] = signed(key, x509.Name([]), alternative)
        files[f"{name}.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return files
