"""The operator port against whoever has no business there: tickets, garbage, slow and many connections."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from agent.adapters import https_door
from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.tickets import TicketBox
from agent.adapters.proxy.admin import AdminClient
from agent.mesh.routes import Fault
from agent.mesh.tickets import Proof, new_ticket
from agent.runtime import views
from agent.runtime.operator_port import OperatorPort
from tests.integration.consul_probe import background
from tests.integration.operator_mesh import ADDRESS, NODE, OperatorMesh, answering, operator_mesh, serving
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = b"GET /envoy/routes HTTP/1.1\r\n\r\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OperatorMesh]:
    async with operator_mesh(tmp_path_factory.mktemp("operator")) as running:
        yield running


@pytest.fixture
def source(request: pytest.FixtureRequest) -> str:
    """An address of the test's own: what it does wrong is not held against the others."""
    number = zlib.crc32(request.node.nodeid.encode()) % 60000
    return f"127.20.{number // 250}.{number % 250 + 1}"


async def test_a_ticket_opens_one_view_once(mesh: OperatorMesh, source: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "agent.runtime.operator_port")
    proof = await mesh.ticket("clusters")
    status, body = await mesh.ask(proof, "clusters", source)
    assert status == 200
    assert b'"backend"' in body
    assert await mesh.tickets() == []
    assert await mesh.ask(proof, "clusters", source) == (
        403,
        b"no such ticket: it is used already, over, or for another host\n",
    )
    assert f"{source} reads clusters (ticket {proof.id[:8]})" in caplog.text
    assert f"{source} is refused /envoy/clusters" in caplog.text
    assert proof.secret not in caplog.text


async def test_of_many_who_show_the_same_ticket_one_is_answered(mesh: OperatorMesh) -> None:
    proof = await mesh.ticket()
    answers = await asyncio.gather(*(mesh.ask(proof, "routes", f"127.21.0.{number}") for number in range(1, 13)))
    assert sorted(status for status, _ in answers) == [200] + [403] * 11


@pytest.mark.parametrize(
    "header", ["", "Bearer x", "Hostmesh-Ticket ../../mesh:00", f"Hostmesh-Ticket {'a' * 32}:{'b' * 63}"]
)
async def test_without_a_ticket(mesh: OperatorMesh, source: str, header: str) -> None:
    status, said = await mesh.ask(header, "routes", source)
    assert (status, said[:18]) == (403, b"a ticket is needed")


async def test_a_wrong_secret_neither_opens_nor_uses_up(mesh: OperatorMesh, source: str) -> None:
    proof = await mesh.ticket()
    guess = Proof(proof.id, "0" * 64)
    assert (await mesh.ask(guess, "routes", source))[0] == 403
    assert (await mesh.ask(Proof("0" * 32, proof.secret), "routes", source))[0] == 403
    assert (await mesh.ask(proof, "routes", source))[0] == 200


async def test_the_ticket_of_another_node(mesh: OperatorMesh, source: str) -> None:
    proof = await mesh.ticket(node="other")
    assert (await mesh.ask(proof, "routes", source))[0] == 403
    assert await mesh.tickets("other") == [proof.id]


@pytest.mark.parametrize(
    ("age", "said"), [(61.0, b"the ticket was made 61 s ago"), (-61.0, b"the ticket was made 61 s in the future")]
)
async def test_a_ticket_out_of_its_time(mesh: OperatorMesh, source: str, age: float, said: bytes) -> None:
    proof = await mesh.ticket(age=age)
    status, text = await mesh.ask(proof, "routes", source)
    assert (status, text[: len(said)]) == (403, said)
    assert b"clocks" in text
    assert await mesh.tickets() == []


async def test_a_ticket_for_another_question_or_for_none_there_is(mesh: OperatorMesh, source: str) -> None:
    assert await mesh.ask(await mesh.ticket("stats"), "secret", source) == (
        403,
        b"the ticket is for another question\n",
    )
    status, said = await mesh.ask(await mesh.ticket("quitquitquit"), "quitquitquit", source)
    assert (status, said[:12]) == (404, b"no such view")


