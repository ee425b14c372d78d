"""The SPIFFE Workload API with a SPIFFE library that is not ours, as programs of several Unix users use it.

Certificates and tokens are a real hostmesh-ca's: the library is strict with them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import jwt
import msgspec
import pytest
from click.testing import CliRunner

from agent.adapters.clock import SystemClock
from agent.adapters.identity import new_csr, new_key
from agent.adapters.identity.administration import CaAdministration
from agent.adapters.workload_api import IssuedJwt, LocalIdentities, Svid, WorkloadApi
from agent.adapters.workload_api import workload_api_pb2 as pb
from agent.cli.main import cli
from agent.mesh.snapshot import Certificate
from tests.integration.ca_process import CaProcess
from tests.unit.ca_files import key_file, rsa_key
from tests.unit.ca_requests import p256
from tests.waiting import wait_for

PROGRAM = Path(__file__).with_name("spiffe_program.py")
REVIEWS_UID, RATINGS_UID, NOBODY_UID = 2101, 2102, 2103
HEADER = (("workload.spiffe.io", "true"),)


class World:
    """An API, and what is offered by it."""

    def __init__(self, folder: Path, ca: CaProcess) -> None:
        self.socket = folder / "workload.sock"
        self.api = WorkloadApi(self.socket, self.ask, SystemClock())
        self.held: dict[str, Certificate] = {}
        self._process = ca
        self._ca = CaAdministration(str(ca.socket))

    def svid(self, account: str) -> Svid:
        """Return a new certificate."""
        key, path = new_key(), f"ns/default/sa/{account}"
        issued = self._ca.issue(path, new_csr(key), 0)
        self.roots = issued.roots
        self.held[f"spiffe://cluster.local/{path}"] = Certificate(key, issued.chain)
        return Svid(f"spiffe://cluster.local/{path}", issued.chain, key)

    async def ask(self, spiffe_id: str, audience: tuple[str, ...]) -> IssuedJwt:
        """Get a token from the CA, as the agent does."""
        issued = await self._process.client().issue_jwt(self.held[spiffe_id], self.roots, audience)
        return IssuedJwt(issued.token, issued.lifetime)

    def offer(self, jwks: bytes = b"") -> None:
        """Offer new certificates to two users."""
        by_uid = {REVIEWS_UID: (self.svid("reviews"),), RATINGS_UID: (self.svid("ratings"), self.svid("mysql"))}
        self.api.offer(LocalIdentities(by_uid, self.roots, b"", jwks, "spiffe://cluster.local"))

    async def offer_keys(self) -> bytes:
        """Offer new certificates and the CA's keys of JWT-SVIDs; return these."""
        async for bundle in self._process.client().follow_bundle(self.roots, "", 10):
            await asyncio.to_thread(self.offer, bundle.jwks)
            return bundle.jwks
        raise AssertionError("the CA sends no bundle")


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
    argv = _as_user(uid, PROGRAM, made.socket, count)
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process.stdout
        assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _as_user(uid: int, *words: object) -> list[str]:
    """Return the command line of a Python program as another user.

    By setpriv, not by asyncio's `user=`: this makes Python fork where it would vfork, and gRPC's fork handlers, run
    between threads of its own, now and then abort the child.
    """
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, *map(str, words)]


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
    shown = CliRunner().invoke(cli, ["ca", "jwt", "keys", "--socket", str(ca.socket)])
    assert (shown.exit_code, "it has no JWT key (ca.yaml: jwt.keyFile)" in shown.output) == (1, True)


