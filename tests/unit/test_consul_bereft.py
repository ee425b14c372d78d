"""Which instances count when the last of a service went with their node."""

from __future__ import annotations

import asyncio

import pytest

from agent.adapters.consul.bereft import HOLD_SECONDS, Bereft, Loss
from agent.mesh.service import Health, Instance, Port, Protocol, ServiceKey

WEB, SHOP = ServiceKey("default", "web"), ServiceKey("shop", "web")


def instance(node: str, key: ServiceKey = WEB, health: Health = Health.PASSING) -> Instance:
    return Instance(
        id=f"{key}-{node}",
        service=key,
        node=node,
        address="10.0.0.1",
        ports=(Port(80, "http", Protocol.HTTP),),
        labels=(),
        health=health,
    )


class Catalog:
    """What Consul knows, and what is made of it."""

    def __init__(self, *nodes: str, **seconds: float) -> None:
        self.nodes = set(nodes)
        self.over = asyncio.Event()
        hold = {loss: seconds.get(loss.name, usual) for loss, usual in HOLD_SECONDS.items()}
        self._bereft = Bereft(self._is_node, self.over.set, hold)

    async def _is_node(self, name: str) -> bool:
        return name in self.nodes

    async def counting(
        self, *found: Instance, members: set[str] | None = None, silent: tuple[str, ...] = ()
    ) -> list[str]:
        """Return where instances are called; of the nodes `silent` nothing is heard."""
        lost = [(one.node, one.id) for one in found if one.node in silent]
        counted = await self._bereft.counting(found, self.nodes if members is None else members, lost)
        return [f"{one.service.namespace} {one.node} {one.health.value}" for one in counted]


async def test_the_last_instance_of_a_node_that_left_is_called_until_one_serves_again() -> None:
    catalog = Catalog("a", "b")
    assert await catalog.counting(instance("a")) == ["default a passing"]
    catalog.nodes = {"b"}
    assert await catalog.counting() == ["default a passing"]
    catalog.nodes = {"a", "b"}
    back = instance("a", health=Health.CRITICAL)
    assert await catalog.counting(back) == ["default a passing"], "Consul has not checked it yet"
    assert await catalog.counting(instance("b")) == ["default b passing"]
    assert await catalog.counting() == [], "that one's node is there still"


async def test_what_was_deregistered_or_fails_is_gone() -> None:
    catalog = Catalog("a")
    await catalog.counting(instance("a"))
    assert await catalog.counting() == []
    await catalog.counting(instance("a"))
    assert await catalog.counting(instance("a", health=Health.CRITICAL)) == ["default a critical"]
    catalog.nodes.clear()
    assert await catalog.counting() == []


async def test_where_another_one_serves_or_no_agent_of_consul_ran_nothing_is_held() -> None:
    catalog = Catalog("a", "b")
    await catalog.counting(instance("a"), instance("b"))
    catalog.nodes = {"b"}
    assert await catalog.counting(instance("b")) == ["default b passing"]
    catalog.nodes.clear()
    await catalog.counting(instance("outside"), members=set())
    assert await catalog.counting() == []


async def test_each_namespace_has_a_service_of_its_own() -> None:
    catalog = Catalog("a", "b")
    await catalog.counting(instance("a"), instance("b", SHOP))
    catalog.nodes = {"a"}
    assert await catalog.counting(instance("a")) == ["default a passing", "shop b passing"]
    catalog.nodes.clear()
    assert await catalog.counting() == ["default a passing", "shop b passing"]


async def test_a_node_that_falls_silent_before_it_is_said_to_have_left() -> None:
    catalog = Catalog("a", "b", SILENT=0.01)
    lost = instance("a", health=Health.CRITICAL)
    await catalog.counting(instance("a"), instance("b"))
    assert await catalog.counting(lost, instance("b"), silent=("a",)) == ["default a critical", "default b passing"]
    await catalog.counting(instance("a"))
    assert await catalog.counting(lost, silent=("a",)) == ["default a passing"]
    catalog.nodes.clear()
    assert await catalog.counting() == ["default a passing"]
    await asyncio.sleep(0.02)
    assert await catalog.counting() == ["default a passing"], "one that left is called for longer"
    assert not catalog.over.is_set()


@pytest.mark.parametrize("loss", Loss)
async def test_not_for_ever(loss: Loss) -> None:
    catalog = Catalog("a", **{loss.name: 0.01})
    await catalog.counting(instance("a"))
    after = [instance("a", health=Health.CRITICAL)] if loss is Loss.SILENT else []
    if not after:
        catalog.nodes.clear()
    assert await catalog.counting(*after, silent=("a",)) == ["default a passing"]
    await asyncio.wait_for(catalog.over.wait(), 10)
    assert await catalog.counting(*after, silent=("a",)) == ["default a critical"] * len(after)
