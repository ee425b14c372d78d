"""The trust bundle as hostmesh-ca sends it and as the disk keeps it. Checks it; may not decide when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from agent.adapters.files import read_optional, write_atomic
from agent.errors import CaRefused, HostError
from agent.mesh.trust import RevokedCertificate, TrustBundle
from node_ca.proto import ca_pb2

_CRL_END = b"-----END X509 CRL-----"


class _Jwks(msgspec.Struct):
    keys: list[dict[str, str]]


def bundle_of(message: ca_pb2.TrustBundle) -> TrustBundle:
    """Return the CA's bundle; raises CaRefused if Envoy would refuse it."""
    bundle = TrustBundle(
        message.roots_pem,
        message.crls_pem,
        tuple(RevokedCertificate(each.serial, each.identity, each.not_after) for each in message.revoked),
        message.version,
        message.jwks,
    )
    try:
        _check(bundle)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CaRefused(f"hostmesh-ca's trust bundle is of no use: {error}") from error
    return bundle


def crl_fault(crls_pem: bytes, now: float) -> str | None:
    """Return why these lists can't be used at that Unix time, or None.

    Envoy refuses every certificate while one list has ended, or begins only later.
    """
    moment = datetime.fromtimestamp(now, UTC)
    for crl in _crls(crls_pem):
        if crl.last_update_utc > moment:
            return f"a revocation list is from {crl.last_update_utc:%Y-%m-%d %H:%M:%S} UTC: this host's clock is behind"
        if crl.next_update_utc is not None and crl.next_update_utc <= moment:
            return f"a revocation list ended at {crl.next_update_utc:%Y-%m-%d %H:%M:%S} UTC"
    return None


class BundleFile:
    """The last bundle on the disk, so that a host boots while the CA is away, and revoked stays revoked."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> TrustBundle | None:
        """Return the bundle, None if there is none; raises HostError if it can't be read."""
        content = read_optional(self._path)
        if content is None:
            return None
        try:
            bundle = msgspec.json.decode(content, type=TrustBundle)
            _check(bundle)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise HostError(f"{self._path}: corrupt ({error}); the CA will be asked") from error
        return bundle

    def store(self, bundle: TrustBundle) -> None:
        """Replace it, durably; raises HostError."""
        write_atomic(self._path, msgspec.json.encode(bundle))


class SerialsFile:
    """A set of serial numbers on the disk; one that can't be read counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> frozenset[int]:
        """Return the numbers."""
        try:
            return frozenset(int(word, 16) for word in (read_optional(self._path) or b"").split())
        except (HostError, ValueError):
            return frozenset()

    def store(self, serials: frozenset[int]) -> None:
        """Replace them, durably; raises HostError."""
        write_atomic(self._path, " ".join(f"{serial:x}" for serial in sorted(serials)).encode())


def _check(bundle: TrustBundle) -> None:
    x509.load_pem_x509_certificates(bundle.roots_pem)  # at least one, else ValueError
    for _ in _crls(bundle.crls_pem):
        pass
    if bundle.jwks:
        msgspec.json.decode(bundle.jwks, type=_Jwks)
    for revoked in bundle.revoked:
        if not revoked.number:
            raise ValueError("a serial number is zero")


def _crls(pem: bytes) -> Iterator[x509.CertificateRevocationList]:
    for part in pem.split(_CRL_END):
        if part.strip():
            yield x509.load_pem_x509_crl(part.lstrip() + _CRL_END + b"\n")
