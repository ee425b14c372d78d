"""Root rotation: which step may be taken when, what is trusted meanwhile, and what a kill at any write leaves."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from node_ca.authority import Authority
from node_ca.consul import Consul
from node_ca.errors import ConfigError, Refusal, RefusalKind
from node_ca.identity import WorkloadIdentity
from node_ca.inventory import SqliteInventory
from node_ca.issuer import Issuer
from node_ca.issuer_book import BOOK_FILE, State
from node_ca.issuer_files import KEY_FILE, IssuerFiles
from node_ca.replicas import Replicas
from node_ca.request import CertificateRequest
from node_ca.rotation import RootRotation
from node_ca.template import Validity, workload_template
from node_ca.trust import RevokedCertificate, TrustBundle
from tests.unit.ca_files import Shape, files_of, make_ca
from tests.unit.ca_requests import csr

NOW = 1_800_000_000.0
MADE = IssuerFiles(b"", b"")
IDENTITY = "ns/default/sa/reviews"


class Ca:
    """An authority with its records and a clock of its own."""

    def __init__(self, directory: Path, inventory: SqliteInventory) -> None:
        self.directory, self.now, self.published = directory, NOW, 0
        self.inventory = inventory
        self.reopen()

    def reopen(self) -> None:
        """Start it anew."""
        self.authority = Authority.open(self.directory, "cluster.local", self.now)
        clock = lambda: self.now  # noqa: E731
        self.rotation = RootRotation(self.authority, self.inventory, self._publish, lambda: "v1", clock)
        self.issuer = Issuer(self.authority, self.inventory, "cluster.local", Validity(3600), clock)

    async def _publish(self) -> None:
        self.published += 1

    async def issue(self) -> bytes:
        """Issue a certificate for an hour."""
        return (await self.issuer.issue_directly(csr(), IDENTITY, 0)).chain_pem

    def states(self) -> dict[str, State]:
        """Return the issuers' states."""
        return {issuing.entry.id: issuing.entry.state for issuing in self.authority.issuers}


@pytest.fixture
async def ca(tmp_path: Path) -> Ca:
    return Ca(tmp_path, await SqliteInventory.open(tmp_path / "inventory.db"))


def roots(authority: Authority) -> int:
    return len(x509.load_pem_x509_certificates(authority.trust_bundle_pem))


async def refused(step: object) -> str:
    with pytest.raises(Refusal) as caught:
        await step  # type: ignore[misc]
    assert caught.value.kind is RefusalKind.FAILED_PRECONDITION
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_whole_rotation(ca: Ca) -> None:
    old = ca.authority.active.id
    await ca.issue()
    prepared = await ca.rotation.prepare(MADE, 0)
    new = prepared.issuing.entry.id
    assert (roots(ca.authority), ca.authority.active.id) == (2, old), "trusted before it signs"
    assert len(x509.load_pem_x509_crl(ca.authority.crls_pem({}, NOW)).issuer.rdns) == 1
    assert ca.authority.crls_pem({}, NOW).count(b"BEGIN X509 CRL") == 2, "a list for each"

    assert "1 were issued before it was prepared" in await refused(ca.rotation.activate("", "", force=False))
    assert "1 were" in await refused(ca.rotation.activate("", "v0", force=False)), "of another bundle"
    ca.now += 1800
    renewed = await ca.issue()
    ca.now += 1800
    await ca.rotation.activate("", "", force=False)  # all that hold came with the new root
    assert ca.states() == {old: State.RETIRING, new: State.ACTIVE}
    assert roots(ca.authority) == 2

    assert "hold until 2027-01-15T09:30:00Z" in await refused(ca.rotation.retire("", force=False))
    assert renewed
    ca.now += 1801
    assert (await ca.rotation.retire("", force=False)).issuing.entry.id == old
    assert ca.states() == {new: State.ACTIVE}
    assert (roots(ca.authority), ca.published) == (1, 3)
    assert not (ca.directory / KEY_FILE).exists(), "its key is gone"
    ca.reopen()
    assert ca.authority.active.id == new


