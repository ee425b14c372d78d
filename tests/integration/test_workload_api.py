"""The SPIFFE Workload API with a SPIFFE library that is not ours, as programs of several Unix users use it.

The certificates are a real hostmesh-ca's: the library is strict with them.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.adapters.identity import new_csr, new_key
from agent.adapters.identity.administration import CaAdministration
from agent.adapters.workload_api import LocalIdentities, Svid, WorkloadApi
from agent.adapters.workload_api import workload_api_pb2 as pb
from tests.integration.ca_process import CaProcess
from tests.waiting import wait_for

PROGRAM = Path(__file__).with_name("spiffe_program.py")
REVIEWS_UID, RATINGS_UID, NOBODY_UID = 2101, 2102, 2103
HEADER = (("workload.spiffe.io", "true"),)


class World:
    """An API, and what is offered by it."""

    def __init__(self, folder: Path, ca: CaProcess) -> None:
        self.socket = folder / "workload.sock"
        self.api = WorkloadApi(self.socket)
        self._ca = CaAdministration(str(ca.socket))

    def svid(self, account: str) -> Svid:
        """Return a new certificate."""
        key, path = new_key(), f"ns/default/sa/{account}"
        issued = self._ca.issue(path, new_csr(key), 0)
        self._roots = issued.roots
        return Svid(f"spiffe://cluster.local/{path}", issued.chain, key)

    def offer(self) -> None:
        """Offer new certificates to two users."""
        by_uid = {REVIEWS_UID: (self.svid("reviews"),), RATINGS_UID: (self.svid("ratings"), self.svid("mysql"))}
        self.api.offer(LocalIdentities(by_uid, self._roots))


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaProcess]:
    with CaProcess(tmp_path_factory.mktemp("ca") / "ca") as ca:
        yield ca


@asynccontextmanager
async def world(ca: CaProcess) -> AsyncIterator[World]:
    folder = _folder_for_all()
    made = World(folder, ca)
    await asyncio.to_thread(made.offer)
    task = asyncio.create_task(made.api.run())
    try:
        await asyncio.to_thread(wait_for, lambda: made.socket.exists() or task.done(), "the API listens")
        yield made
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        shutil.rmtree(folder)


def _folder_for_all() -> Path:
    """Make a folder that other users can enter, too."""
    folder = Path(tempfile.mkdtemp(prefix="hostmesh-test-"))
    folder.chmod(0o755)
    return folder


@asynccontextmanager
async def program(made: World, uid: int, count: int) -> AsyncIterator[asyncio.StreamReader]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), str(made.socket), str(count), stdout=asyncio.subprocess.PIPE, user=uid, group=uid
    )
    try:
        assert process.stdout is not None
        yield process.stdout
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line(output: asyncio.StreamReader) -> dict[str, object]:
    decoded: dict[str, object] = json.loads(await asyncio.wait_for(output.readline(), 20))
    return decoded


async def test_each_user_gets_its_own_identity_and_hears_of_the_next_certificate(ca: CaProcess) -> None:
    async with world(ca) as made, program(made, REVIEWS_UID, 2) as reviews, program(made, RATINGS_UID, 1) as ratings:
        first = await line(reviews)
        assert first["id"] == "spiffe://cluster.local/ns/default/sa/reviews"
        assert first["roots"] == 1
        assert (await line(ratings))["id"] == "spiffe://cluster.local/ns/default/sa/ratings", "the first one's"
        await asyncio.to_thread(made.offer)
        second = await line(reviews)
        assert second["id"] == first["id"]
        assert second["serial"] != first["serial"]


async def test_a_user_without_a_workload_gets_nothing(ca: CaProcess) -> None:
    async with world(ca) as made, program(made, NOBODY_UID, 1) as nobody:
        assert "PERMISSION_DENIED" in str((await line(nobody))["error"])


async def _call(made: World, method: str, request: Any, response: Any, metadata: Any) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"unix:{made.socket}") as channel:
        call = channel.unary_unary(
            f"/SpiffeWorkloadAPI/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request, metadata=metadata, timeout=10)
        assert refused.value.details()
        code: grpc.StatusCode = refused.value.code()
        return code


async def test_what_the_standard_refuses_is_refused(ca: CaProcess) -> None:
    async with world(ca) as made:
        asked = "FetchX509SVID", pb.X509SVIDRequest(), pb.X509SVIDResponse
        assert await _call(made, *asked, None) is grpc.StatusCode.INVALID_ARGUMENT
        assert await _call(made, *asked, (("workload.spiffe.io", "false"),)) is grpc.StatusCode.INVALID_ARGUMENT
        assert await _call(made, *asked, HEADER) is grpc.StatusCode.PERMISSION_DENIED, "root has no workload"
        wanted = pb.JWTSVIDRequest(audience=["x"])
        assert await _call(made, "FetchJWTSVID", wanted, pb.JWTSVIDResponse, HEADER) is grpc.StatusCode.UNIMPLEMENTED
