"""The CA's own certificates: which are shown, and when their end is warned of."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import generate_latest

from node_ca.authority import Issuing
from node_ca.expiry import endings, warn
from node_ca.issuer_book import Entry, State
from node_ca.metrics import Metrics
from tests.unit.ca_files import Shape, files_of, make_ca

NOW = 1_800_000_000.0
DAY = 86400.0


def issuing(days: float, state: State = State.ACTIVE, root_days: float = 3000.0) -> Issuing:
    root = make_ca("root", shape=Shape(ends=root_days * DAY), now=NOW)
    made = make_ca("issuer", root, Shape(ends=days * DAY), now=NOW)
    signer = files_of(made, root).signer("", "cluster.local", None)
    return Issuing(Entry(signer.id, state, NOW), signer)


@pytest.mark.parametrize(
    ("days", "root_days", "state", "warned"),
    [
        (61, 3000, State.ACTIVE, []),
        (59, 3000, State.ACTIVE, ["issuer"]),
        (59, 3000, State.PREPARED, ["issuer"]),
        (400, 59, State.ACTIVE, ["root"]),
        (-1, -1, State.ACTIVE, ["issuer", "root"]),
        (59, 3000, State.RETIRING, []),
    ],
)
def test_a_line_from_sixty_days_before(
    days: float, root_days: float, state: State, warned: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hostmesh.ca"):
        warn([issuing(days, state, root_days)], NOW)
    assert [record.getMessage().split()[0] for record in caplog.records] == warned
    assert all("hostmesh ca root prepare" in record.getMessage() for record in caplog.records)


def test_a_shared_root_is_told_once_and_a_root_alone_is_a_root() -> None:
    root = make_ca("root", now=NOW)
    alone = files_of(root).signer("", "cluster.local", None)
    below = files_of(make_ca("issuer", root, now=NOW), root).signer("", "cluster.local", None)
    issuers = [Issuing(Entry(signer.id, State.ACTIVE, NOW), signer) for signer in (alone, below)]
    assert [(ending.kind, ending.subject) for ending in endings(issuers)] == [
        ("root", "CN=root"),
        ("issuer", "CN=issuer"),
    ]


def test_metrics_follow_the_issuers() -> None:
    metrics, issuers = Metrics(), [issuing(59)]
    metrics.watch_endings(lambda: endings(issuers), lambda: NOW)
    first = issuers[0].signer.id
    text = generate_latest(metrics.registry).decode()
    assert f'hostmesh_ca_certificate_days_left{{id="{first}",kind="issuer",state="active"}} 59.0' in text
    assert f'hostmesh_ca_certificate_ends_soon{{id="{first}",kind="issuer",state="active"}} 1.0' in text
    assert text.count("hostmesh_ca_certificate_ends_soon{") == 2
    issuers[0] = issuing(300)
    text = generate_latest(metrics.registry).decode()
    assert first not in text
    assert text.count("} 0.0") == 2