async def test_acknowledged_by_all_hosts_nobody_is_waited_for(ca: Ca) -> None:
    await ca.issue()
    await ca.rotation.prepare(MADE, 0)
    await ca.rotation.activate("", "v1", force=False)
    await ca.issue()
    listed = {known.issuing.entry.state: known.last_certificate_ends for known in await ca.rotation.list()}
    assert listed == {State.RETIRING: int(NOW) + 3600, State.ACTIVE: int(NOW) + 3600}


async def test_force_and_steps_at_the_wrong_time(ca: Ca) -> None:
    assert "no issuer is prepared" in await refused(ca.rotation.activate("", "", force=True))
    assert "no issuer is retiring" in await refused(ca.rotation.retire("", force=True))
    active = ca.authority.active.id
    assert "is active, it must be prepared" in await refused(ca.rotation.activate(active, "", force=True))
    assert "is active, it must be retiring" in await refused(ca.rotation.retire(active, force=True))
    await ca.issue()
    await ca.rotation.prepare(MADE, 0)
    assert "is prepared already" in await refused(ca.rotation.prepare(MADE, 0))
    await ca.rotation.activate("", "", force=True)
    await ca.rotation.retire("", force=True)
    with pytest.raises(Refusal, match="there is none"):
        await ca.rotation.activate("0123", "", force=True)


async def test_a_prepared_root_can_be_dropped(ca: Ca) -> None:
    prepared = (await ca.rotation.prepare(MADE, 7200)).issuing
    assert prepared.signer.ends.timestamp() == NOW + 7200
    await ca.rotation.retire(prepared.entry.id, force=False)
    assert (roots(ca.authority), list((ca.directory / "issuers").iterdir())) == (1, [])


@pytest.mark.parametrize("lifetime", [-1, 10, 40 * 365 * 86400])
async def test_lifetimes_of_roots(ca: Ca, lifetime: int) -> None:
    with pytest.raises(Refusal, match="are allowed"):
        await ca.rotation.prepare(MADE, lifetime)


async def test_a_root_that_other_cas_would_not_have_is_not_made(ca: Ca) -> None:
    shared = RootRotation(
        ca.authority,
        ca.inventory,
        ca._publish,
        lambda: "v1",
        lambda: NOW,
        replicas=Replicas(Consul("http://x"), "a", "h"),
    )
    with pytest.raises(Refusal, match="give each of them the same files"):
        await shared.prepare(MADE, 0)
    await shared.prepare(files_of(make_ca("theirs", now=NOW)), 0)


def test_cas_with_the_same_issuers_and_records_have_the_same_version() -> None:
    revoked = (RevokedCertificate("1", "ns/a/sa/b", "f", 1, 2),)
    one = TrustBundle("cluster.local", b"roots", b"signed by one", ("a", "b"), revoked)
    assert one.version == replace(one, crls_pem=b"signed by the other").version
    first, second = (b"%d-----END CERTIFICATE-----\n" % number for number in (1, 2))
    assert replace(one, roots_pem=first + second).version == replace(one, roots_pem=second + first).version
    others = [{"jwks": b"{}"}, {"trust_domain": "x"}, {"roots_pem": b"x"}, {"issuers": ("a",)}, {"revoked": ()}]
    assert all(replace(one, **change).version != one.version for change in others)  # type: ignore[arg-type]


async def test_to_a_plugged_in_issuer_and_back(ca: Ca, tmp_path: Path) -> None:
    root = make_ca("their root", now=NOW)
    files = files_of(make_ca("their issuer", root, Shape(path_length=0), now=NOW), root)
    with pytest.raises(Refusal, match=r"ca-key\.pem: missing"):
        await ca.rotation.prepare(IssuerFiles(b"", files.certificate), 0)
    await ca.rotation.prepare(files, 0)
    await ca.rotation.activate("", "", force=True)
    ca.reopen()
    chain = x509.load_pem_x509_certificates(await ca.issue())
    assert [certificate.issuer.rfc4514_string() for certificate in chain] == ["CN=their issuer", "CN=their root"]
    with pytest.raises(Refusal, match="is one of this CA's already"):
        await ca.rotation.prepare(files, 0)
    await ca.rotation.prepare(MADE, 0)
    await ca.rotation.activate("", "", force=True)
    assert sorted(ca.states().values()) == [State.ACTIVE, State.RETIRING, State.RETIRING]