async def test_what_is_no_ticket(mesh: OperatorMesh, source: str) -> None:
    proof, _ = new_ticket("routes", time.time())
    await mesh.write(proof, b'{"secretSha256": 1}')
    assert (await mesh.ask(proof, "routes", source))[0] == 403


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff" * 40 + b"\r\n\r\n",
        b"POST /envoy/routes HTTP/1.1\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
        b"GET /envoy/routes HTTP/1.1\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
    ],
)
async def test_garbage_costs_its_sender_only(mesh: OperatorMesh, source: str, garbage: bytes) -> None:
    answer = await mesh.send(garbage, source)
    assert answer == b"" or b" 400 Bad Request" in answer.split(b"\r\n")[0]
    assert (await mesh.ask(await mesh.ticket(), "routes", source))[0] == 200


async def test_who_does_not_speak_tls(mesh: OperatorMesh, source: str) -> None:
    reader, writer = await mesh.connect(source, tls=False)
    writer.write(GOOD)
    assert b"HTTP" not in await asyncio.wait_for(reader.read(-1), 10)
    writer.close()


async def test_guessing_ends_after_a_few_and_others_are_served(mesh: OperatorMesh, source: str) -> None:
    proof = await mesh.ticket()

    async def guess() -> int:
        try:
            return (await mesh.ask(Proof(proof.id, "0" * 64), "routes", source))[0]
        except OSError:  # reset or closed, as it comes
            return 0

    outcomes = [await guess() for _ in range(8)]
    assert outcomes[0] == 403
    assert outcomes[-1] == 0
    assert outcomes.count(403) <= 5
    assert (await mesh.ask(proof, "routes", "127.22.0.1"))[0] == 200


