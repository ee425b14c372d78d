"""`proxy-config` and `proxy-stats` of another host under Consul's ACLs (default deny), and every way it can fail."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from agent.adapters.consul.catalog import CatalogSynced, Scope, watch_catalog
from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.kv import ConfigUpdate, watch_config
from agent.adapters.consul.registration import Registrar
from agent.adapters.proxy.admin import AdminClient
from agent.errors import ConsulRefused
from agent.mesh.names import status_key, ticket_key
from agent.mesh.service import Port, Protocol, ServiceKey, Workload
from agent.mesh.status import NodeStatus, OperatorAccess
from tests.integration.consul_probe import Probe, background
from tests.integration.operator_mesh import NODE, OperatorMesh, operator_mesh, serving
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIEWS = ("listeners", "routes", "clusters", "endpoints", "secret", "bootstrap")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OperatorMesh]:
    async with operator_mesh(tmp_path_factory.mktemp("remote")) as running:
        yield running


async def put_status(mesh: OperatorMesh, node: str, access: OperatorAccess | None) -> None:
    await mesh.consul.put(f"/v1/kv/{status_key(node)}", msgspec.to_builtins(NodeStatus(node, operator=access)))


async def refused(mesh: OperatorMesh, *arguments: str, who: str = "operator") -> str:
    """Run a command that must fail with one line, and return that."""
    done = await mesh.hostmesh(*arguments, who=who)
    assert (done.code, done.out) == (1, ""), done
    assert done.err.count("\n") == 1, done.err
    return done.err


async def test_every_view_and_never_a_key(mesh: OperatorMesh) -> None:
    key = "".join(mesh.key.decode().splitlines()[1:-1])
    for view in VIEWS:
        done = await mesh.hostmesh("proxy-config", view, NODE, "-o", "json")
        assert done.code == 0, done.err
        assert isinstance(json.loads(done.out), list if view != "bootstrap" else dict)
        assert key[:40] not in done.out.replace("\\n", "")
        assert "PRIVATE KEY" not in done.out
    done = await mesh.hostmesh("pc", "clusters", NODE)
    assert done.out.splitlines()[0].split() == ["CLUSTER", "TYPE", "BALANCING"]
    assert "private_key: '[redacted]'" in (await mesh.hostmesh("proxy-config", "secret", NODE, "-o", "yaml")).out
    assert (await mesh.hostmesh("proxy-stats", NODE, "--filter", r"^server\.live$")).out == "server.live: 1\n"
    assert "envoy_server_live" in (await mesh.hostmesh("proxy-stats", NODE, "-o", "prometheus")).out
    assert await mesh.tickets() == []


@pytest.mark.parametrize(
    ("who", "rule"),
    [
        ("reader", 'needs the rule key_prefix "hostmesh/tickets/" { policy = "write" }'),
        ("nobody", 'needs the rule key_prefix "hostmesh/status/" { policy = "read" }'),
    ],
)
async def test_a_token_that_may_not_is_told_the_rule(mesh: OperatorMesh, who: str, rule: str) -> None:
    said = await refused(mesh, "proxy-config", "routes", NODE, who=who)
    assert rule in said
    assert "--token-file" in said
    assert mesh.tokens[who] not in said


async def test_one_agent_may_not_act_for_another(mesh: OperatorMesh) -> None:
    """Else it could take another host's place, or leave tickets for it and read its configuration."""
    async with ConsulClient(mesh.address("agent")) as client:
        for key in (status_key("other"), ticket_key("other", "x"), "hostmesh/mesh", "hostmesh/config/default/x/y"):
            with pytest.raises(ConsulRefused, match="403"):
                await client.api.kv.put(key, "x")


async def test_the_documented_policy_is_all_that_an_agent_needs(mesh: OperatorMesh) -> None:
    workload = Workload(ServiceKey("default", "NAME"), "127.0.0.1", (Port(9080, "http", Protocol.HTTP),))
    catalog, config = Probe[object](), Probe[object]()
    async with ConsulClient(mesh.address("agent")) as client:
        assert (await client.api.agent.self())["Member"]["Addr"] == "127.0.0.1"
        registrar = Registrar(client, (workload,))
        registrar.set_ready(True)
        async with (
            background(registrar.run()),
            background(watch_catalog(client, catalog, Scope())),
            background(watch_config(client, config)),
        ):

            async def is_registered() -> bool:
                return bool(await mesh.consul.get("/v1/health/service/NAME"))

            await eventually(is_registered)
            await catalog.until(lambda seen: any(isinstance(each, CatalogSynced) for each in seen))
            await config.until(lambda seen: any(isinstance(each, ConfigUpdate) for each in seen))
            await registrar.deregister()


async def test_a_node_that_is_not_there(mesh: OperatorMesh) -> None:
    assert "no node 'tset' in the mesh (did you mean test?)" in await refused(mesh, "proxy-config", "routes", "tset")
    assert "is not a host name" in await refused(mesh, "proxy-config", "routes", "../mesh")
    register = {"Node": "no-agent", "Address": "127.0.0.9"}
    await mesh.consul.put("/v1/catalog/register", register)
    said = await refused(mesh, "proxy-config", "routes", "no-agent")
    assert "no agent reports from it (no key hostmesh/status/no-agent)" in said


async def test_an_agent_that_cannot_be_asked(mesh: OperatorMesh) -> None:
    await put_status(mesh, "closed", None)
    assert "its agent has no operator port" in await refused(mesh, "proxy-stats", "closed")
    await put_status(mesh, "walled", OperatorAccess("127.0.0.1", free_port(), "0" * 64))
    said = await refused(mesh, "proxy-stats", "walled")
    assert "cannot be reached: Connection refused" in said
    assert "through the firewalls" in said
    assert await mesh.tickets("walled") == []


async def test_whoever_has_another_certificate_is_not_believed(mesh: OperatorMesh) -> None:
    assert mesh.access is not None
    await put_status(mesh, "forged", replace_fingerprint(mesh.access))
    said = await refused(mesh, "proxy-config", "routes", "forged")
    assert "is not forged's agent" in said
    assert await mesh.tickets("forged") == [], "no ticket is left for it"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        await put_status(mesh, "silent", OperatorAccess("127.0.0.1", silent.getsockname()[1], "0" * 64))
        assert "silent: 127.0.0.1 port" in await refused(mesh, "proxy-config", "routes", "silent")


async def test_what_the_agent_answers_is_told(mesh: OperatorMesh, tmp_path: Path) -> None:
    async with (
        ConsulClient(mesh.address("agent")) as client,
        serving(mesh, AdminClient(tmp_path / "none.sock"), client) as other,
    ):
        await put_status(mesh, "headless", other.access)
        said = await refused(mesh, "proxy-config", "routes", "headless")
        # The ticket is for `headless`, and what answers is the agent of `test`: another node's ticket.
        assert "headless refuses: no such ticket" in said
        assert await mesh.tickets("headless") == [], "what could not be used is taken away"


def replace_fingerprint(access: OperatorAccess) -> OperatorAccess:
    """Return the same place with a certificate that nobody has."""
    return msgspec.structs.replace(access, fingerprint="0" * 64)
