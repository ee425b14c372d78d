"""An issuer from its files, as Istio's plug-in CA has them, with every fault found and told in a line of its own.

`ca-cert.pem` and `ca-key.pem` are the issuer; `root-cert.pem` is the root above it, and `cert-chain.pem` what lies
between (with the issuer's own certificate or without). Both may be missing or empty where the issuer is the root.
May not decide when an issuer signs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from node_ca.constraints import constrained, extension_faults, refusal
from node_ca.errors import ConfigError
from node_ca.private_file import make_folder, write_private
from node_ca.signer import CaKey, Signer

KEY_FILE, CERTIFICATE_FILE = "ca-key.pem", "ca-cert.pem"
CHAIN_FILE, ROOT_FILE = "cert-chain.pem", "root-cert.pem"
FILES = (KEY_FILE, CERTIFICATE_FILE, CHAIN_FILE, ROOT_FILE)
MIN_RSA_BITS = 2048
MAX_CHAIN = 8
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True)
class IssuerFiles:
    """The four files' content; empty where there is none."""

    key: bytes
    certificate: bytes
    chain: bytes = b""
    root: bytes = b""

    @classmethod
    def read(cls, folder: Path) -> IssuerFiles:
        """Read them; a missing file is empty. Raises ConfigError."""
        return cls(*(_read(folder / name) for name in FILES))

    @classmethod
    def of(cls, signer: Signer, passphrase: bytes | None) -> IssuerFiles:
        """Return an issuer as it is stored."""
        root = signer.root_pem if signer.intermediates_pem else b""
        certificate = signer.certificate.public_bytes(Encoding.PEM)
        return cls(signer.key_pem(passphrase), certificate, signer.intermediates_pem, root)

    def write(self, folder: Path) -> None:
        """Write what isn't empty; raises ConfigError."""
        make_folder(folder)
        for name, content in zip(FILES, (self.key, self.certificate, self.chain, self.root), strict=True):
            if content:
                write_private(folder / name, content)

    def signer(self, where: str, trust_domain: str, passphrase: bytes | None) -> Signer:
        """Return the issuer; raises ConfigError with every fault, `where` in front. What time it is isn't looked at."""
        problems: list[str] = []
        try:
            key = self.ca_key(where, passphrase)
        except ConfigError as error:
            problems += error.problems
        own = _certificates(self.certificate, f"{where}{CERTIFICATE_FILE}", problems)
        between = _certificates(self.chain, f"{where}{CHAIN_FILE}", problems)
        roots = _certificates(self.root, f"{where}{ROOT_FILE}", problems)
        if not self.certificate:
            problems.append(f"{where}{CERTIFICATE_FILE}: missing: restore it from its backup")
        elif not problems and len(own) != 1:
            problems.append(f"{where}{CERTIFICATE_FILE}: has {len(own)} certificates, must have the CA's own one only")
        if not problems and len(roots) > 1:
            problems.append(f"{where}{ROOT_FILE}: has {len(roots)} certificates, must have one root")
        if problems:
            raise ConfigError(problems)
        chain = _arranged(own[0], between, roots)
        problems += _chain_faults(where, chain)
        if own[0].public_key() != key.public_key():
            problems.append(f"{where}{CERTIFICATE_FILE}: is not the certificate of {KEY_FILE} beside it")
        if foreign := _foreign_names(chain, trust_domain):
            problems.append(f"{where}{CERTIFICATE_FILE}: is not of trust domain {trust_domain}: it names {foreign}")
        if problems:
            raise ConfigError(problems)
        signer = Signer(key, chain)
        probe = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/ns/default/sa/default")
        if reason := refusal(signer, probe):
            raise ConfigError([f"{_refuser(signer, where)} allows no certificates of {trust_domain}: {reason}"])
        return signer

    def ca_key(self, where: str, passphrase: bytes | None) -> CaKey:
        """Return the key; raises ConfigError, `where` in front."""
        where += KEY_FILE
        if not self.key:
            raise ConfigError([f"{where}: missing beside {CERTIFICATE_FILE}: restore the CA key from its backup"])
        try:
            key = _load_key(self.key, passphrase)
        except TypeError as error:
            fault = "is encrypted: name the file with its passphrase (ca.yaml: caKeyPassphraseFile)"
            raise ConfigError([f"{where}: {fault}"]) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            wrong = " with the passphrase of caKeyPassphraseFile" if passphrase else ""
            raise ConfigError([f"{where}: cannot be read as a PEM private key{wrong}"]) from error
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
            return key
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
            return key
        raise ConfigError([f"{where}: must be ECDSA (P-256, P-384, P-521) or RSA from {MIN_RSA_BITS} bits"])


