"""Issuing with a real inventory: tokens are spent with the record or not at all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from node_ca.authority import Authority
from node_ca.errors import InventoryError, Refusal, RefusalKind
from node_ca.inventory import SqliteInventory
from node_ca.issuer import Issuer
from node_ca.records import IssueRecord, Search
from node_ca.registrar import Registrar
from node_ca.template import Validity
from tests.unit.ca_requests import csr, forged_csr, greedy_csr, p256

NOW = 1_800_000_000.0
IDENTITY = "ns/default/sa/reviews"


class SetClock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Case:
    """An issuer on a fresh state directory."""

    def __init__(self, directory: Path, inventory: SqliteInventory) -> None:
        self.directory = directory
        self.inventory = inventory
        self.clock = SetClock()
        authority = Authority.open(directory, "cluster.local", NOW)
        self.issuer = Issuer(authority, inventory, "cluster.local", Validity(10), self.clock, grace=5)
        self.published = 0
        self.registrar = Registrar(inventory, lambda: authority.root_fingerprint, self.publish, self.clock)

    async def publish(self) -> None:
        self.published += 1

    async def issues(self, name: str = "") -> list[IssueRecord]:
        return [record async for record in self.inventory.search(Search(name=name))]

    async def token(self, uses: int = 1, ttl: int = 60) -> str:
        token, _ = await self.registrar.create_token(IDENTITY, ttl, uses)
        return token.text()

    async def refusal(self, csr_pem: bytes, token: str, wanted: str = "") -> RefusalKind:
        with pytest.raises(Refusal) as caught:
            await self.issuer.enrol(csr_pem, token, wanted)
        assert token.split(".")[2] not in str(caught.value)
        return caught.value.kind


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[Case]:
    inventory = await SqliteInventory.open(tmp_path / "inventory.db")
    yield Case(tmp_path, inventory)
    await inventory.close()


async def test_an_issue_is_recorded(case: Case) -> None:
    token = await case.token()
    issued = await case.issuer.enrol(csr(), token, IDENTITY)
    (record,) = await case.issues(IDENTITY)
    leaf = x509.load_pem_x509_certificate(issued.chain_pem)
    assert record == issued.record
    assert int(record.serial, 16) == leaf.serial_number
    assert record.issued_by == f"token:{token.split('.')[1]}"
    assert record.not_after == leaf.not_valid_after_utc.timestamp()


async def test_a_token_is_used_once(case: Case) -> None:
    token = await case.token()
    await case.issuer.enrol(csr(), token)
    assert await case.refusal(csr(), token) is RefusalKind.UNAUTHENTICATED


async def test_the_same_key_may_come_again_while_the_token_lives(case: Case) -> None:
    token, key = await case.token(), p256()
    first = await case.issuer.enrol(csr(key), token)
    second = await case.issuer.enrol(csr(key), token)
    assert first.record.serial != second.record.serial
    case.clock.now += 61
    assert await case.refusal(csr(key), token) is RefusalKind.UNAUTHENTICATED


async def test_uses_hold_under_simultaneous_callers(case: Case) -> None:
    token = await case.token(uses=3)
    answers = await asyncio.gather(*(case.issuer.enrol(csr(), token) for _ in range(20)), return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(answers) - len(refusals) == 3
    assert all(isinstance(refusal, Refusal) for refusal in refusals)
    assert len(await case.issues(IDENTITY)) == 3


@pytest.mark.parametrize(
    ("csr_pem", "wanted", "kind"),
    [
        (b"nonsense", "", RefusalKind.INVALID_ARGUMENT),
        (forged_csr(), "", RefusalKind.INVALID_ARGUMENT),
        (csr(), "ns/default/sa/ratings", RefusalKind.PERMISSION_DENIED),
        (csr(uris=("spiffe://cluster.local/ns/default/sa/ratings",)), "", RefusalKind.PERMISSION_DENIED),
    ],
    ids=["garbage", "forged", "other identity", "other identity in the CSR"],
)
async def test_a_refused_request_does_not_spend_the_token(
    case: Case, csr_pem: bytes, wanted: str, kind: RefusalKind
) -> None:
    token = await case.token()
    assert await case.refusal(csr_pem, token, wanted) is kind
    assert not await case.issues()
    await case.issuer.enrol(greedy_csr(), token)


async def test_a_failed_record_spends_nothing_and_issues_nothing(case: Case) -> None:
    token = await case.token()
    other = sqlite3.connect(case.directory / "inventory.db")
    other.execute("CREATE TRIGGER full BEFORE INSERT ON certificates BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    with pytest.raises(InventoryError, match="disk is full"):
        await case.issuer.enrol(csr(), token)
    other.execute("DROP TRIGGER full")
    other.close()
    assert [record.used for record in await case.inventory.tokens()] == [0]
    await case.issuer.enrol(csr(), token)


async def test_tokens_are_kept_hashed(case: Case) -> None:
    token = await case.token()
    content = b"".join(path.read_bytes() for path in case.directory.glob("inventory.db*"))
    assert token.split(".")[1].encode() in content
    assert token.split(".")[2].encode() not in content


@pytest.mark.parametrize("token", ["", "hmt1.x", "\N{SNOWMAN}", "hmt1.000000000000." + "A" * 22 + "." + "A" * 43])
async def test_unknown_tokens(case: Case, token: str) -> None:
    with pytest.raises(Refusal) as caught:
        await case.issuer.enrol(csr(), token)
    assert caught.value.kind is RefusalKind.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("identity", "ttl", "uses"),
    [("reviews", 60, 1), (IDENTITY, -1, 1), (IDENTITY, 31 * 86400, 1), (IDENTITY, 60, -1), (IDENTITY, 60, 10**6)],
)
async def test_bounds_of_new_tokens(case: Case, identity: str, ttl: int, uses: int) -> None:
    with pytest.raises(Refusal) as caught:
        await case.registrar.create_token(identity, ttl, uses)
    assert caught.value.kind is RefusalKind.INVALID_ARGUMENT


async def test_long_dead_tokens_are_forgotten(case: Case) -> None:
    await case.token()
    case.clock.now += 40 * 86400
    await case.token()
    await case.inventory.prune(case.clock.now)
    assert len(await case.inventory.tokens()) == 1


async def test_a_serial_is_never_recorded_twice(case: Case) -> None:
    record = IssueRecord("00" * 16, IDENTITY, 0, 1, NOW, "ca")
    await case.inventory.record_issue(record)
    with pytest.raises(InventoryError):
        await case.inventory.record_issue(record)


async def test_another_versions_file_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "inventory.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InventoryError, match="another version"):
        await SqliteInventory.open(tmp_path / "inventory.db")
