"""JWT-SVIDs of the CA, verified by a JWT library that is not ours: what is in them, which keys are trusted how long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from node_ca.authority import Authority
from node_ca.config import JwtConfig, Seconds
from node_ca.errors import ConfigError, Refusal, RefusalKind
from node_ca.inventory import SqliteInventory
from node_ca.issuer import Issuer
from node_ca.jwt_issuer import JwtIssuer
from node_ca.jwt_key import JwtKey
from node_ca.jwt_keys import BOOK_FILE, JwtKeys
from node_ca.records import Revocation
from node_ca.signer import CaKey
from node_ca.template import Validity
from tests.unit.ca_files import key_file, p384, rsa_key
from tests.unit.ca_requests import csr, p256

IDENTITY = "ns/default/sa/reviews"
NOW = 1_800_000_000.0
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def pem(key: Key, passphrase: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def claims_of(token: str, jwks: bytes, audience: str = "db") -> dict[str, Any]:
    """Return what PyJWT makes of a token by the published keys."""
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(jwks.decode()).keys}
    key = keys[jwt.get_unverified_header(token)["kid"]]
    return jwt.decode(
        token,
        key,
        audience=audience,
        algorithms=[key.algorithm_name],
        options={"verify_exp": False, "verify_iat": False},  # the tests' time is another
    )


@dataclass
class Case:
    """A CA with an inventory."""

    folder: Path
    inventory: SqliteInventory
    peer: x509.Certificate

    def issuer(self, config: JwtConfig) -> tuple[JwtIssuer, JwtKeys]:
        keys = JwtKeys.open(self.folder, config, NOW)
        issuer = JwtIssuer(keys.signer, self.inventory, "cluster.local", config, 300, lambda: NOW)
        return issuer, keys


@pytest.fixture
async def case(tmp_path: Path) -> Case:
    authority, inventory = Authority.open(tmp_path, "cluster.local", NOW), await SqliteInventory.open(tmp_path / "db")
    issuer = Issuer(authority, inventory, "cluster.local", Validity(3600), lambda: NOW)
    issued = await issuer.issue_directly(csr(), IDENTITY, 0)
    return Case(tmp_path, inventory, x509.load_pem_x509_certificate(issued.chain_pem))


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(p256(), "ES256"), (p384(), "ES384"), (rsa_key(), "RS256"), (rsa_key(3072), "RS256")],
    ids=["P-256", "P-384", "RSA 2048", "RSA 3072"],
)
async def test_a_token_is_the_callers_own_and_verifies(case: Case, key: CaKey, algorithm: str) -> None:
    config = JwtConfig(key_file(case.folder, "key", key), lifetime=Seconds(60), issuer="https://ca.example")
    issuer, keys = case.issuer(config)
    svid = await issuer.issue(case.peer, ["db", "queue", "db"])
    assert claims_of(svid.token, keys.jwks(NOW)) == {
        "sub": f"spiffe://cluster.local/{IDENTITY}",
        "aud": ["db", "queue"],
        "exp": NOW + 60,
        "iat": NOW - 300,
        "jti": svid.id,
        "iss": "https://ca.example",
    }
    header = jwt.get_unverified_header(svid.token)
    assert (header["alg"], header["typ"]) == (algorithm, "JWT")
    with pytest.raises(jwt.InvalidAudienceError):
        claims_of(svid.token, keys.jwks(NOW), "other")
    head, body, signature = svid.token.split(".")
    other = (await issuer.issue(case.peer, ["db"])).token.split(".")[1]
    with pytest.raises(jwt.InvalidSignatureError):
        claims_of(f"{head}.{other}.{signature}", keys.jwks(NOW))
    assert len(body) > 10


async def test_many_signatures_have_their_full_length(case: Case) -> None:
    """One number in 256 is shorter than its curve: a library that cuts it makes a bad token now and then."""
    key = JwtKey(p256())
    jwks = json.dumps({"keys": [key.jwk]}).encode()
    for number in range(600):
        assert claims_of(key.sign({"n": number, "aud": "db"}), jwks)["n"] == number


@contextmanager
def refused(kind: RefusalKind, text: str) -> Iterator[None]:
    with pytest.raises(Refusal, match=text) as caught:
        yield
    assert caught.value.kind is kind
    assert "\n" not in str(caught.value)


async def test_what_is_refused(case: Case) -> None:
    issuer, _ = case.issuer(JwtConfig(key_file(case.folder, "key")))
    with refused(RefusalKind.INVALID_ARGUMENT, "0 names"):
        await issuer.issue(case.peer, [])
    with refused(RefusalKind.INVALID_ARGUMENT, "9 names"):
        await issuer.issue(case.peer, [str(number) for number in range(9)])
    for bad in ("", "x" * 256, "a\nb", "\0"):
        with refused(RefusalKind.INVALID_ARGUMENT, "printable"):
            await issuer.issue(case.peer, [bad])
    await case.inventory.revoke(Revocation(serial=f"{case.peer.serial_number:032x}"), NOW)
    with refused(RefusalKind.PERMISSION_DENIED, "revoked"):
        await issuer.issue(case.peer, ["db"])
    none, keys = case.issuer(JwtConfig())
    with refused(RefusalKind.UNIMPLEMENTED, r"no JWT key \(ca.yaml: jwt.keyFile\)"):
        await none.issue(case.peer, ["db"])
    assert keys.signer is None


async def test_a_key_that_was_replaced_is_trusted_until_its_last_token_ends(case: Case) -> None:
    old, new = key_file(case.folder, "old"), key_file(case.folder, "new", rsa_key())
    issuer, keys = case.issuer(JwtConfig(old, (new,), Seconds(60)))
    token = (await issuer.issue(case.peer, ["db"])).token
    assert len(ids(keys.jwks(NOW))) == 2, "the next key is trusted before it signs"

    moved = JwtKeys.open(case.folder, JwtConfig(new, lifetime=Seconds(60)), NOW + 10)
    assert claims_of(token, moved.jwks(NOW + 69.9))
    assert ids(moved.jwks(NOW + 70.1)) == {JwtKeys.open(case.folder, JwtConfig(new), NOW + 11).signer.id}  # type: ignore[union-attr]
    again = JwtKeys.open(case.folder, JwtConfig(new), NOW + 20)
    assert claims_of(token, again.jwks(NOW + 69.9)), "a start makes it neither shorter nor longer"
    assert len(ids(again.jwks(NOW + 70.1))) == 1

    without = JwtKeys.open(case.folder, JwtConfig(), NOW + 30)
    assert len(ids(without.jwks(NOW + 30 + 299))) == 1, "taken away: the last lifetime was the default, 300 s"
    assert without.jwks(NOW + 30 + 301) == b""


async def test_a_stolen_key_is_trusted_no_more_without_the_book(case: Case) -> None:
    JwtKeys.open(case.folder, JwtConfig(key_file(case.folder, "stolen")), NOW)
    (case.folder / BOOK_FILE).unlink()
    new = JwtKeys.open(case.folder, JwtConfig(key_file(case.folder, "new")), NOW + 1)
    assert new.signer is not None
    assert ids(new.jwks(NOW + 1)) == {new.signer.id}


def ids(jwks: bytes) -> set[str]:
    return {key["kid"] for key in json.loads(jwks)["keys"]}


async def test_two_cas_with_the_same_keys_publish_the_same(case: Case, tmp_path: Path) -> None:
    config = JwtConfig(key_file(case.folder, "a"), (key_file(case.folder, "b"),))
    swapped = JwtConfig(config.other_key_files[0], (config.key_file,))
    other = tmp_path / "other"
    other.mkdir()
    assert JwtKeys.open(case.folder, config, NOW).jwks(NOW) == JwtKeys.open(other, swapped, NOW + 5).jwks(NOW)


FAULTS = {
    "missing": (None, "cannot be read: No such file"),
    "nonsense": (b"nonsense", "cannot be read as a PEM private key"),
    "encrypted": (pem(p256(), b"secret"), "is encrypted"),
    "another kind": (pem(ed25519.Ed25519PrivateKey.generate()), "must be ECDSA"),
    "another curve": (pem(ec.generate_private_key(ec.SECP521R1())), "must be ECDSA"),
    "too short": (pem(rsa_key(1024)), "RSA from 2048 bits"),
}


@pytest.mark.parametrize(("content", "line"), FAULTS.values(), ids=FAULTS)
def test_faults_of_keys_are_told_in_one_line(content: bytes | None, line: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    config = JwtConfig(str(path), (key_file(tmp_path, "good"), str(path)))
    with pytest.raises(ConfigError) as caught:
        JwtKeys.open(tmp_path, config, NOW)
    first, second = caught.value.problems
    assert first.startswith(f"jwt.keyFile: {path}: ")
    assert second.startswith(f"jwt.otherKeyFiles[1]: {path}: ")
    assert line in first
    assert not (tmp_path / BOOK_FILE).exists()


@pytest.mark.parametrize("content", [b"{", b'{"signer": {"kty": "EC"}}', b'{"version": 2}'])
def test_a_damaged_book_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / BOOK_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        JwtKeys.open(tmp_path, JwtConfig(), NOW)


def test_without_a_key_nothing_is_published_nor_written(tmp_path: Path) -> None:
    assert JwtKeys.open(tmp_path, JwtConfig(), NOW).jwks(NOW) == b""
    assert not (tmp_path / BOOK_FILE).exists()


def test_no_private_half_is_published(tmp_path: Path) -> None:
    keys = JwtKeys.open(tmp_path, JwtConfig(key_file(tmp_path, "a", rsa_key()), (key_file(tmp_path, "b"),)), NOW)
    for key in json.loads(keys.jwks(NOW))["keys"]:
        assert not key.keys() & {"d", "p", "q", "dp", "dq", "qi", "k"}
