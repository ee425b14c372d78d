"""Keys on the disk: whole, private, and never trusted blindly."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.adapters.identity import KeyStore, StoredCertificate, TokenFile, is_for_other_ca, new_csr, new_key
from agent.adapters.identity.keys import read_chain
from agent.errors import HostError
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate
from node_ca.authority import Authority
from node_ca.identity import WorkloadIdentity
from node_ca.proto.token import JoinToken
from node_ca.request import CertificateRequest
from node_ca.template import Validity, workload_template

REVIEWS = Identity("default", "bookinfo-reviews")


def issued(directory: Path, identity: Identity = REVIEWS, key_pem: bytes | None = None) -> StoredCertificate:
    """Return what an agent would store, signed by a real authority."""
    directory.mkdir(exist_ok=True)
    now = time.time()
    authority = Authority.open(directory, "cluster.local", now)
    key_pem = key_pem or new_key()
    request = CertificateRequest.from_pem(new_csr(key_pem))
    workload = WorkloadIdentity(identity.namespace, identity.service_account)
    template = workload_template(request, workload, "cluster.local", Validity(60), now)
    chain = authority.sign(template).public_bytes(Encoding.PEM)
    leaf = read_chain(key_pem, chain, identity)
    return StoredCertificate(Certificate(key_pem, chain), leaf, authority.root_pem, 1000.5, 1030.25)


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    store, stored = KeyStore(tmp_path / "keys"), issued(tmp_path / "ca")
    assert store.load(REVIEWS) is None
    store.store(REVIEWS, stored)
    assert store.load(REVIEWS) == stored
    (path,) = (tmp_path / "keys").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_new_generation_replaces_the_whole(tmp_path: Path) -> None:
    store, first, second = KeyStore(tmp_path / "keys"), issued(tmp_path / "ca"), issued(tmp_path / "ca")
    store.store(REVIEWS, first)
    store.store(REVIEWS, second)
    assert store.load(REVIEWS) == second


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.6, 0.99])
def test_a_cut_file_is_corrupt_never_half_believed(tmp_path: Path, share: float) -> None:
    store = KeyStore(tmp_path / "keys")
    store.store(REVIEWS, issued(tmp_path / "ca"))
    (path,) = (tmp_path / "keys").iterdir()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(HostError, match="corrupt"):
        store.load(REVIEWS)
    store.store(REVIEWS, issued(tmp_path / "ca"))
    assert store.load(REVIEWS)


def test_a_foreign_key_or_certificate_is_corrupt(tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "keys")
    good, other = issued(tmp_path / "ca"), issued(tmp_path / "ca", Identity("default", "ratings"))
    mixed = Certificate(other.certificate.key_pem, good.certificate.chain_pem)
    store.store(REVIEWS, StoredCertificate(mixed, good.leaf, good.trust_bundle_pem, 1, 2))
    with pytest.raises(HostError, match="do not belong together"):
        store.load(REVIEWS)
    store.store(REVIEWS, other)
    with pytest.raises(HostError, match="not for ns/default/sa/bookinfo-reviews"):
        store.load(REVIEWS)


def test_the_key_of_an_unanswered_enrolment_is_kept_until_the_answer(tmp_path: Path) -> None:
    store, key = KeyStore(tmp_path / "keys"), new_key()
    store.store_enrolling_key(REVIEWS, key)
    assert KeyStore(tmp_path / "keys").load_enrolling_key(REVIEWS) == key
    store.store(REVIEWS, issued(tmp_path / "ca", key_pem=key))
    assert store.load_enrolling_key(REVIEWS) is None


def test_names_never_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot name a key file"):
        KeyStore(tmp_path).load(Identity("default", "../../etc/passwd"))


def test_tokens_of_a_file(tmp_path: Path) -> None:
    path, ratings = tmp_path / "join-token", Identity("default", "ratings")
    tokens = TokenFile(path)
    assert tokens.token_for(REVIEWS) is None
    path.write_text("hmt1.one\n")
    assert tokens.token_for(REVIEWS) == tokens.token_for(ratings) == "hmt1.one"
    path.write_text("# tokens\nns/default/sa/ratings hmt1.two\nns/default/sa/bookinfo-reviews hmt1.three\n")
    assert (tokens.token_for(REVIEWS), tokens.token_for(ratings)) == ("hmt1.three", "hmt1.two")
    assert tokens.token_for(Identity("default", "details")) is None
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(HostError, match="not ASCII"):
        tokens.token_for(REVIEWS)


def test_a_token_tells_of_a_new_ca(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir()
    authority = Authority.open(tmp_path / "ca", "cluster.local", time.time())
    assert not is_for_other_ca(JoinToken.new(authority.root_fingerprint).text(), authority.root_pem)
    assert is_for_other_ca(JoinToken.new(b"\x01" * 32).text(), authority.root_pem)
    assert not is_for_other_ca("garbage", authority.root_pem)
