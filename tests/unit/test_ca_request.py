"""CSRs: what is refused, and how little of the others is honoured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from node_ca.errors import Refusal, RefusalKind
from node_ca.request import CertificateRequest
from tests.unit.ca_requests import SPIFFE_ID, armour, csr, forged_csr, greedy_csr

GOOD = x509.load_pem_x509_csr(greedy_csr()).public_bytes(Encoding.DER)


def _truncated() -> bytes:
    lines = csr().splitlines(keepends=True)
    return b"".join(lines[:2] + lines[-1:])


def _rsa(bits: int) -> bytes:
    return csr(rsa.generate_private_key(65537, bits))


def _huge_rsa() -> bytes:
    """Make an RSA key of 4484 bits from two Mersenne primes: at once, where generating one takes seconds."""
    p, q, e = 2**2281 - 1, 2**2203 - 1, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return csr(numbers.private_key(unsafe_skip_rsa_key_validation=True))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: b"", "not a readable", id="empty"),
        pytest.param(lambda: b"\x00\xff" * 50, "not a readable", id="not PEM"),
        pytest.param(lambda: b"please", "not a readable", id="text"),
        pytest.param(lambda: csr().replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), "not a readable", id="armour"),
        pytest.param(_truncated, "not a readable", id="truncated"),
        pytest.param(lambda: csr() + b"\n" * 20_000, "at most 16384", id="oversized"),
        pytest.param(forged_csr, "not by its own key", id="forged signature"),
        pytest.param(lambda: _rsa(1024), "RSA key of 1024 bits", id="RSA 1024"),
        pytest.param(_huge_rsa, "RSA key of 4484 bits", id="costly RSA"),
        pytest.param(lambda: csr(ec.generate_private_key(ec.SECP224R1())), "key type not allowed", id="P-224"),
        pytest.param(lambda: csr(ec.generate_private_key(ec.SECP521R1())), "key type not allowed", id="P-521"),
        pytest.param(lambda: csr(ec.generate_private_key(ec.SECP256K1())), "key type not allowed", id="secp256k1"),
        pytest.param(lambda: csr(ed25519.Ed25519PrivateKey.generate()), "key type not allowed", id="Ed25519"),
    ],
)
def test_refused_requests(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as caught:
        CertificateRequest.from_pem(make())
    assert caught.value.kind is RefusalKind.INVALID_ARGUMENT
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: csr(), id="P-256"),
        pytest.param(lambda: csr(ec.generate_private_key(ec.SECP384R1())), id="P-384"),
        pytest.param(lambda: _rsa(2048), id="RSA 2048"),
    ],
)
def test_allowed_keys(make: Callable[[], bytes]) -> None:
    assert CertificateRequest.from_pem(make()).uris == ()


def test_only_the_key_and_the_uris_are_read() -> None:
    assert CertificateRequest.from_pem(greedy_csr()).uris == ()
    assert CertificateRequest.from_pem(csr(uris=(SPIFFE_ID,))).uris == (SPIFFE_ID,)


@given(position=st.integers(0, len(GOOD) - 1), replacement=st.binary(max_size=4), cut=st.integers(0, 8))
def test_a_damaged_request_is_refused_in_order(position: int, replacement: bytes, cut: int) -> None:
    damaged = GOOD[:position] + replacement + GOOD[position + cut :]
    if damaged == GOOD:
        return
    with pytest.raises(Refusal):
        CertificateRequest.from_pem(armour(damaged))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_order(content: bytes) -> None:
    for pem in (content, armour(content)):
        with pytest.raises(Refusal):
            CertificateRequest.from_pem(pem)
