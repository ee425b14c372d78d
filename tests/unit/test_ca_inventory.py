"""The records in SQLite: revocation, late renewal, pruning, an older version's file, and groups of writers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from node_ca.errors import InventoryError, Refusal, RefusalKind
from node_ca.identity import WorkloadIdentity
from node_ca.inventory import SqliteInventory
from node_ca.policy import TokenRecord
from node_ca.records import (
    KEEP_ENDED,
    IssueRecord,
    LateSuccession,
    Revocation,
    Search,
    Succession,
    TokenUse,
)

NOW = 1_800_000_000
REVIEWS = WorkloadIdentity("default", "reviews")


def issue(number: int, name: str = str(REVIEWS), ends: int = NOW + 100) -> IssueRecord:
    return IssueRecord(f"{number:032x}", name, NOW - 1, ends, float(NOW), "admin", "f" * 64, "i" * 16)


def token(uses: int = 1) -> TokenRecord:
    return TokenRecord("0123456789ab", b"h" * 32, REVIEWS, NOW, NOW + 60, uses)


@pytest.fixture
async def inventory(tmp_path: Path) -> AsyncIterator[SqliteInventory]:
    opened = await SqliteInventory.open(tmp_path / "inventory.db")
    yield opened
    await opened.close()


async def found(inventory: SqliteInventory, search: Search | None = None) -> list[IssueRecord]:
    return [record async for record in inventory.search(search or Search())]


async def test_searches(inventory: SqliteInventory) -> None:
    records = [issue(number) for number in range(1200)]  # more than two pages
    await asyncio.gather(*(inventory.record_issue(record) for record in records))
    other = issue(5000, "ns/default/sa/ratings", NOW - 50)
    await inventory.record_issue(other)
    assert await found(inventory) == [*records, other]
    assert await found(inventory, Search(name=other.name)) == [other]
    assert await found(inventory, Search(serial=records[7].serial)) == [records[7]]
    assert await found(inventory, Search(ends_after=NOW)) == records


async def test_a_revoked_certificate_pays_for_nothing(inventory: SqliteInventory) -> None:
    await inventory.record_issue(issue(1))
    revoked = await inventory.revoke(Revocation(serial=issue(1).serial, reason="why"), NOW + 5)
    assert revoked.certificates == (replace(issue(1), revoked_at=NOW + 5, revoked_for="why"),)
    for claim in (Succession(issue(1).serial, NOW), LateSuccession(issue(1).serial, NOW, b"key")):
        with pytest.raises(Refusal, match="revoked") as caught:
            await inventory.record_issue(issue(2), claim)
        assert caught.value.kind is RefusalKind.PERMISSION_DENIED
    assert await found(inventory, Search(serial=issue(2).serial)) == []
    again = await inventory.revoke(Revocation(serial=issue(1).serial, reason="other"), NOW + 9)
    assert again.certificates == ()
    assert (await found(inventory))[0].revoked_for == "why"


async def test_revoked_ones_are_listed_until_they_end(inventory: SqliteInventory) -> None:
    for number, ends in ((1, NOW + 10), (2, NOW + 20)):
        await inventory.record_issue(issue(number, ends=ends))
    await inventory.revoke(Revocation(identity=REVIEWS), NOW)
    assert [record.serial for record in await inventory.revoked(NOW)] == [issue(1).serial, issue(2).serial]
    assert [record.serial for record in await inventory.revoked(NOW + 15)] == [issue(2).serial]


async def test_an_identity_is_revoked_with_its_tokens_and_with_what_has_just_ended(inventory: SqliteInventory) -> None:
    await inventory.add_token(token(uses=5))
    await inventory.record_issue(issue(1, ends=NOW - 5))
    await inventory.record_issue(issue(2, "ns/default/sa/ratings"))
    revoked = await inventory.revoke(Revocation(identity=REVIEWS), NOW)
    assert [record.serial for record in revoked.certificates] == [issue(1).serial]
    assert [record.id for record in revoked.tokens] == [token().id]
    with pytest.raises(Refusal, match="revoked"):
        await inventory.record_issue(issue(3), TokenUse(token().id, b"key"))


async def test_late_renewal_is_for_one_key(inventory: SqliteInventory) -> None:
    await inventory.record_issue(issue(1))
    for number in (2, 3):  # the answer was lost: the same key again
        await inventory.record_issue(issue(number), LateSuccession(issue(1).serial, NOW, b"key"))
    with pytest.raises(Refusal, match="once"):
        await inventory.record_issue(issue(4), LateSuccession(issue(1).serial, NOW, b"other"))


async def test_one_failure_in_a_group_is_nobody_elses(inventory: SqliteInventory) -> None:
    await inventory.add_token(token(uses=1))
    works = [
        inventory.record_issue(issue(1)),
        inventory.record_issue(issue(1)),  # the same serial number
        inventory.record_issue(issue(2), TokenUse(token().id, b"a")),
        inventory.record_issue(issue(3), TokenUse(token().id, b"b")),  # one use too many
        inventory.record_issue(issue(4)),
    ]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [type(None), InventoryError, type(None), Refusal, type(None)]
    assert [record.serial for record in await found(inventory)] == [issue(number).serial for number in (1, 2, 4)]
    (record,) = await inventory.tokens()
    assert record.used == 1


async def test_a_disk_that_fails_fails_the_whole_group(inventory: SqliteInventory, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "inventory.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")  # somebody else holds the file, as a full disk would
        works = [inventory.record_issue(issue(number)) for number in range(3)]
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        other.execute("ROLLBACK")
    assert {type(outcome) for outcome in outcomes} == {InventoryError}
    assert await found(inventory) == []
    await inventory.record_issue(issue(1))


async def test_what_ended_long_ago_is_forgotten(inventory: SqliteInventory) -> None:
    await inventory.record_issue(issue(1))
    await inventory.record_issue(issue(2, ends=NOW + 1000))
    await inventory.prune(NOW + KEEP_ENDED + 500)
    assert [record.serial for record in await found(inventory)] == [issue(2).serial]


async def test_an_older_versions_file_is_brought_up_to_date(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "inventory.db") as old:
        old.executescript(f"""
CREATE TABLE certificates (serial TEXT PRIMARY KEY, name TEXT NOT NULL, not_before INTEGER NOT NULL,
  not_after INTEGER NOT NULL, issued_at REAL NOT NULL, issued_by TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX certificates_by_name ON certificates (name, not_after);
CREATE TABLE tokens (id TEXT PRIMARY KEY, secret_hash BLOB NOT NULL, identity TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, uses INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE token_keys (token_id TEXT NOT NULL, key_hash BLOB NOT NULL,
  PRIMARY KEY (token_id, key_hash)) WITHOUT ROWID;
INSERT INTO certificates VALUES ('{1:032x}', '{REVIEWS}', {NOW}, {NOW + 9}, {NOW}, 'admin');
INSERT INTO tokens VALUES ('0123456789ab', x'00', '{REVIEWS}', {NOW}, {NOW + 60}, 3);
INSERT INTO token_keys VALUES ('0123456789ab', x'01'), ('0123456789ab', x'02');
PRAGMA user_version = 1;
""")
    inventory = await SqliteInventory.open(tmp_path / "inventory.db")
    (record,), (kept,) = await found(inventory), await inventory.tokens()
    assert (record.serial, record.fingerprint, record.revoked_at) == (f"{1:032x}", "", 0)
    assert (kept.used, kept.uses, kept.revoked_at) == (2, 3, 0)
    await inventory.close()