async def test_slow_and_many_connections(mesh: OperatorMesh, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https_door, "HANDSHAKE_SECONDS", 2.0)
    monkeypatch.setattr(https_door, "HEAD_SECONDS", 2.0)
    held = [await mesh.connect(source, tls=False) for _ in range(https_door.MAX_OF_SOURCE // 2)]
    held += [await mesh.connect(source) for _ in range(https_door.MAX_OF_SOURCE // 2)]
    for _, writer in held[https_door.MAX_OF_SOURCE // 2 :]:
        writer.write(GOOD[:10])
    with pytest.raises(OSError):  # noqa: PT011  # one more than a source may have
        await mesh.connect(source)
    assert (await mesh.ask(await mesh.ticket(), "routes", "127.22.0.2"))[0] == 200
    for reader, writer in held:
        with suppress(ConnectionError):
            assert b"HTTP" not in await asyncio.wait_for(reader.read(-1), 10)
        writer.transport.abort()
    assert (await mesh.ask(await mesh.ticket(), "routes", source))[0] == 200


async def test_a_reader_who_does_not_read_is_left(
    mesh: OperatorMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His answer is bigger than all buffers; both turns are taken, and free again when his time is over."""
    monkeypatch.setattr(https_door, "ANSWER_SECONDS", 2.0)
    async with answering(mesh, tmp_path, b'{"x": "%s"}' % (b"y" * 30_000_000)) as other:
        held = []
        for _ in range(2):
            reader, writer = await other.connect("127.22.0.3")
            proof = await other.ticket()
            writer.write(f"GET /envoy/routes HTTP/1.1\r\nAuthorization: {proof.authorization}\r\n\r\n".encode())
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            held.append((reader, writer))
        monkeypatch.setattr(https_door, "ANSWER_SECONDS", 20.0)
        status, body = await other.ask(await other.ticket("stats"), "stats", "127.22.0.5")
        assert (status, len(body)) == (200, 30_000_009)
        for _, writer in held:
            writer.transport.abort()


async def test_keys_that_envoy_would_show_never_leave(mesh: OperatorMesh, tmp_path: Path) -> None:
    secret = {
        "tls_certificate": {"private_key": {"inline_bytes": "c2VjcmV0"}, "certificate_chain": {"inline_bytes": "eA=="}}
    }
    leaked = msgspec.json.encode({"configs": [{"password": "secret!"}, {"dynamic_active_secrets": [secret] * 5000}]})
    async with answering(mesh, tmp_path, leaked) as other:
        status, body = await other.ask(await other.ticket("secret"), "secret", "127.22.0.6")
    assert status == 200
    assert msgspec.json.decode(body)["configs"][1]["dynamic_active_secrets"][-1]["tls_certificate"] == {
        "private_key": "[redacted]",
        "certificate_chain": {"inline_bytes": "eA=="},
    }
    assert b"c2VjcmV0" not in body
    assert b"secret!" not in body


async def test_an_answer_that_is_too_large_is_cut_off(
    mesh: OperatorMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MAX_ANSWER", 1000)
    async with answering(mesh, tmp_path, b"[" + b"1," * 100_000 + b"1]") as other:
        proof = await other.ticket()
        answer = await other.send(
            f"GET /envoy/routes HTTP/1.1\r\nAuthorization: {proof.authorization}\r\n\r\n".encode(), "127.22.0.7"
        )
    assert answer.startswith(b"HTTP/1.1 200")
    assert not answer.endswith(b"0\r\n\r\n")


async def test_tickets_that_nobody_used_are_swept(mesh: OperatorMesh) -> None:
    old, new = await mesh.ticket(age=200), await mesh.ticket()
    async with ConsulClient(mesh.address("agent")) as client:
        await OperatorPort(TicketBox(client, NODE), AdminClient(Path("x"))).sweep()
    left = await mesh.tickets()
    assert old.id not in left
    assert new.id in left
    assert (await mesh.ask(new, "routes", "127.22.0.8"))[0] == 200


async def test_a_consul_or_an_envoy_that_is_away_is_told(mesh: OperatorMesh, tmp_path: Path) -> None:
    nowhere = AdminClient(tmp_path / "nowhere.sock")
    async with ConsulClient(mesh.address("agent")) as client, serving(mesh, nowhere, client) as other:
        status, said = await other.ask(await other.ticket(), "routes", "127.22.0.9")
        assert (status, said[:19]) == (503, b"Envoy's admin socke")
    async with ConsulClient(ConsulAddress(port=1)) as dead, serving(mesh, nowhere, dead) as other:
        status, said = await other.ask(await other.ticket(), "routes", "127.22.0.9")
        assert (status, said[:36]) == (503, b"the agent cannot look at the ticket:")


async def test_an_agent_that_consul_does_not_let_read_its_tickets_says_so(mesh: OperatorMesh, tmp_path: Path) -> None:
    async with (
        ConsulClient(mesh.address("nobody")) as client,
        serving(mesh, AdminClient(tmp_path / "nowhere.sock"), client) as other,
    ):
        status, said = await other.ask(await other.ticket(), "routes", "127.22.0.10")
    assert status == 503
    assert b'needs the rule key_prefix "hostmesh/tickets/<node>/"' in said


async def test_ipv6(mesh: OperatorMesh) -> None:
    """Of an IPv6 host, which has as many addresses as it likes, the network counts."""
    admin = AdminClient(mesh.folder / "envoy.sock")
    async with ConsulClient(mesh.address("agent")) as client, serving(mesh, admin, client, "::1") as other:
        assert (await other.ask(await other.ticket("stats"), "stats", "::1"))[0] == 200


async def test_a_port_that_is_taken_is_a_fault_and_nothing_more(mesh: OperatorMesh) -> None:
    assert mesh.access is not None
    reported: list[tuple[Fault, ...]] = []
    async with ConsulClient(mesh.address("agent")) as client:
        port = OperatorPort(TicketBox(client, NODE), AdminClient(Path("x")))
        async with background(port.run(ADDRESS, mesh.access.port, lambda _: None, reported.append)):

            async def told() -> bool:
                return bool(reported)

            await eventually(told)
    assert "Address already in use" in reported[0][0].reason
    assert "agent.yaml: operator.port" in reported[0][0].reason