@pytest.fixture(scope="module", params=["ES256", "RS256"])
def jwt_ca(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[CaProcess]:
    folder = tmp_path_factory.mktemp("jwt")
    key = p256() if request.param == "ES256" else rsa_key()
    with CaProcess(folder / "ca", jwt={"keyFile": key_file(folder, "key", key)}) as ca:
        yield ca


async def _jwt_program(made: World, uid: int, audience: str = "db") -> dict[str, Any]:
    argv = _as_user(uid, PROGRAM.with_name("spiffe_jwt_program.py"), made.socket, audience)
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    decoded: dict[str, Any] = json.loads(output)
    return decoded


async def test_jwt_svids_for_each_of_a_users_identities(jwt_ca: CaProcess) -> None:
    """Seen by the library, by the Workload API itself, and by a JWT library with the CA's keys."""
    ratings, mysql = (f"spiffe://cluster.local/ns/default/sa/{account}" for account in ("ratings", "mysql"))
    async with world(jwt_ca) as made:
        jwks = await made.offer_keys()
        said = await _jwt_program(made, RATINGS_UID)
        assert list(said["tokens"]) == [ratings, mysql]
        assert (said["api"], said["library"], said["keys"]) == (ratings, ratings, 1)
        assert said["named"] == said["tokens"][mysql], "the same token again"
        shown = CliRunner().invoke(cli, ["ca", "jwt", "keys", "--socket", str(jwt_ca.socket)])
        assert shown.output.encode().strip() == jwks
        (key,) = jwt.PyJWKSet.from_json(shown.output).keys
        for spiffe_id, token in said["tokens"].items():
            claims = jwt.decode(token, key, audience="db", algorithms=["ES256", "RS256"])
            assert claims["sub"] == spiffe_id
            assert 200 < claims["exp"] - time.time() <= 300
        assert "PERMISSION_DENIED" in (await _jwt_program(made, NOBODY_UID))["error"]
    issued = [line for line in jwt_ca.log() if line["message"] == "jwt issued"]
    assert [line["identity"] for line in issued] == ["ns/default/sa/ratings", "ns/default/sa/mysql"]
    assert not any(token in jwt_ca.log_path.read_text() for token in said["tokens"].values())


async def test_what_is_refused_of_jwt_svids(jwt_ca: CaProcess) -> None:
    me = os.getuid()
    async with world(jwt_ca) as made:
        await made.offer_keys()
        svid = await asyncio.to_thread(made.svid, "reviews")
        known = made.api.known
        made.api.offer(msgspec.structs.replace(known, by_uid={me: (svid,)}))

        async def fetch(*audience: str, spiffe_id: str = "", metadata: Any = HEADER) -> grpc.StatusCode:
            asked = pb.JWTSVIDRequest(audience=audience, spiffe_id=spiffe_id)
            return await _call(made, "FetchJWTSVID", asked, pb.JWTSVIDResponse, metadata)

        async def validate(token: str, audience: str = "db") -> grpc.StatusCode:
            asked = pb.ValidateJWTSVIDRequest(svid=token, audience=audience)
            return await _call(made, "ValidateJWTSVID", asked, pb.ValidateJWTSVIDResponse, HEADER)

        assert await fetch("db", metadata=None) is grpc.StatusCode.INVALID_ARGUMENT
        assert await fetch() is grpc.StatusCode.INVALID_ARGUMENT
        assert await fetch("db", "") is grpc.StatusCode.INVALID_ARGUMENT
        others = "spiffe://cluster.local/ns/default/sa/ratings"
        assert await fetch("db", spiffe_id=others) is grpc.StatusCode.PERMISSION_DENIED
        assert await fetch("x" * 300) is grpc.StatusCode.PERMISSION_DENIED, "the CA says why"
        token = (await made.ask(svid.spiffe_id, ("db",))).token
        assert await validate(token, "other") is grpc.StatusCode.INVALID_ARGUMENT
        assert await validate(token, "") is grpc.StatusCode.INVALID_ARGUMENT
        assert await validate(token[:-20]) is grpc.StatusCode.INVALID_ARGUMENT
        await asyncio.to_thread(
            CaAdministration(str(jwt_ca.socket)).revoke, "", svid.spiffe_id.removeprefix("spiffe://cluster.local/"), ""
        )
        assert await fetch("db") is grpc.StatusCode.PERMISSION_DENIED, "revoked"


async def test_a_replaced_jwt_key_is_trusted_until_its_last_token_ends(tmp_path: Path) -> None:
    """Next key published, then signing, then the old one away: a token of any moment is believed all its life."""
    old, new = key_file(tmp_path, "old"), key_file(tmp_path, "new")
    steps: list[dict[str, Any]] = [{"keyFile": old, "otherKeyFiles": [new]}, {"keyFile": new}]
    ca = CaProcess(tmp_path / "ca", jwt={"keyFile": old, "lifetime": "60s"})
    with ca:
        async with world(ca) as made:
            before = await made.offer_keys()
            tokens = [await _token(made)]
            published = []
            for step in steps:
                ca.stop()
                ca.configure(jwt=step | {"lifetime": "60s"})
                await asyncio.to_thread(ca.start)
                published.append(await made.offer_keys())
                tokens.append(await _token(made))
                for token in tokens:
                    assert await _accepted(made, token)
            assert [len(json.loads(jwks)["keys"]) for jwks in (before, *published)] == [1, 2, 2]
            kids = [jwt.get_unverified_header(token)["kid"] for token in tokens]
            assert kids[0] == kids[1] != kids[2]


async def _token(made: World) -> str:
    return (await made.ask("spiffe://cluster.local/ns/default/sa/reviews", ("db",))).token


async def _accepted(made: World, token: str) -> bool:
    async with grpc.aio.insecure_channel(f"unix:{made.socket}") as channel:
        call = channel.unary_unary(
            "/SpiffeWorkloadAPI/ValidateJWTSVID",
            request_serializer=pb.ValidateJWTSVIDRequest.SerializeToString,
            response_deserializer=pb.ValidateJWTSVIDResponse.FromString,
        )
        answer = await call(pb.ValidateJWTSVIDRequest(svid=token, audience="db"), metadata=HEADER, timeout=10)
        return bool(answer.claims["sub"] == answer.spiffe_id)
