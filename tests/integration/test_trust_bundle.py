"""The agent's follower of the trust bundle against a real hostmesh-ca: changes come at once, what is had stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agent.adapters.clock import SystemClock
from agent.adapters.identity import new_key
from agent.adapters.identity.administration import CaAdministration
from agent.adapters.identity.bundle import BundleFile
from agent.mesh.routes import Fault
from agent.mesh.service import Identity
from agent.mesh.trust import TrustBundle
from agent.runtime.trust import TrustFollower
from tests.integration.ca_process import CaProcess

REVIEWS = Identity("default", "reviews")


class Seen:
    """What a follower has said."""

    def __init__(self) -> None:
        self.bundles: list[TrustBundle] = []
        self.faults: tuple[Fault, ...] = ()
        self._changed = asyncio.Event()

    def on_bundle(self, bundle: TrustBundle) -> None:
        self.bundles.append(bundle)
        self._changed.set()

    def on_faults(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        self._changed.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def following(ca: CaProcess, *others: CaProcess, roots: bytes = b"") -> AsyncIterator[Seen]:
    seen, file = Seen(), BundleFile(ca.directory / "bundle.json")
    sources = tuple(each.client() for each in (*others, ca))
    follower = TrustFollower(sources, file, SystemClock(), seen.on_bundle, seen.on_faults)
    follower.note_roots(roots)
    task = asyncio.create_task(follower.run())
    try:
        yield seen
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_revocation_arrives_at_once_and_outlives_the_ca_and_the_agent(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        issued = await ca.client().enrol(REVIEWS, new_key(), ca.token(REVIEWS.path))
        async with following(ca, roots=issued.trust_bundle_pem) as seen:
            await seen.until(lambda: bool(seen.bundles))
            assert seen.bundles[0].roots_pem == issued.trust_bundle_pem
            assert not seen.bundles[0].revoked
            started = time.monotonic()
            await asyncio.to_thread(CaAdministration(str(ca.socket)).revoke, issued.leaf.serial, "", "test")
            await seen.until(lambda: len(seen.bundles) > 1)
            assert time.monotonic() - started < 2
            assert [each.number for each in seen.bundles[1].revoked] == [int(issued.leaf.serial, 16)]
            await asyncio.to_thread(ca.kill)
            await seen.until(lambda: any("the last known bundle holds" in fault.reason for fault in seen.faults))
            await asyncio.to_thread(ca.start)
            await seen.until(lambda: not seen.faults)
            await asyncio.to_thread(ca.stop)
        async with following(ca) as later:
            await later.until(lambda: bool(later.bundles))
            assert later.bundles[0] == seen.bundles[-1], "from the disk, while the CA is away"


async def test_the_first_ca_that_answers_is_followed(tmp_path: Path) -> None:
    gone = CaProcess(tmp_path / "gone")
    with CaProcess(tmp_path / "ca") as ca:
        async with following(ca, gone, roots=ca.root_path.read_bytes()) as seen:
            await seen.until(lambda: bool(seen.bundles), 5)
            assert not seen.faults


async def test_what_answers_but_is_not_the_ca_is_not_believed(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca, CaProcess(tmp_path / "other") as other:
        async with following(ca, roots=other.root_path.read_bytes()) as seen:
            await seen.until(lambda: any("hostmesh-ca at" in fault.reason for fault in seen.faults))
            assert not seen.bundles
