"""What the agent writes (registrations, status) and reads (KV): a real Consul that forgets and is tampered with."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.decode import decode_instances
from agent.adapters.consul.generations import Generations
from agent.adapters.consul.kv import ConfigUpdate, KvUpdate, SettingsUpdate, watch_config
from agent.adapters.consul.registration import Registrar
from agent.adapters.consul.status import StatusWriter
from agent.errors import ConsulUnavailable
from agent.mesh.service import Check, Health, Instance, Port, Protocol, ServiceKey, Workload
from agent.mesh.status import NodeStatus
from tests.integration.consul_probe import Probe, background
from tests.integration.consul_process import ConsulProcess
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

REVIEWS = Workload(
    ServiceKey("shop", "reviews"),
    "127.0.0.1",
    (Port(9080, "http", Protocol.HTTP), Port(9443, "grpc-api", Protocol.GRPC)),
    labels=(("app.example/part", "front"), ("version", "v1")),
    service_account="bookinfo-reviews",
)
DATABASE = Workload(ServiceKey("default", "mysql"), "127.0.0.1", (Port(3306, "mysql", Protocol.MYSQL),), proxied=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consul() -> AsyncIterator[ConsulProcess]:
    async with ConsulProcess() as process:
        yield process


async def instances(consul: ConsulProcess, name: str) -> tuple[Instance, ...]:
    return decode_instances(name, msgspec.json.encode(await consul.get(f"/v1/health/service/{name}"))).instances


async def test_registers_when_ready_and_deregisters_only_its_own(consul: ConsulProcess) -> None:
    await consul.put("/v1/agent/service/register", {"Name": "foreign", "Port": 5})
    async with ConsulClient(consul.address) as client:
        registrar = Registrar(client, (REVIEWS, DATABASE))
        async with background(registrar.run()):
            registrar.set_ready(False)
            assert await instances(consul, "reviews") == ()
            registrar.set_ready(True)
            await eventually(lambda: instances(consul, "reviews"))
            (found,) = await instances(consul, "reviews")
            assert (found.id, found.service, found.ports) == (
                "hostmesh-reviews-9080-shop",
                REVIEWS.service,
                REVIEWS.ports,
            )
            assert (found.labels, found.service_account, found.proxied) == (REVIEWS.labels, "bookinfo-reviews", True)
            await eventually(lambda: instances(consul, "mysql"))
            assert not (await instances(consul, "mysql"))[0].proxied
            registrar.set_ready(False)
            await eventually(lambda: is_proxied(consul, False))
            registrar.set_ready(True)
            await eventually(lambda: is_proxied(consul, True))
            registrar.set_certified(())
            await eventually(lambda: is_proxied(consul, False))
            registrar.set_certified((REVIEWS.identity,))
            await eventually(lambda: is_proxied(consul, True))
            registrar.set_workloads((REVIEWS,))
            await eventually(lambda: is_gone(consul, "mysql"))
            await registrar.deregister()
            assert registrar.registered == frozenset()
        assert set(await consul.get("/v1/agent/services")) == {"foreign"}


async def is_proxied(consul: ConsulProcess, wanted: bool) -> bool:
    return [instance.proxied for instance in await instances(consul, "reviews")] == [wanted]


async def is_gone(consul: ConsulProcess, name: str) -> bool:
    return await instances(consul, name) == ()


async def test_what_the_agent_before_registered_is_taken_out_too(consul: ConsulProcess) -> None:
    """Killed or restarted: its successor finds all registered, and is the one that is stopped in the end."""
    async with ConsulClient(consul.address) as client:
        before, after = (Registrar(client, (DATABASE,)) for _ in range(2))
        before.set_ready(True)
        async with background(before.run()):
            await eventually(lambda: instances(consul, "mysql"))
        after.set_ready(True)
        async with background(after.run()):
            await eventually(lambda: is_true(after.registered))
            await after.deregister()
        assert await is_gone(consul, "mysql")


async def test_a_late_deregistration_never_removes_a_newer_registration(consul: ConsulProcess, tmp_path: Path) -> None:
    """Consul hangs while an agent leaves; the next one registers; then what the first has sent gets through."""
    numbers = tmp_path / "registrations.json"
    async with ConsulClient(consul.address) as client, ConsulClient(consul.address) as late:
        before = Registrar(client, (DATABASE,), generations=Generations(numbers))
        before.set_ready(True)
        async with background(before.run()):
            await eventually(lambda: instances(consul, "mysql"))
        os.kill(consul.pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await before.deregister()
        finally:
            os.kill(consul.pid, signal.SIGCONT)
        after = Registrar(client, (DATABASE,), generations=Generations(numbers))
        after.set_ready(True)
        async with background(after.run()):
            await eventually(lambda: stand(consul, {"hostmesh-mysql-3306.1"}))  # and what stood from before is gone
            created = (await entry_of(consul, "mysql"))["CreateIndex"]
            with contextlib.suppress(ConsulUnavailable):  # some versions say that there is no such service
                await late.api.agent.service.deregister("hostmesh-mysql-3306")
            assert (await entry_of(consul, "mysql"))["CreateIndex"] == created
            await after.deregister()
        assert await is_gone(consul, "mysql")


async def stand(consul: ConsulProcess, wanted: set[str]) -> bool:
    return {name for name in await consul.get("/v1/agent/services") if "mysql" in name} == wanted


async def entry_of(consul: ConsulProcess, name: str) -> dict[str, Any]:
    (entry,) = await consul.get(f"/v1/catalog/service/{name}")
    return dict(entry)


async def test_what_others_remove_or_change_is_mended(consul: ConsulProcess) -> None:
    async with ConsulClient(consul.address) as client:
        registrar = Registrar(client, (DATABASE,))
        registrar.set_ready(True)
        async with background(registrar.run()):
            await eventually(lambda: instances(consul, "mysql"))
            await consul.put("/v1/agent/service/deregister/hostmesh-mysql-3306")
            await eventually(lambda: instances(consul, "mysql"))
            await consul.put("/v1/agent/service/register", {"ID": "hostmesh-mysql-3306", "Name": "mysql", "Port": 1})
            await eventually(lambda: has_port(consul, 3306))
            await registrar.deregister()


async def has_port(consul: ConsulProcess, port: int) -> bool:
    return [instance.ports[0].number for instance in await instances(consul, "mysql")] == [port]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["its port", "check.port"])
async def test_the_check_asks_the_application(consul: ConsulProcess, elsewhere: bool) -> None:
    port = free_port()
    check = Check(http_path="/health", interval_seconds=0.2, timeout_seconds=1, port=port if elsewhere else None)
    number = 1234 if elsewhere else port
    workload = Workload(ServiceKey("default", "app"), "10.1.2.3", (Port(number, "http", Protocol.HTTP),), check=check)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        writer.close()

    async with ConsulClient(consul.address) as client:
        registrar = Registrar(client, (workload,))
        registrar.set_ready(True)
        async with background(registrar.run()):
            await eventually(lambda: instances(consul, "app"))
            assert (await instances(consul, "app"))[0].health is not Health.PASSING
            server = await asyncio.start_server(answer, "127.0.0.1", port)
            await eventually(lambda: is_serving(consul))
            server.close()
            await registrar.deregister()


async def is_serving(consul: ConsulProcess) -> bool:
    return any(instance.health is Health.PASSING for instance in await instances(consul, "app"))


async def test_a_consul_that_forgot_everything_gets_it_again() -> None:
    async with ConsulProcess() as consul, ConsulClient(consul.address) as client:
        told: list[str | None] = []
        registrar, status = Registrar(client, (DATABASE,)), StatusWriter(client, "n1", told.append)
        registrar.set_ready(True)
        status.write(NodeStatus("n1", address="10.0.0.1"))
        async with background(registrar.run()), background(status.run()):
            await eventually(lambda: instances(consul, "mysql"))
            await eventually(lambda: status_of(consul, "n1"))
            await consul.stop(hard=True)
            await eventually(lambda: is_true(registrar.faults))
            await eventually(lambda: is_true(told), 20)
            assert "Connect call failed" in str(told[0])
            await consul.start()
            await eventually(lambda: instances(consul, "mysql"), 20)
            await eventually(lambda: status_of(consul, "n1"), 20)
            await eventually(lambda: is_true(not registrar.faults))
            await eventually(lambda: is_true(told[1:] == [None]))


async def is_true(value: object) -> bool:
    return bool(value)


async def status_of(consul: ConsulProcess, node: str) -> NodeStatus | None:
    try:
        (pair,) = await consul.get(f"/v1/kv/hostmesh/status/{node}")
    except AssertionError:
        return None
    return msgspec.json.decode(base64.b64decode(pair["Value"]), type=NodeStatus)


async def test_status_is_coalesced_and_goes_with_the_agent(consul: ConsulProcess) -> None:
    async with ConsulClient(consul.address) as client:
        status = StatusWriter(client, "n2")
        async with background(status.run()):
            for number in range(100):
                status.write(NodeStatus("n2", agent_version=str(number)))
                await asyncio.sleep(0)
            await eventually(lambda: says(consul, "99"))
            (pair,) = await consul.get("/v1/kv/hostmesh/status/n2")
            assert pair["ModifyIndex"] - pair["CreateIndex"] < 20
            (session,) = await consul.get("/v1/session/info/" + pair["Session"])
            assert (session["TTL"], session["Behavior"], session["LockDelay"]) == ("15s", "delete", 0)
        # Its agent was killed and left the session: the successor takes the key over at once.
        successor = StatusWriter(client, "n2")
        successor.write(NodeStatus("n2", agent_version="next"))
        async with background(successor.run()):
            await eventually(lambda: says(consul, "next"))
        await successor.close()
        assert await status_of(consul, "n2") is None


async def says(consul: ConsulProcess, version: str) -> bool:
    status = await status_of(consul, "n2")
    return status is not None and status.agent_version == version


async def test_a_lost_session_is_made_anew(consul: ConsulProcess) -> None:
    async with ConsulClient(consul.address) as client:
        status = StatusWriter(client, "n3")
        status.write(NodeStatus("n3", agent_version="1"))
        async with background(status.run()):
            await eventually(lambda: status_of(consul, "n3"))
            (pair,) = await consul.get("/v1/kv/hostmesh/status/n3")
            await consul.put("/v1/session/destroy/" + pair["Session"])
            status.write(NodeStatus("n3", agent_version="2"))
            await eventually(lambda: status_of(consul, "n3"))
        await status.close()


async def test_kv_garbage_is_only_bytes_and_changes_are_seen(consul: ConsulProcess) -> None:
    probe: Probe[KvUpdate] = Probe()
    async with ConsulClient(consul.address) as client, background(watch_config(client, probe)):
        await probe.until(lambda updates: SettingsUpdate(None) in updates)
        await probe.until(lambda updates: any(isinstance(update, ConfigUpdate) for update in updates))
        await put(client, "hostmesh/config/default/routerule/x", b"\x00\xff not JSON")
        await put(client, "hostmesh/config/folder/", b"")
        await put(client, "hostmesh/config/large", b"x" * (512 * 1024))
        await put(client, "hostmesh/mesh", b"{}")
        await put(client, "hostmesh/status/elsewhere", b"not watched")
        await probe.until(lambda _: len(config(probe).values) == 2)
        revision, value = config(probe).values["hostmesh/config/default/routerule/x"]
        assert value == b"\x00\xff not JSON"
        assert 0 < revision <= config(probe).index
        await probe.until(lambda updates: any(isinstance(u, SettingsUpdate) and u.value == b"{}" for u in updates))
        await client.api.kv.delete("hostmesh/config/", recurse=True)
        await probe.until(lambda _: not config(probe).values)
        await client.api.kv.delete("hostmesh/mesh")
        await probe.until(lambda updates: isinstance(updates[-1], SettingsUpdate) and updates[-1].value is None)


def config(probe: Probe[KvUpdate]) -> ConfigUpdate:
    return [update for update in probe.updates if isinstance(update, ConfigUpdate)][-1]


async def put(client: ConsulClient, key: str, value: bytes) -> None:
    assert await client.api.kv.put(key, value)
