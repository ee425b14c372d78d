"""The trust bundle: what is refused, which lists can't be used, what the disk keeps; what `ss` prints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from agent.adapters.clock import SystemClock
from agent.adapters.connections import Connections
from agent.adapters.identity.bundle import BundleFile, SerialsFile, bundle_of, crl_fault
from agent.errors import CaRefused, HostError
from agent.mesh.routes import Fault
from agent.mesh.trust import RevokedCertificate, TrustBundle
from agent.runtime.trust import TrustFollower
from node_ca.proto import ca_pb2
from tests.mesh_certificates import TestAuthority
from tests.waiting import eventually

AUTHORITY = TestAuthority()
ROOT = AUTHORITY.root.public_bytes(Encoding.PEM)
LISTS = AUTHORITY.revoke(AUTHORITY.root, timedelta(hours=1)) * 2


@pytest.mark.parametrize(
    "message",
    [
        ca_pb2.TrustBundle(roots_pem=b""),
        ca_pb2.TrustBundle(roots_pem=b"garbage"),
        ca_pb2.TrustBundle(roots_pem=ROOT, crls_pem=b"garbage"),
        ca_pb2.TrustBundle(roots_pem=ROOT, crls_pem=LISTS[:-40]),
        ca_pb2.TrustBundle(roots_pem=ROOT, revoked=[ca_pb2.RevokedCertificate(serial="xyz")]),
    ],
)
def test_a_bundle_that_envoy_would_refuse_is_refused(message: ca_pb2.TrustBundle) -> None:
    with pytest.raises(CaRefused, match="trust bundle is of no use"):
        bundle_of(message)


def test_lists_that_ended_or_have_not_begun_are_named() -> None:
    now = time.time()
    assert crl_fault(LISTS, now) is None
    assert crl_fault(b"", now) is None
    assert "ended" in str(crl_fault(LISTS, now + 7200))
    assert "clock is behind" in str(crl_fault(LISTS, now - 7200))


def test_the_disk_keeps_the_bundle(tmp_path: Path) -> None:
    file = BundleFile(tmp_path / "bundle.json")
    assert file.load() is None
    bundle = TrustBundle(ROOT, LISTS, (RevokedCertificate("0a", "ns/default/sa/a", 7),), "v1")
    file.store(bundle)
    assert file.load() == bundle
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(HostError, match="corrupt"):
        file.load()


class Following:
    """A CA that has one bundle."""

    def __init__(self, bundle: TrustBundle) -> None:
        self._bundle = bundle

    async def follow_bundle(self, _trust: bytes, known: str, _seconds: float) -> AsyncIterator[TrustBundle]:
        if known != self._bundle.version:
            yield self._bundle
        await asyncio.Event().wait()


class Hurried(SystemClock):
    """A clock whose seconds are short."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 1000)


async def test_a_bundle_that_the_disk_refused_is_stored_when_it_can_be(tmp_path: Path) -> None:
    bundle = TrustBundle(ROOT, version="v1")
    file = BundleFile(tmp_path / "missing" / "bundle.json")
    used: list[TrustBundle] = []
    told: list[tuple[Fault, ...]] = []
    follower = TrustFollower((Following(bundle),), file, Hurried(), used.append, told.append)
    follower.note_roots(ROOT)
    running = asyncio.create_task(follower.run())
    try:
        await eventually(lambda: _is(told))
        assert used == [bundle]
        assert "a restart would lose it" in told[0][0].reason
        (tmp_path / "missing").mkdir()
        await eventually(lambda: _is(told[-1] == ()))
        assert file.load() == bundle
    finally:
        running.cancel()


async def _is(value: object) -> object:
    return value


def test_serials_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    file = SerialsFile(tmp_path / "revoked")
    file.store(frozenset({1, 255}))
    assert file.load() == {1, 255}
    (tmp_path / "revoked").write_text("not hexadecimal")
    assert file.load() == frozenset()


class Said:
    """A runner that prints what `ss` of iproute2 6.1 printed."""

    async def run(self, argv: object, stdin: str | None = None) -> str:
        return (
            "0 0 10.0.0.1:15006 10.0.0.2:40000 cubic rto:204 lastsnd:20 lastrcv:1500 lastack:4\n"
            "0 0 [fd00::1]:15006 [fd00::2]:40001 cubic rto:204 lastsnd:20 lastack:4\n"
        )


async def test_silence_is_read_from_what_ss_prints() -> None:
    expected = {("10.0.0.2:40000", 15006): 1.5, ("[fd00::2]:40001", 15006): 0.0}
    assert await Connections(Said()).idle_times([15006]) == expected
