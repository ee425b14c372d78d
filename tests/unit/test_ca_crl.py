"""Revocation lists: what is in them, how long they hold, and when a new one is made. openssl reads them, too."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.authority import Authority
from node_ca.crl import revocations_of
from node_ca.errors import ConfigError
from node_ca.identity import WorkloadIdentity
from node_ca.records import IssueRecord
from node_ca.request import CertificateRequest
from node_ca.template import Validity, workload_template
from tests.unit.ca_requests import csr

NOW = 1_800_000_000.4


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path, "cluster.local", NOW)


def crl_of(authority: Authority, revoked: dict[int, int], now: float = NOW) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(authority.crls_pem({authority.active.id: revoked}, now))


def number_of(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_a_list_holds_as_long_as_its_issuer_and_begins_before_now(authority: Authority) -> None:
    crl = crl_of(authority, {7: 1_799_999_000})
    assert crl.next_update_utc == authority.certificate.not_valid_after_utc
    assert crl.last_update_utc.timestamp() <= NOW - 600, "a host whose clock is behind must take it"
    assert crl.issuer == authority.certificate.subject
    (entry,) = crl
    assert (entry.serial_number, entry.revocation_date_utc.timestamp()) == (7, 1_799_999_000)


def test_a_list_changes_with_its_content_and_only_with_it(authority: Authority, tmp_path: Path) -> None:
    first = crl_of(authority, {})
    assert crl_of(authority, {}, NOW + 500) == first
    again = Authority.open(tmp_path, "cluster.local", NOW + 1000)
    assert crl_of(again, {}, NOW + 1000) == first, "nor by a start"
    second = crl_of(again, {7: 1_799_999_000}, NOW - 5000)
    assert number_of(second) > number_of(first), "also when the clock was set back"
    third = crl_of(again, {}, NOW + 3000)
    assert number_of(third) > number_of(second)
    assert len(third) == 0


def test_a_damaged_list_is_made_anew(authority: Authority, tmp_path: Path) -> None:
    crl_of(authority, {7: 1_799_999_000})
    (file,) = (tmp_path / "crls").iterdir()
    file.write_bytes(file.read_bytes()[:200])
    again = crl_of(Authority.open(tmp_path, "cluster.local", NOW), {7: 1_799_999_000})
    assert [entry.serial_number for entry in again] == [7]


def test_a_disk_that_takes_no_list_is_told(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "crls").write_text("in the way")
    with pytest.raises(ConfigError, match=r"crls.*: cannot be"):
        crl_of(authority, {})


def test_records_are_sorted_by_their_issuers() -> None:
    records = [
        IssueRecord(f"{number:032x}", "ns/a/sa/b", 0, 0, 0, "ca", issuer=issuer, revoked_at=number * 10)
        for number, issuer in ((1, "old"), (255, "new"), (3, ""))
    ]
    assert revocations_of(records, "old") == {"old": {1: 10, 3: 30}, "new": {255: 2550}}


def test_openssl_refuses_what_is_on_the_list_and_nothing_else(authority: Authority, tmp_path: Path) -> None:
    identity, request = WorkloadIdentity("default", "reviews"), CertificateRequest.from_pem(csr())
    template = workload_template(request, identity, "cluster.local", Validity(3600), NOW)
    revoked, other = (
        authority.sign(template),
        authority.sign(workload_template(request, identity, "cluster.local", Validity(3600), NOW)),
    )
    (tmp_path / "root").write_bytes(authority.root_pem)
    (tmp_path / "crl").write_bytes(authority.crls_pem({authority.active.id: {revoked.serial_number: int(NOW)}}, NOW))

    def verified(certificate: x509.Certificate) -> str:
        (tmp_path / "leaf").write_bytes(certificate.public_bytes(Encoding.PEM))
        files = ("-CAfile", tmp_path / "root", "-CRLfile", tmp_path / "crl", tmp_path / "leaf")
        command = ("openssl", "verify", "-x509_strict", "-crl_check", "-attime", str(int(NOW)), *files)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "certificate revoked" in verified(revoked)
    assert verified(other).endswith(": OK\n")
