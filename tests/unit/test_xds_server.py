"""The gRPC side of the xDS server, by real gRPC clients on a real Unix socket: hostile ones, two at once, its file."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from agent.adapters.xds.server import SERVICE, ProxyState, XdsServer
from agent.errors import HostError
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE
from agent.mesh.snapshot import Resources
from tests.unit.xds_model import make, state


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hm-xds-") as folder:
        yield Path(folder) / "run" / "xds.sock"


@pytest.fixture
async def server(path: Path) -> AsyncIterator[XdsServer]:
    made = XdsServer(path)
    await made.start()
    yield made
    await made.stop()


class Client:
    """A hand-driven delta stream."""

    def __init__(self, path: Path, method: str = "DeltaAggregatedResources") -> None:
        self.channel = grpc.aio.insecure_channel(f"unix:{path}")
        self.call = self.channel.stream_stream(f"/{SERVICE}/{method}")()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        await self.channel.close()

    async def ask(self, type_url: str, node: str = "n", nonce: str = "") -> None:
        request = DeltaDiscoveryRequest(type_url=type_url, node=base_pb2.Node(id=node), response_nonce=nonce)
        request.node.user_agent_build_version.version.major_number = 1
        await self.call.write(request.SerializeToString())

    async def response(self) -> DeltaDiscoveryResponse:
        return DeltaDiscoveryResponse.FromString(await asyncio.wait_for(self.call.read(), 5))

    async def take_everything(self, node: str) -> None:
        for type_url in (CLUSTER_TYPE, LISTENER_TYPE):
            await self.ask(type_url, node)
            await self.ask(type_url, node, (await self.response()).nonce)


async def test_acknowledgements_can_be_followed(server: XdsServer, path: Path) -> None:
    server.publish(state([make(CLUSTER_TYPE, "a", 1)]), 1)
    async with Client(path) as client, aclosing(server.follow_acks()) as acks:
        assert (await anext(acks)).taken == ()
        await client.take_everything("n")
        first, second = await anext(acks), await anext(acks)
        assert first.taken == ((CLUSTER_TYPE, "a", make(CLUSTER_TYPE, "a", 1).version),)
        assert (first.settled, second.settled, second.taken) == (False, True, ())
        async with aclosing(server.follow_acks()) as late:
            assert (await anext(late)).taken == first.taken
        server.publish(state([]), 2)
        await client.ask(CLUSTER_TYPE, "n", (await client.response()).nonce)
        assert (await anext(acks)).taken == ((CLUSTER_TYPE, "a", ""),)


async def test_a_client_gets_what_is_published(server: XdsServer, path: Path) -> None:
    changes: list[ProxyState] = []
    server.on_change = lambda: changes.append(server.state)
    async with Client(path) as client:
        server.publish(state([make(CLUSTER_TYPE, "a", 0)]), 7)
        await client.take_everything("node-1")
        assert await server.wait_acked(7, 5)
        assert (server.state.node_id, server.state.proxy_version) == ("node-1", "1.0.0")
        assert server.state.resources_sent == {CLUSTER_TYPE: 1, LISTENER_TYPE: 0}
        assert server.state.responses == 2
        server.publish(state([make(CLUSTER_TYPE, "a", 1)]), 8)
        assert not await server.wait_acked(8, 0.05)
        response = await client.response()
        assert [entry.name for entry in response.resources] == ["a"]
        await client.ask(CLUSTER_TYPE, nonce=response.nonce)
        assert await server.wait_acked(8, 5)
    await until_streams(server, 0)
    assert not server.state.connected
    assert server.state.acked_revision == 8
    assert [change.connected for change in changes][-2:] == [True, False]


async def test_two_proxies_at_once(server: XdsServer, path: Path) -> None:
    server.publish(Resources(), 1)
    async with Client(path) as old:
        await old.take_everything("old")
        async with Client(path) as new:
            await new.take_everything("new")
            assert await server.wait_acked(1, 5)
            assert (server.state.node_id, server.state.streams) == ("new", 2)
            server.publish(state([make(CLUSTER_TYPE, "a", 1)]), 2)
            for client in (old, new):
                assert (await client.response()).resources[0].name == "a"
        await until_streams(server, 1)
        assert server.state.node_id == "old"


@pytest.mark.parametrize(
    "message",
    [b"\xff\xff\xff", b"", DeltaDiscoveryRequest(resource_names_subscribe=["x"]).SerializeToString()],
    ids=["no protobuf", "empty", "no type"],
)
async def test_broken_requests_end_their_stream_only(server: XdsServer, path: Path, message: bytes) -> None:
    server.publish(Resources(), 1)
    async with Client(path) as good:
        await good.take_everything("good")
        async with Client(path) as broken:
            await broken.call.write(message)
            assert await broken.call.code() == grpc.StatusCode.INVALID_ARGUMENT
        server.publish(state([make(CLUSTER_TYPE, "a", 1)]), 2)
        assert (await good.response()).resources[0].name == "a"
        await until_streams(server, 1)


async def test_state_of_the_world_is_not_implemented(server: XdsServer, path: Path) -> None:
    async with Client(path, "StreamAggregatedResources") as client:
        assert await client.call.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_wait_gives_up_without_a_proxy(server: XdsServer) -> None:
    server.publish(Resources(), 1)
    assert not await server.wait_acked(1, 0.01)


async def test_the_socket_is_private_and_goes_with_the_server(path: Path) -> None:
    umask = os.umask(0o022)
    try:
        server = XdsServer(path)
        await server.start()
        assert mode(path) == 0o600
        assert mode(path.parent) == 0o700
        assert os.umask(0o022) == 0o022
        await server.stop()
        assert os.listdir(path.parent) == []
        await server.stop()
    finally:
        os.umask(umask)


async def test_a_dead_servers_socket_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = XdsServer(path)
    await server.start()
    async with Client(path) as client:
        server.publish(Resources(), 1)
        await client.ask(CLUSTER_TYPE)
        await client.response()
    await server.stop()


async def test_a_path_that_cannot_be_used_is_refused(server: XdsServer, path: Path) -> None:
    with pytest.raises(HostError, match="another process serves"):
        await XdsServer(path).start()
    taken = path.parent / "file"
    taken.write_text("mine")
    with pytest.raises(HostError, match="is not a socket"):
        await XdsServer(taken).start()
    assert taken.read_text() == "mine"
    with pytest.raises(HostError, match="longer than 107 bytes"):
        await XdsServer(path.parent / ("x" * 120)).start()


async def until_streams(server: XdsServer, count: int) -> None:
    changed = asyncio.Event()
    before = server.on_change

    def note() -> None:
        before()
        changed.set()

    server.on_change = note
    async with asyncio.timeout(5):
        while server.state.streams != count:
            await changed.wait()
            changed.clear()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
