"""Several hostmesh-ca with one plugged-in issuer and their records in a Consul that denies by default; Consul entry."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.adapters.consul.policies import ca_policy
from agent.adapters.identity import CaGroup, IssuedChain, new_csr, new_key
from agent.adapters.identity.administration import CaAdministration
from agent.adapters.identity.ca_client import IssuedToken
from agent.errors import CaRefused, CaUnavailable
from agent.mesh.service import Identity
from node_ca.proto import ca_pb2, ca_pb2_grpc
from tests.integration.ca_process import CaProcess
from tests.integration.consul_process import ConsulProcess
from tests.integration.operator_mesh import DENYING, token
from tests.unit.ca_files import files_of, key_file, make_ca
from tests.waiting import eventually

REVIEWS = Identity("default", "reviews")
Code = grpc.StatusCode


@dataclass
class Replicas:
    """Two CAs, and the Consul that they share."""

    consul: ConsulProcess
    first: CaProcess
    second: CaProcess
    root: bytes

    @property
    def both(self) -> tuple[CaProcess, CaProcess]:
        return self.first, self.second


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with asyncio.Runner() as runner:
        context = _replicas(tmp_path_factory.mktemp("replicas"))
        made = runner.run(context.__aenter__())
        try:
            yield made
        finally:
            runner.run(context.__aexit__(None, None, None))


@asynccontextmanager
async def _replicas(folder: Path, lifetime: str = "1h") -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        consul = await stack.enter_async_context(ConsulProcess(settings=DENYING))
        secret = folder / "token"
        secret.write_text(await token(consul, ca_policy()))
        access = {"address": consul.http_address, "tokenFile": str(secret)}
        settings: dict[str, Any] = {
            "consul": access | {"sharedRecords": True, "entryNamespace": "default"},
            "lifetime": lifetime,
        }
        settings["jwt"] = {"keyFile": key_file(folder, "jwt-key")}
        first = CaProcess(folder / "first", **settings)
        stack.callback(first.stop)
        await asyncio.to_thread(first.start)
        issuer = folder / "issuer"
        issuer.mkdir()
        for name in ("ca-key.pem", "ca-cert.pem"):
            _copy(next((folder / "first/state").rglob(name)), issuer / name)
        _copy(issuer / "ca-cert.pem", issuer / "root-cert.pem")
        (issuer / "cert-chain.pem").write_text("")
        second = CaProcess(folder / "second", **settings, caFiles=str(issuer))
        stack.callback(second.stop)
        await asyncio.to_thread(second.start)
        yield Replicas(consul, first, second, (issuer / "root-cert.pem").read_bytes())


def _copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    target.chmod(0o600)


async def enrol(ca: CaProcess, identity: Identity = REVIEWS, text: str = "") -> IssuedChain:
    return await ca.client().enrol(identity, new_key(), text or ca.token(identity.path))


async def renew(ca: CaProcess, issued: IssuedChain) -> IssuedChain:
    return await ca.client().renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)


async def jwt_of(ca: CaProcess, issued: IssuedChain) -> IssuedToken:
    return await ca.client().issue_jwt(issued.certificate, issued.trust_bundle_pem, ("db",))


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


def channel(ca: CaProcess, root: bytes) -> Any:
    credentials = grpc.ssl_channel_credentials(root)
    return grpc.aio.secure_channel(f"127.0.0.1:{ca.enrolment_port}", credentials)


async def test_each_replica_knows_what_the_other_did(replicas: Replicas) -> None:
    first, second = replicas.both
    issued = await enrol(second, text=first.token())
    renewed = await renew(first, issued)
    for ca in replicas.both:
        found = {info.serial: info for info in CaAdministration(str(ca.socket)).certificates(REVIEWS.path)}
        assert found[renewed.leaf.serial].issued_by == f"certificate:{issued.leaf.serial}"
        assert found[issued.leaf.serial].not_after == issued.leaf.not_after


async def test_a_token_is_used_once_whomever_it_is_shown_to(replicas: Replicas) -> None:
    text = replicas.first.token(uses=3)
    calls = [enrol(ca, text=text) for ca in replicas.both for _ in range(6)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert len([outcome for outcome in outcomes if isinstance(outcome, IssuedChain)]) == 3
    (info,) = [
        info for info in CaAdministration(str(replicas.second.socket)).list_tokens() if info.id == text.split(".")[1]
    ]
    assert info.used == 3


async def test_a_revocation_here_is_in_the_other_ones_bundle_within_seconds(replicas: Replicas) -> None:
    first, second = replicas.both
    issued = await enrol(first)
    async with channel(second, replicas.root) as opened:
        stub = ca_pb2_grpc.BundleStub(opened)
        before = await stub.Get(ca_pb2.GetBundleRequest(), timeout=10)
        watch = stub.Watch(ca_pb2.WatchBundleRequest(version=before.version), timeout=30)
        began = time.monotonic()
        CaAdministration(str(first.socket)).revoke(issued.leaf.serial, "", "")
        while issued.leaf.serial not in {entry.serial for entry in (await watch.read()).revoked}:
            pass
        assert time.monotonic() - began < 5
    for ca in replicas.both:
        with pytest.raises(CaRefused, match="revoked"):
            await renew(ca, issued)


async def test_a_revoked_identity_is_revoked_everywhere_and_may_be_admitted_anew(replicas: Replicas) -> None:
    first, second = replicas.both
    old, text = await enrol(first), first.token()
    for ca in replicas.both:
        assert (await jwt_of(ca, old)).token
    certificates, tokens = CaAdministration(str(second.socket)).revoke("", REVIEWS.path, "stolen")
    assert old.leaf.serial in {info.serial for info in certificates}
    assert text.split(".")[1] in {info.id for info in tokens}
    for ca in replicas.both:
        with pytest.raises(CaRefused, match="revoked"):
            await renew(ca, old)
        with pytest.raises(CaRefused, match="revoked"):
            await enrol(ca, text=text)
        with pytest.raises(CaRefused, match="revoked"):
            await jwt_of(ca, old)
    anew = await enrol(second)
    assert (await jwt_of(first, anew)).token
    await renew(first, await renew(second, anew))


async def test_renewals_while_their_identity_is_revoked_leave_nothing_alive(replicas: Replicas) -> None:
    """Whatever the order of steps: a certificate that was issued for one of before is revoked, too."""
    racer = Identity("default", "racer")
    chains = [await enrol(ca, racer) for ca in replicas.both for _ in range(3)]

    async def keep_renewing(ca: CaProcess, issued: IssuedChain) -> None:
        while True:
            try:
                issued = await ca.client().renew(racer, new_key(), issued.certificate, issued.trust_bundle_pem)
            except (CaRefused, CaUnavailable):
                return

    others = (replicas.second, replicas.first) * 3
    running = [asyncio.create_task(keep_renewing(ca, issued)) for ca, issued in zip(others, chains, strict=True)]
    await asyncio.to_thread(CaAdministration(str(replicas.first.socket)).revoke, "", racer.path, "")
    await asyncio.wait_for(asyncio.gather(*running), 30)
    found = CaAdministration(str(replicas.second.socket)).certificates(racer.path)
    assert found
    assert all(info.revoked_at for info in found)


async def test_agents_go_to_the_other_one(replicas: Replicas) -> None:
    """An agent with both addresses renews through an outage of either, and by a certificate of the other."""
    group, trust = CaGroup([replicas.second.client(), replicas.first.client()]), replicas.root
    issued = await group.enrol(REVIEWS, new_key(), replicas.first.token())
    for away in replicas.both:
        away.kill()
        issued = await group.renew(REVIEWS, new_key(), issued.certificate, trust)
        await asyncio.to_thread(away.start)
        issued = await group.renew(REVIEWS, new_key(), issued.certificate, trust)


async def test_a_replica_that_dies_loses_nothing_and_the_other_serves(replicas: Replicas) -> None:
    first, second = replicas.both
    issued: list[IssuedChain] = []
    enough = asyncio.Event()

    async def keep_enrolling() -> None:
        while True:
            try:
                issued.append(await enrol(second, text=text))
                if len(issued) == 5:
                    enough.set()
            except (CaRefused, CaUnavailable):
                return

    text = first.token(uses=1000)
    running = [asyncio.create_task(keep_enrolling()) for _ in range(4)]
    await asyncio.wait_for(enough.wait(), 30)
    second.kill()
    await asyncio.gather(*running)
    known = {info.serial for info in CaAdministration(str(first.socket)).certificates(REVIEWS.path)}
    assert {chain.leaf.serial for chain in issued} <= known
    await renew(first, issued[-1])
    await asyncio.to_thread(second.start)
    await renew(second, issued[-1])


async def test_without_consul_nothing_is_issued(replicas: Replicas, tmp_path: Path) -> None:
    issued = await enrol(replicas.first)
    os.kill(replicas.consul.pid, signal.SIGSTOP)  # it takes connections and says nothing
    try:
        with pytest.raises(CaUnavailable):
            await renew(replicas.first, issued)
    finally:
        os.kill(replicas.consul.pid, signal.SIGCONT)
    await eventually(lambda: renews(replicas.first, issued))


async def renews(ca: CaProcess, issued: IssuedChain) -> bool:
    try:
        await renew(ca, issued)
    except CaUnavailable:
        return False
    return True


async def consul_token(consul: ConsulProcess, **fields: Any) -> str:
    return str((await consul.put("/v1/acl/token", fields))["SecretID"])


async def test_entry_by_a_consul_token(replicas: Replicas) -> None:
    consul, ca = replicas.consul, replicas.first
    secret = await consul_token(consul, ServiceIdentities=[{"ServiceName": "reviews"}, {"ServiceName": "web"}])
    async with channel(ca, replicas.root) as opened:
        stub = ca_pb2_grpc.EnrolmentStub(opened)

        def ask(secret: str, identity: str) -> Any:
            request = ca_pb2.EnrolRequest(csr_pem=new_csr(new_key()), consul_token=secret, identity=identity)
            return stub.Enrol(request, timeout=10)

        for account in ("reviews", "web"):
            answer = await ask(secret, f"ns/default/sa/{account}")
            assert answer.chain_pem
        assert (await refusal(ask(secret, "ns/default/sa/ratings")))[0] is Code.PERMISSION_DENIED
        assert (await refusal(ask(secret, "ns/other/sa/reviews")))[0] is Code.PERMISSION_DENIED
        assert (await refusal(ask(secret, "")))[0] is Code.INVALID_ARGUMENT
        unknown = "00000000-0000-0000-0000-00000000abcd"
        assert (await refusal(ask(unknown, REVIEWS.path)))[0] is Code.UNAUTHENTICATED
        assert (await refusal(ask("a\r\nb", REVIEWS.path)))[0] is Code.UNAUTHENTICATED
        plain = await consul_token(consul)
        assert (await refusal(ask(plain, REVIEWS.path)))[0] is Code.PERMISSION_DENIED
        text = ca.log_path.read_text()
        assert not [each for each in (secret, unknown, plain) if each in text]
    events = [line for line in ca.log() if str(line.get("by", "")).startswith("consul:")]
    assert {event["identity"] for event in events} == {"ns/default/sa/reviews", "ns/default/sa/web"}


def roots_of(ca: CaProcess) -> tuple[dict[str, str], str]:
    """Return the issuers' states, and the bundle's version."""
    roots, version = CaAdministration(str(ca.socket)).roots()
    return {root.id: root.state for root in roots}, version


async def test_the_root_is_changed_on_both(replicas: Replicas, tmp_path: Path) -> None:
    """Step by step on one, then on the other; what would part them is refused. Near the end: it takes the root away."""
    first, second = replicas.both
    one, other = (CaAdministration(str(ca.socket)) for ca in replicas.both)
    old = next(iter(roots_of(first)[0]))
    made = files_of(make_ca("their next root"))
    given = {"key_pem": made.key, "certificate_pem": made.certificate, "root_pem": made.root, "chain_pem": b""}
    issued = await enrol(first)

    new = one.prepare_root(given, 0).id
    assert roots_of(first)[1] != roots_of(second)[1]
    with pytest.raises(CaRefused, match=rf"the CA on {socket.gethostname()} does not trust it: first .* prepare"):
        one.activate_root("", roots_of(first)[1], force=False)
    other.prepare_root(given, 0)
    version = roots_of(first)[1]
    assert roots_of(second)[1] == version, "what hosts acknowledge of the one counts at the other"
    with pytest.raises(CaRefused, match="issued before it was prepared"):
        one.activate_root("", "", force=False)

    one.activate_root("", version, force=False)
    assert [roots_of(ca)[1] for ca in replicas.both] == [version, version]
    assert [roots_of(ca)[0][new] for ca in replicas.both] == ["active", "prepared"]
    for ca in (second, first, second):  # by certificates of either issuer, at either
        issued = await renew(ca, issued)
    await renew(first, await enrol(second))
    with pytest.raises(CaRefused, match="hold until"):
        one.retire_root("", force=False)
    other.activate_root("", version, force=False)
    issued = await renew(second, await renew(first, issued))
    for administration in (one, other):
        administration.retire_root("", force=True)  # certificates of an hour by the old one hold still
    for ca in replicas.both:
        ca.kill()
        await asyncio.to_thread(ca.start)
        assert roots_of(ca)[0] == {new: "active"}
        issued = await renew(ca, issued)
    assert issued.trust_bundle_pem == made.certificate
    assert old != new


async def test_one_that_still_signs_by_it_holds_up_its_end(tmp_path: Path) -> None:
    """Two CAs of their own, without a certificate that holds: only the other one is in the way."""
    async with _replicas(tmp_path, lifetime="2s") as made:
        one, other = (CaAdministration(str(ca.socket)) for ca in made.both)
        files = files_of(make_ca("their next root"))
        given = {"key_pem": files.key, "certificate_pem": files.certificate, "root_pem": files.root, "chain_pem": b""}
        for administration in (one, other):
            administration.prepare_root(given, 0)
        one.activate_root("", "", force=False)
        with pytest.raises(CaRefused, match=rf"the CA on {socket.gethostname()} still signs by it: first .* activate"):
            one.retire_root("", force=False)
        with pytest.raises(CaRefused, match="still signs by it"):
            other.retire_root(
                next(name for name, state in roots_of(made.second)[0].items() if state == "prepared"), force=False
            )
        other.activate_root("", "", force=False)
        for administration in (one, other):
            administration.retire_root("", force=False)
        assert roots_of(made.first)[1] == roots_of(made.second)[1]