async def test_openssl_takes_certificates_of_all_that_are_trusted(ca: Ca, tmp_path: Path) -> None:
    first = ca.authority.active
    await ca.rotation.prepare(MADE, 0)
    await ca.rotation.activate("", "", force=True)
    request, identity = CertificateRequest.from_pem(csr()), WorkloadIdentity("default", "reviews")
    (tmp_path / "roots").write_bytes(ca.authority.trust_bundle_pem)
    gone = workload_template(request, identity, "cluster.local", Validity(3600), NOW)
    lists = ca.authority.crls_pem({first.id: {gone.serial: int(NOW)}}, NOW)
    (tmp_path / "lists").write_bytes(lists)

    def verified(certificate: x509.Certificate) -> str:
        (tmp_path / "leaf").write_bytes(certificate.public_bytes(Encoding.PEM))
        files = ("-CAfile", tmp_path / "roots", "-CRLfile", tmp_path / "lists", tmp_path / "leaf")
        command = ("openssl", "verify", "-x509_strict", "-crl_check_all", "-attime", str(int(NOW)), *files)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    for signer in (first, ca.authority.active):
        template = workload_template(request, identity, "cluster.local", Validity(3600), NOW)
        assert verified(signer.sign(template)).endswith(": OK\n")
    assert "certificate revoked" in verified(first.sign(gone))


class Killed(BaseException):
    """The process ended here."""


@pytest.mark.parametrize("step", ["prepare", "activate", "retire"])
async def test_a_kill_at_any_write_leaves_the_step_done_or_not_done(
    ca: Ca, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every durable write is a moment of death in turn: before it, and just after it."""
    if step != "prepare":
        await ca.rotation.prepare(MADE, 0)
    if step == "retire":
        await ca.rotation.activate("", "", force=True)
    before = ca.states()
    seen = set()
    for deaths in range(40):
        with monkeypatch.context() as patch:
            _die_at(patch, deaths)
            try:
                await _take(ca, step)
                died = False
            except Killed:
                died = True
        ca.reopen()
        after = ca.states()
        assert list(after.values()).count(State.ACTIVE) == 1
        assert ca.authority.sign(
            workload_template(
                CertificateRequest.from_pem(csr()), WorkloadIdentity("a", "b"), "cluster.local", Validity(60), NOW
            )
        )
        kept = {path.name for path in (ca.directory / "issuers").iterdir()} if step == "prepare" else set()
        assert kept <= set(after), "no key is left that the book does not name"
        seen.add(after == before)
        if after != before:
            break
    assert not died or after != before
    assert seen == {True, False}, "some deaths came before the step was taken, and in the end it was"


async def _take(ca: Ca, step: str) -> None:
    if step == "prepare":
        await ca.rotation.prepare(MADE, 0)
    elif step == "activate":
        await ca.rotation.activate("", "", force=True)
    else:
        await ca.rotation.retire("", force=True)


def _die_at(patch: pytest.MonkeyPatch, moment: int) -> None:
    """Die at that many system calls that make something durable (fsync, rename, unlink)."""
    left = moment

    def counted(real: object) -> object:
        def call(*arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return real(*arguments, **named)  # type: ignore[operator]

        return call

    patch.setattr(os, "fsync", counted(os.fsync))
    patch.setattr(Path, "rename", counted(Path.rename))
    patch.setattr(Path, "unlink", counted(Path.unlink))


async def test_a_damaged_book_is_told(ca: Ca) -> None:
    (ca.directory / BOOK_FILE).write_text('{"issuers": []}')
    with pytest.raises(ConfigError, match="one issuer must be active"):
        ca.reopen()
    (ca.directory / BOOK_FILE).write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        ca.reopen()


async def test_new_files_beside_a_retired_issuer_are_not_taken_away(ca: Ca) -> None:
    await ca.rotation.prepare(MADE, 0)
    await ca.rotation.activate("", "", force=True)
    await ca.rotation.retire("", force=True)
    files_of(make_ca("another", now=NOW)).write(ca.directory)
    ca.reopen()
    assert (ca.directory / KEY_FILE).exists()
