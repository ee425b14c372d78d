"""`--certs DIR`: key.pem, cert-chain.pem and root-cert.pem, checked to be what they say. Reads only; keeps no key."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from agent.errors import UserError
from agent.mesh.service import Identity
from agent.translate.static import CertificateFiles


class CertificateFolder(Struct, frozen=True):
    """A folder's files and whom its certificate is for."""

    files: CertificateFiles
    spiffe_id: str
    """The certificate's URI SAN; empty if it has none."""

    @property
    def identity(self) -> Identity:
        """Return the identity that the SPIFFE ID says, or default/default if it is not one of the mesh's form."""
        parts = self.spiffe_id.removeprefix("spiffe://").split("/")
        if len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa":
            return Identity(parts[2], parts[4])
        return Identity("default", "default")


def read_certificates(folder: str) -> CertificateFolder:
    """Return what is in the folder; raises UserError if a file is missing or not what its name says."""
    path = Path(folder).absolute()
    key, chain, root = path / "key.pem", path / "cert-chain.pem", path / "root-cert.pem"
    leaf = _certificates(chain)[0]
    _certificates(root)
    if _key(key).public_key() != leaf.public_key():
        raise UserError(f"{key}: is not the key of the first certificate in {chain.name} (the leaf comes first)")
    return CertificateFolder(CertificateFiles(str(key), str(chain), str(root), str(path / "secrets")), _uri(leaf))


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError as error:
        raise UserError(f"{path}: holds no PEM certificates: {error}") from error


def _key(path: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(_read(path), None)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: holds no PEM private key that can be read without a password: {error}") from error


def _uri(leaf: x509.Certificate) -> str:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    return next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be read: {reason} (--certs wants key.pem, cert-chain.pem, root-cert.pem)"
        ) from error
