"""Template, signature and re-check: what a certificate has in it, and that nothing else gets out."""

from __future__ import annotations

import stat
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from node_ca.authority import Authority
from node_ca.errors import ConfigError, SigningFault
from node_ca.identity import WorkloadIdentity
from node_ca.issuer_book import BOOK_FILE
from node_ca.issuer_files import CERTIFICATE_FILE, KEY_FILE
from node_ca.request import CertificateRequest
from node_ca.template import Template, Validity, random_serial, server_template, workload_template
from node_ca.verify import check_signed
from tests.unit.ca_requests import SPIFFE_ID, greedy_csr, p256

NOW = 1_800_000_000.4
REVIEWS = WorkloadIdentity("default", "reviews")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path, "cluster.local", NOW)


def template(csr_pem: bytes | None = None) -> Template:
    request = CertificateRequest.from_pem(csr_pem or greedy_csr())
    return workload_template(request, REVIEWS, "cluster.local", Validity(10, 60), NOW)


def test_a_greedy_request_gets_a_plain_workload_certificate(authority: Authority) -> None:
    key = p256()
    certificate = authority.sign(template(greedy_csr(key)))
    extensions = {extension.oid: extension for extension in certificate.extensions}
    names = extensions[x509.SubjectAlternativeName.oid]
    assert list(names.value) == [x509.UniformResourceIdentifier(SPIFFE_ID)]
    assert names.critical, "RFC 5280, 4.2.1.6: the subject is empty"
    assert certificate.subject == x509.Name([])
    assert certificate.public_key() == key.public_key()
    assert extensions[x509.BasicConstraints.oid].value == x509.BasicConstraints(ca=False, path_length=None)
    usage = extensions[x509.KeyUsage.oid].value
    assert usage.digital_signature
    assert [usage.key_cert_sign, usage.crl_sign, usage.key_encipherment, usage.key_agreement] == [False] * 4
    assert list(extensions[x509.ExtendedKeyUsage.oid].value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    assert len(extensions) == 6


def test_validity_begins_in_the_past_and_is_never_shorter_than_asked(authority: Authority) -> None:
    certificate = authority.sign(template())
    assert certificate.not_valid_before_utc.timestamp() == 1_799_999_940
    assert certificate.not_valid_after_utc.timestamp() == 1_800_000_011


def test_serials_are_random_positive_and_fit_128_bits() -> None:
    serials = {random_serial() for _ in range(200)}
    assert len(serials) == 200
    assert all(0 < serial < 2**128 for serial in serials)
    assert random_serial(lambda bits: 0) > 0


def test_the_servers_certificate_is_useless_as_a_clients(authority: Authority) -> None:
    validity = Validity(10)
    certificate = authority.sign(
        server_template(p256().public_key(), ("ca.example",), (ip_address("10.0.0.1"),), validity, NOW)
    )
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert list(names) == [x509.DNSName("ca.example"), x509.IPAddress(ip_address("10.0.0.1"))]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"serial": 5}, "serial"),
        ({"subject": x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")])}, "subject"),
        ({"names": (x509.DNSName("bank.example"),)}, "extensions"),
        ({"is_ca": True}, "extensions"),
        ({"usages": ()}, "extensions"),
        ({"not_after": template().not_after.replace(year=2099)}, "end"),
        ({"not_before": template().not_before.replace(year=2000)}, "begin"),
        ({"public_key": p256().public_key()}, "key"),
    ],
)
def test_what_differs_from_its_template_does_not_get_out(
    authority: Authority, change: dict[str, Any], fault: str
) -> None:
    wanted = template()
    signed = authority.sign(replace(wanted, **change))
    with pytest.raises(SigningFault, match=fault):
        check_signed(signed.public_bytes(Encoding.DER), wanted, authority.certificate)


def test_a_bit_flip_in_the_signature_does_not_get_out(authority: Authority) -> None:
    wanted = template()
    der = bytearray(authority.sign(wanted).public_bytes(Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(SigningFault):
        check_signed(bytes(der), wanted, authority.certificate)


def test_another_authoritys_signature_does_not_get_out(authority: Authority, tmp_path: Path) -> None:
    other_directory = tmp_path / "other"
    other_directory.mkdir()
    wanted = template()
    signed = Authority.open(other_directory, "cluster.local", NOW).sign(wanted)
    with pytest.raises(SigningFault, match="signature"):
        check_signed(signed.public_bytes(Encoding.DER), wanted, authority.certificate)


def test_the_root_is_made_once_and_private(authority: Authority, tmp_path: Path) -> None:
    again = Authority.open(tmp_path, "cluster.local", NOW + 1)
    assert again.root_pem == authority.root_pem
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    key = again.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    constraints = again.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca


def test_a_start_that_died_between_key_and_certificate_is_finished(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / CERTIFICATE_FILE).unlink()
    (tmp_path / BOOK_FILE).unlink()
    again = Authority.open(tmp_path, "cluster.local", NOW)
    assert again.certificate.public_key() == authority.certificate.public_key()


def test_faults_of_the_state_are_told(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not of trust domain other\.example"):
        Authority.open(tmp_path, "other.example", NOW)
    with pytest.raises(ConfigError, match="not valid now"):
        Authority.open(tmp_path, "cluster.local", NOW + 20 * 365 * 86400)
    (tmp_path / KEY_FILE).write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot be read as a PEM private key"):
        Authority.open(tmp_path, "cluster.local", NOW)
    (tmp_path / KEY_FILE).unlink()
    with pytest.raises(ConfigError, match="restore the CA key from its backup"):
        Authority.open(tmp_path, "cluster.local", NOW)