def time_faults(signer: Signer, where: str, now: float) -> list[str]:
    """Return a line for each certificate of the chain that is not valid now (Unix time)."""
    moment = datetime.fromtimestamp(now, UTC)
    return [
        f"{where}{_file_of(signer.chain, index)}: {_name(certificate)} is not valid now "
        f"(from {certificate.not_valid_before_utc:%Y-%m-%d} until {certificate.not_valid_after_utc:%Y-%m-%d})"
        for index, certificate in enumerate(signer.chain)
        if not certificate.not_valid_before_utc <= moment < certificate.not_valid_after_utc
    ]


def server_name_faults(signer: Signer, where: str, names: Iterable[x509.GeneralName]) -> list[str]:
    """Return a line for each name that the CA's own server certificate could not have."""
    reasons = ((name, refusal(signer, name)) for name in names)
    return [
        f"{_refuser(signer, where)} allows no server certificate for {name.value} (ca.yaml: serverNames): {reason}"
        for name, reason in reasons
        if reason
    ]


def _refuser(signer: Signer, where: str) -> str:
    """Return the file and name of what constrains names in a chain, or of the issuer."""
    index = next((signer.chain.index(each) for each in constrained(signer.chain)), 0)
    return f"{where}{_file_of(signer.chain, index)}: {_name(signer.chain[index])}"


def _load_key(pem: bytes, passphrase: bytes | None) -> object:
    if passphrase is not None:
        try:
            return load_pem_private_key(pem, passphrase)
        except TypeError:  # it isn't encrypted, for which no passphrase may be given
            pass
    return load_pem_private_key(pem, None)


def _arranged(
    own: x509.Certificate, between: tuple[x509.Certificate, ...], roots: tuple[x509.Certificate, ...]
) -> tuple[x509.Certificate, ...]:
    """Return the certificates from the issuer's own up to the root, each once, whatever the chain file repeats."""
    return tuple(dict.fromkeys((own, *(c for c in between if c not in roots), *roots)))


def _chain_faults(where: str, chain: tuple[x509.Certificate, ...]) -> Iterator[str]:
    if len(chain) > MAX_CHAIN:
        yield f"{where}{CHAIN_FILE}: the chain has {len(chain)} certificates, at most {MAX_CHAIN} are allowed"
        return
    for index, certificate in enumerate(chain):
        file, name = f"{where}{_file_of(chain, index)}", _name(certificate)
        yield from (f"{file}: {name} {fault}" for fault in _all_faults(certificate, below=index))
        if index + 1 < len(chain) and not _signed(certificate, chain[index + 1]):
            yield f"{file}: {name} is not signed by {_name(chain[index + 1])}, the next of the chain"
    if not _signed(chain[-1], chain[-1]):
        hint = "is the root's file there?" if len(chain) == 1 else "is it the root?"
        yield f"{where}{_file_of(chain, len(chain) - 1)}: {_name(chain[-1])} is not self-signed: {hint} ({ROOT_FILE})"


def _ca_faults(certificate: x509.Certificate, below: int) -> Iterator[str]:
    """Yield why a certificate can't be a CA with so many others below it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        yield "says nothing readable of being a CA (basicConstraints)"
        return
    if not constraints.ca:
        yield "is no CA's certificate (basicConstraints: CA:FALSE)"
    elif constraints.path_length is not None and constraints.path_length < below:
        yield f"allows {constraints.path_length} CA certificates below it (pathlen), there are {below}"
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        yield "may not sign certificates (keyUsage: keyCertSign is missing)"
    if below == 0 and not usage.crl_sign:
        yield "may not sign revocation lists (keyUsage: cRLSign is missing)"


def _all_faults(certificate: x509.Certificate, below: int) -> Iterator[str]:
    yield from _ca_faults(certificate, below)
    yield from extension_faults(certificate)


def _signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _foreign_names(chain: tuple[x509.Certificate, ...], trust_domain: str) -> list[str]:
    """Return the trust domains that the chain is for, if ours is not among them; a plugged-in CA need name none."""
    names = {uri for certificate in chain for uri in _uris(certificate) if uri.startswith("spiffe://")}
    return [] if not names or f"spiffe://{trust_domain}" in names else sorted(names)


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _file_of(chain: tuple[x509.Certificate, ...], index: int) -> str:
    return CERTIFICATE_FILE if index == 0 else ROOT_FILE if index == len(chain) - 1 else CHAIN_FILE


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string()[:80])


def _certificates(pem: bytes, where: str, problems: list[str]) -> tuple[x509.Certificate, ...]:
    if not pem.strip():
        return ()
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError:
        problems.append(f"{where}: cannot be read as PEM certificates")
        return ()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
