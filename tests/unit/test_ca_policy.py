"""Who may have which identity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from node_ca.errors import Refusal, RefusalKind
from node_ca.identity import WorkloadIdentity
from node_ca.policy import TokenRecord, check_use, check_wanted, entitled_by_certificate, entitled_by_token
from node_ca.proto.token import JoinToken
from tests.unit.ca_requests import SPIFFE_ID, p256

NOW = 1_800_000_000
REVIEWS = WorkloadIdentity("default", "reviews")
TOKEN = JoinToken.new(b"\x07" * 32)


def record(token: JoinToken = TOKEN, *, uses: int = 1, used: int = 0) -> TokenRecord:
    return TokenRecord(token.id, token.secret_hash, REVIEWS, NOW - 10, NOW + 10, uses, used)


def test_a_token_survives_being_printed() -> None:
    text = TOKEN.text()
    assert JoinToken.from_text(f"  {text}\n") == TOKEN
    assert text.isprintable()
    assert len(text) < 100
    assert text.split(".")[2] not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    ["", "x", "hmt1", TOKEN.text()[:-1], TOKEN.text() + "A", TOKEN.text().replace("hmt1", "hmt2"), "hmt1...", "\0"],
)
def test_what_is_no_token_is_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="not a join token") as caught:
        JoinToken.from_text(text)
    assert not text or TOKEN.text()[20:40] not in str(caught.value)


def test_a_token_entitles_to_its_identity_until_it_expires() -> None:
    assert entitled_by_token(TOKEN, record(), NOW + 9.9) == REVIEWS
    with pytest.raises(Refusal, match="expired"):
        entitled_by_token(TOKEN, record(), NOW + 10)


def test_an_unknown_token_and_a_wrong_secret_look_alike() -> None:
    wrong = JoinToken(TOKEN.id, b"\x00" * 16, TOKEN.root_fingerprint)
    with pytest.raises(Refusal) as unknown:
        entitled_by_token(TOKEN, None, NOW)
    with pytest.raises(Refusal) as guessed:
        entitled_by_token(wrong, record(), NOW)
    assert str(unknown.value) == str(guessed.value)
    assert unknown.value.kind is guessed.value.kind is RefusalKind.UNAUTHENTICATED


def test_an_expired_token_with_a_wrong_secret_does_not_say_that_it_exists() -> None:
    with pytest.raises(Refusal, match="not known"):
        entitled_by_token(JoinToken(TOKEN.id, b"\x00" * 16, TOKEN.root_fingerprint), record(), NOW + 100)


def test_uses_are_counted_by_keys() -> None:
    check_use(record(), known=False)
    check_use(record(used=1), known=True)  # its answer was lost
    check_use(record(uses=2, used=1), known=False)
    with pytest.raises(Refusal, match="used up"):
        check_use(record(used=1), known=False)
    with pytest.raises(Refusal, match="used up"):
        check_use(record(uses=2, used=2), known=False)


@pytest.mark.parametrize(
    ("wanted", "uris"),
    [
        ("ns/default/sa/ratings", ()),
        ("", ("spiffe://cluster.local/ns/default/sa/ratings",)),
        ("", (SPIFFE_ID, "spiffe://cluster.local/ns/default/sa/ratings")),
        ("", ("spiffe://elsewhere/ns/default/sa/reviews",)),
        ("", (SPIFFE_ID + "/",)),
        ("", ("https://example.com",)),
    ],
)
def test_nobody_gets_another_identity(wanted: str, uris: tuple[str, ...]) -> None:
    with pytest.raises(Refusal) as caught:
        check_wanted(REVIEWS, "cluster.local", wanted, uris)
    assert caught.value.kind is RefusalKind.PERMISSION_DENIED


@pytest.mark.parametrize(("wanted", "uris"), [("", ()), ("ns/default/sa/reviews", (SPIFFE_ID,))])
def test_asking_for_ones_own_is_allowed(wanted: str, uris: tuple[str, ...]) -> None:
    check_wanted(REVIEWS, "cluster.local", wanted, uris)


def _peer(*names: x509.GeneralName) -> x509.Certificate:
    key, now = p256(), datetime.now(UTC)
    name = x509.Name([])
    builder = x509.CertificateBuilder().issuer_name(name).subject_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(hours=1))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256())


def test_a_certificate_entitles_to_its_own_identity() -> None:
    assert entitled_by_certificate(_peer(x509.UniformResourceIdentifier(SPIFFE_ID)), "cluster.local") == REVIEWS


@pytest.mark.parametrize(
    "names",
    [
        (),
        (x509.DNSName("localhost"),),
        (x509.UniformResourceIdentifier(SPIFFE_ID), x509.DNSName("localhost")),
        (x509.UniformResourceIdentifier(SPIFFE_ID), x509.UniformResourceIdentifier(SPIFFE_ID + "2")),
        (x509.UniformResourceIdentifier("spiffe://elsewhere/ns/default/sa/reviews"),),
        (x509.UniformResourceIdentifier("spiffe://cluster.local"),),
        (x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/reviews/x"),),
        (x509.UniformResourceIdentifier("spiffe://cluster.local/ns/../sa/reviews"),),
        (x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/"),),
    ],
    ids=lambda names: "+".join(str(name.value) for name in names) or "nameless",
)
def test_other_certificates_entitle_to_nothing(names: tuple[x509.GeneralName, ...]) -> None:
    with pytest.raises(Refusal) as caught:
        entitled_by_certificate(_peer(*names), "cluster.local")
    assert caught.value.kind is RefusalKind.PERMISSION_DENIED


@pytest.mark.parametrize(
    "text",
    [
        *("", "reviews", "ns/default", "ns//sa/x", "ns/a/sa/b/c", "ns/A/sa/b", "ns/a.b/sa/c", "ns/a/sa/../b"),
        *("ns/a/sa/b\n", "NS/a/sa/b", "ns/a/sa/b?x=1", "ns/a/sa/%62"),
        *("ns/" + "a" * 64 + "/sa/b", "ns/a/sa/" + "b" * 254),
    ],
)
def test_what_is_no_identity(text: str) -> None:
    with pytest.raises(ValueError, match="ns/NAMESPACE/sa/ACCOUNT"):
        WorkloadIdentity.from_path(text)
