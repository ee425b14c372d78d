"""The revocation list of each issuer, kept on the disk, so that it changes only when what is in it changes.

Signing one anew at every start would send every host a bundle that says nothing new, and lists are numbered upwards.
May not decide what is revoked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.private_file import make_folder, write_private
from node_ca.records import IssueRecord
from node_ca.signer import Signer


def revocations_of(records: Iterable[IssueRecord], oldest: str) -> dict[str, dict[int, int]]:
    """Return serial numbers with their times of revocation (Unix, seconds) by issuer.

    Records from before issuers were written down are of the oldest.
    """
    found: dict[str, dict[int, int]] = {}
    for record in records:
        found.setdefault(record.issuer or oldest, {})[int(record.serial, 16)] = record.revoked_at
    return found


class RevocationLists:
    """The lists in one folder, a file for each issuer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lists: dict[str, x509.CertificateRevocationList] = {}

    def of(self, signer: Signer, revoked: dict[int, int], now: float) -> bytes:
        """Return the issuer's list (PEM) of these serial numbers and times of revocation (Unix, seconds).

        Raises SigningFault, or ConfigError if it can't be kept.
        """
        last = self._lists.get(signer.id) or self._read(signer)
        if last is None or _entries(last) != revoked:
            number = max(int(now * 1000), _number(last) + 1 if last is not None else 0)
            last = signer.sign_crl(revoked, number, now)
            make_folder(self._folder)
            write_private(self._path(signer.id), last.public_bytes(Encoding.PEM))
        self._lists[signer.id] = last
        return last.public_bytes(Encoding.PEM)

    def forget(self, issuer: str) -> None:
        """Remove the list of an issuer that nobody trusts any more."""
        self._lists.pop(issuer, None)
        self._path(issuer).unlink(missing_ok=True)

    def _path(self, issuer: str) -> Path:
        return self._folder / f"{issuer}.pem"

    def _read(self, signer: Signer) -> x509.CertificateRevocationList | None:
        try:
            crl = x509.load_pem_x509_crl(self._path(signer.id).read_bytes())
            _number(crl)
        except (OSError, ValueError, x509.ExtensionNotFound):
            return None  # never made, or damaged: the inventory knows all that was in it
        return crl if crl.is_signature_valid(signer.certificate.public_key()) else None  # type: ignore[arg-type]


def _entries(crl: x509.CertificateRevocationList) -> dict[int, int]:
    return {entry.serial_number: int(entry.revocation_date_utc.timestamp()) for entry in crl}


def _number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
