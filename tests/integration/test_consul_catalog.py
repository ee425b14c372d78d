"""The catalog watch against a real Consul on its default limits, changed by another program."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest
import pytest_asyncio

from agent.adapters.consul.catalog import (
    FIRST_READS,
    CatalogLost,
    CatalogRecovered,
    CatalogSynced,
    CatalogUpdate,
    Scope,
    ServiceEntries,
    watch_catalog,
)
from agent.adapters.consul.client import ConsulClient
from agent.mesh.service import Health, Protocol, ServiceKey
from tests.integration.consul_probe import Probe, background
from tests.integration.consul_process import ConsulProcess


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def consul() -> AsyncIterator[ConsulProcess]:
    async with ConsulProcess() as process:
        yield process


def last(probe: Probe[CatalogUpdate], name: str) -> ServiceEntries:
    """Return the newest word on a service; one without instances if there is none."""
    said = [update for update in probe.updates if isinstance(update, ServiceEntries) and update.name == name]
    return said[-1] if said else ServiceEntries(name, ())


def catalog_entry(name: str, node: str = "elsewhere", address: str = "10.9.9.9", **service: object) -> dict[str, Any]:
    return {
        "Node": node,
        "Address": address,
        "Service": {"ID": f"{name}-1", "Service": name, "Port": 80, **service},
        "Checks": [{"CheckID": f"{name}-check", "ServiceID": f"{name}-1", "Name": "c", "Status": "passing"}],
        "SkipNodeUpdate": False,
    }


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_follows_what_another_program_does(consul: ConsulProcess) -> None:
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe)):
        await probe.until(lambda updates: CatalogSynced() in updates)
        await consul.put("/v1/catalog/register", catalog_entry("web"))
        await probe.until(lambda _: last(probe, "web").instances)
        (instance,) = last(probe, "web").instances
        assert instance.service == ServiceKey("default", "web")
        assert (instance.node, instance.address, instance.health) == ("elsewhere", "10.9.9.9", Health.PASSING)
        assert [(port.number, port.protocol) for port in instance.ports] == [(80, Protocol.TCP)]
        assert not instance.proxied
        assert instance.service_account == "default"

        flipped = catalog_entry("web")
        flipped["Checks"][0]["Status"] = "critical"
        await consul.put("/v1/catalog/register", flipped)
        await probe.until(lambda _: last(probe, "web").instances[0].health is Health.CRITICAL)

        await consul.put("/v1/catalog/register", catalog_entry("web", Meta={"version": "v2", "protocol": "http"}))
        await probe.until(lambda _: last(probe, "web").instances[0].labels == (("version", "v2"),))
        assert last(probe, "web").instances[0].ports[0].protocol is Protocol.HTTP

        await consul.put("/v1/catalog/deregister", {"Node": "elsewhere", "ServiceID": "web-1"})
        await probe.until(lambda _: not last(probe, "web").instances)


async def test_only_what_is_in_the_scope_is_followed_and_the_scope_changes_live(consul: ConsulProcess) -> None:
    probe: Probe[CatalogUpdate] = Probe()
    scope = Scope()

    async def change(*names: str, version: str, tags: tuple[str, ...] = ()) -> None:
        for name in names:
            await consul.put("/v1/catalog/register", catalog_entry(name, Meta={"version": version}, Tags=tags))

    def seen(name: str) -> list[str]:
        return [dict(instance.labels)["version"] for instance in last(probe, name).instances]

    def said(name: str) -> int:
        return sum(isinstance(update, ServiceEntries) and update.name == name for update in probe.updates)

    await change("inner", "outer", version="v1")
    async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe, scope)):
        await probe.until(lambda updates: CatalogSynced() in updates)
        assert seen("inner") == seen("outer") == ["v1"], "each is known, before any scope is"
        scope.follow(frozenset({"inner"}))
        await change("outer", "inner", version="v2")
        await probe.until(lambda _: seen("inner") == ["v2"])
        assert seen("outer") == ["v1"], "it is not polled"

        scope.follow(frozenset({"inner", "outer"}))
        await probe.until(lambda _: seen("outer") == ["v2"])
        await change("outer", version="v3")
        await probe.until(lambda _: seen("outer") == ["v3"])

        before = said("outer")
        scope.follow(frozenset({"inner"}))
        await change("outer", version="v4")  # ends the poll that was under way
        await change("outer", version="v5")
        await change("inner", version="v5")
        await probe.until(lambda _: seen("inner") == ["v5"])
        assert said("outer") <= before + 1, "it is read once more, when its last poll ends"

        await change("outer", version="v6", tags=("namespace=other",))
        await probe.until(lambda _: seen("outer") == ["v6"])
        scope.follow(None)
        await change("outer", version="v7")
        await probe.until(lambda _: seen("outer") == ["v7"])
    await consul.put("/v1/catalog/deregister", {"Node": "elsewhere"})


async def test_maintenance_is_critical(consul: ConsulProcess) -> None:
    await consul.put("/v1/agent/service/register", {"Name": "mended", "Port": 81, "Address": "127.0.0.1"})
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe)):
        await probe.until(lambda _: last(probe, "mended").instances)
        assert last(probe, "mended").instances[0].health is Health.PASSING
        await consul.put("/v1/agent/service/maintenance/mended?enable=true")
        await probe.until(lambda _: last(probe, "mended").instances[0].health is Health.CRITICAL)
    await consul.put("/v1/agent/service/deregister/mended")


async def test_unusable_entries_are_faults_and_the_rest_is_served(consul: ConsulProcess) -> None:
    await consul.put("/v1/catalog/register", catalog_entry("Bad Name"))
    await consul.put("/v1/catalog/register", catalog_entry("named", address="some.host.example", node="by-name"))
    await consul.put("/v1/catalog/register", catalog_entry("named"))
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe)):
        await probe.until(lambda updates: CatalogSynced() in updates)
        assert last(probe, "Bad Name").faults[0].reason.startswith("the name is no DNS label")
        assert [instance.address for instance in last(probe, "named").instances] == ["10.9.9.9"]
        assert "some.host.example" in last(probe, "named").faults[0].reason
        await consul.put("/v1/catalog/deregister", {"Node": "by-name"})
        await probe.until(lambda _: not last(probe, "named").faults)
    await consul.put("/v1/catalog/deregister", {"Node": "elsewhere"})


async def test_loss_and_return_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    probe: Probe[CatalogUpdate] = Probe()
    async with (
        ConsulProcess() as consul,
        ConsulClient(consul.address) as client,
        background(watch_catalog(client, probe)),
    ):
        for name in ("one", "two", "three"):
            await consul.put("/v1/catalog/register", catalog_entry(name))
        await probe.until(lambda _: all(last(probe, name).instances for name in ("one", "two", "three")))
        await consul.stop(hard=True)
        await probe.until(lambda updates: any(isinstance(update, CatalogLost) for update in updates))
        assert last(probe, "one").instances, "what was known holds while Consul is away"
        await consul.start()
        await probe.until(lambda updates: CatalogRecovered() in updates)
        # A -dev server forgot everything, and its index begins anew below the one waited on.
        await probe.until(lambda _: not last(probe, "one").instances)
        await consul.put("/v1/catalog/register", catalog_entry("two", address="10.9.9.8"))
        await probe.until(
            lambda _: last(probe, "two").instances and last(probe, "two").instances[0].address == "10.9.9.8"
        )
        assert sum(isinstance(update, CatalogLost) for update in probe.updates) == 1
        assert sum(update == CatalogRecovered() for update in probe.updates) == 1
        assert len([record for record in caplog.records if "lost" in record.message]) == 1


async def load(consul: ConsulProcess, services: int) -> None:
    """Enter services by transactions of 64 operations, as fast as Consul takes them."""
    node = {"Node": {"Verb": "set", "Node": {"Node": "many", "Address": "10.8.8.8"}}}
    operations: list[object] = [node]
    for number in range(services):
        entry = {"ID": f"s{number}", "Service": f"s{number}", "Port": 1000 + number}
        operations.append({"Service": {"Verb": "set", "Node": "many", "Service": entry}})
    for start in range(0, len(operations), 64):
        await consul.put("/v1/txn", operations[start : start + 64])


async def test_follows_more_services_than_one_address_may(caplog: pytest.LogCaptureFixture) -> None:
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulProcess() as consul:
        await load(consul, 400)
        async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe)):
            await probe.until(lambda updates: CatalogSynced() in updates)
            for number in (0, 199, 399):
                await consul.put("/v1/catalog/register", catalog_entry(f"s{number}"))
            await probe.until(lambda _: all(len(last(probe, f"s{number}").instances) == 2 for number in (0, 199, 399)))
            assert not any(isinstance(update, CatalogLost) for update in probe.updates)
            assert not [update for update in probe.updates if isinstance(update, ServiceEntries) and update.faults]
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


async def test_polls_that_ended_do_not_use_up_the_places() -> None:
    """Consul counts a dead long poll until its wait is over: neither restarts nor churn may run into that."""
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulProcess() as consul:
        await load(consul, 120)
        for _ in range(3):
            probe = Probe()
            async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe)):
                await probe.until(lambda updates: CatalogSynced() in updates)
                assert not any(isinstance(update, CatalogLost) for update in probe.updates)
        probe = Probe()
        async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe)):
            for wave in range(6):
                await come_and_go(consul, probe, [f"wave{wave}-{number}" for number in range(50)])
            assert not [update for update in probe.updates if isinstance(update, ServiceEntries) and update.faults]


def connections_to(consul: ConsulProcess) -> int:
    """Return how many connections this process has to a Consul: each waiting poll has one."""
    return sum(
        bool(one.raddr) and one.raddr.port == consul.ports[0] and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process().net_connections("tcp")
    )


async def test_a_narrow_scope_costs_few_polls() -> None:
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulProcess() as consul:
        await load(consul, 200)
        scope = Scope(frozenset({"s0", "s1"}))
        async with ConsulClient(consul.address) as client, background(watch_catalog(client, probe, scope)):
            await probe.until(lambda updates: CatalogSynced() in updates)
            assert all(last(probe, f"s{number}").instances for number in range(200)), "all are known"
            # The names, the two services, and what the first reads left open.
            assert connections_to(consul) <= 3 + FIRST_READS
            scope.follow(None)
            await consul.put("/v1/catalog/register", catalog_entry("s199"))
            await probe.until(lambda _: len(last(probe, "s199").instances) == 2)
            assert connections_to(consul) > 200


async def come_and_go(consul: ConsulProcess, probe: Probe[CatalogUpdate], names: list[str]) -> None:
    for verb, there in (("set", True), ("delete", False)):
        services = [{"ID": name, "Service": name, "Port": 80} for name in names]
        await consul.put("/v1/txn", [{"Service": {"Verb": verb, "Node": "many", "Service": each}} for each in services])
        await probe.until(lambda _: all(bool(last(probe, name).instances) is there for name in names))  # noqa: B023


async def test_one_source_address_takes_turns(caplog: pytest.LogCaptureFixture) -> None:
    """Consul at no loopback address: more services than places are still all followed, only later."""
    probe: Probe[CatalogUpdate] = Probe()
    async with ConsulProcess() as consul:
        await load(consul, 30)
        client = ConsulClient(consul.address, polls_per_lane=10, max_lanes=1)
        async with client, background(watch_catalog(client, probe)):
            await probe.until(lambda updates: CatalogSynced() in updates)
            for number in (0, 15, 29):
                await consul.put("/v1/catalog/register", catalog_entry(f"s{number}"))
            await probe.until(lambda _: all(len(last(probe, f"s{n}").instances) == 2 for n in (0, 15, 29)))
    assert len([record for record in caplog.records if "take turns" in record.message]) == 1
