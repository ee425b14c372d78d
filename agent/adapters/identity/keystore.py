"""Keys and certificates on the disk, so that a host serves after a reboot while the CA is away.

One file for each identity with everything that must match: renewal times, key, chain, roots to trust. It is replaced
whole, so a kill or a power cut at any moment leaves the old generation or the new.
May not talk to the CA nor decide renewal.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from agent.adapters.files import read_optional, write_atomic
from agent.adapters.identity.keys import Leaf, new_csr, read_chain
from agent.errors import HostError
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_TIMES = re.compile(rb"hostmesh obtained=(\d+\.?\d*) renew=(\d+\.?\d*)\n")
_KEY_END = b"-----END PRIVATE KEY-----\n"
_BUNDLE_BEGIN = b"trust bundle\n"
"""Text between PEM blocks is allowed (RFC 7468, section 2): openssl reads the file as it is."""


@dataclass(frozen=True)
class StoredCertificate:
    """A certificate with what rotation needs to know of it."""

    certificate: Certificate
    leaf: Leaf
    trust_bundle_pem: bytes
    """The roots to trust, as the CA said when it issued this."""
    obtained_at: float
    """Unix time, seconds, on this host's clock."""
    renew_at: float
    """When to renew: drawn once, when it was obtained."""


class KeyStore:
    """The folder of one agent's keys; raises HostError when it can't be read or written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, identity: Identity) -> StoredCertificate | None:
        """Return the stored certificate, expired or not, or None; raises HostError if the file is corrupt."""
        path = self._path(identity, "pem")
        content = read_optional(path)
        if content is None:
            return None
        header = _TIMES.match(content)
        key, end, rest = content[header.end() if header else 0 :].partition(_KEY_END)
        chain, _, bundle = rest.partition(_BUNDLE_BEGIN)
        try:
            if header is None:
                raise ValueError("its first line is not hostmesh's")
            certificate = Certificate(key_pem=key + end, chain_pem=chain)
            leaf = read_chain(certificate.key_pem, certificate.chain_pem, identity)
            x509.load_pem_x509_certificates(bundle)
        except ValueError as error:
            raise HostError(f"{path}: corrupt ({error}); a new certificate will be asked for") from error
        return StoredCertificate(certificate, leaf, bundle, float(header[1]), float(header[2]))

    def store(self, identity: Identity, stored: StoredCertificate) -> None:
        """Replace the stored certificate, durably."""
        times = f"hostmesh obtained={stored.obtained_at:.3f} renew={stored.renew_at:.3f}\n".encode()
        self._make_directory()
        pems = stored.certificate.key_pem + stored.certificate.chain_pem + _BUNDLE_BEGIN + stored.trust_bundle_pem
        write_atomic(self._path(identity, "pem"), times + pems)
        path = self._path(identity, "enrolling")
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"{path}: cannot be removed: {error.strerror}") from error

    def load_enrolling_key(self, identity: Identity) -> bytes | None:
        """Return the key of an enrolment whose answer never arrived: the CA gives a single-use token's holder a second
        answer for the same key only."""
        key = read_optional(self._path(identity, "enrolling"))
        try:
            return key if key and new_csr(key) else None
        except (ValueError, TypeError):
            return None  # corrupt: a fresh one replaces it

    def store_enrolling_key(self, identity: Identity, key_pem: bytes) -> None:
        """Remember a key before the CA is asked to enrol it."""
        self._make_directory()
        write_atomic(self._path(identity, "enrolling"), key_pem)

    def _path(self, identity: Identity, suffix: str) -> Path:
        for part in (identity.namespace, identity.service_account):
            if not _NAME.fullmatch(part):
                raise HostError(f"{part!r}: cannot name a key file; use small letters, digits, dashes and dots")
        return self._directory / f"{identity.namespace}_{identity.service_account}.{suffix}"

    def _make_directory(self) -> None:
        try:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
        except OSError as error:
            raise HostError(f"{self._directory}: cannot be made: {error.strerror}") from error
