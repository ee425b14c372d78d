"""The delta ADS server for the local Envoy, on a Unix socket. Only transport: what is sent and when is `delta`'s."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Protocol

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from msgspec import Struct, field
from msgspec.structs import replace

from agent.adapters.xds.acks import AckFeed, Acknowledgement
from agent.adapters.xds.delta import DeltaStream, Limits, ProtocolError
from agent.adapters.xds.response import Pack
from agent.adapters.xds.unix_socket import clear_path, private_files
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.mesh.snapshot import Resources

logger = logging.getLogger(__name__)

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
OPTIONS = (
    # A reconnecting Envoy names every resource it holds in one request.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.so_reuseport", 0),
)
MAX_STREAMS = 16


class Context(Protocol):
    """What is used of grpc's ServicerContext (grpcio has no types)."""

    async def write(self, message: bytes) -> None:
        """Send one message."""

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error."""


class ProxyState(Struct, frozen=True):
    """What is known of the Envoy that connected last; revisions are those given to `publish`."""

    connected: bool = False
    proxy_version: str = ""
    node_id: str = ""
    published_revision: int = 0
    acked_revision: int = 0
    """The newest revision that Envoy has acknowledged whole (refused resources count as answered: see `nacks`)."""
    settled: bool = False
    """Everything published last is acknowledged, also where the revision number is the same as before."""
    nacks: tuple[Fault, ...] = ()
    """What Envoy refuses of the newest Resources; it serves on with the last good form."""
    streams: int = 0
    resources_sent: Mapping[str, int] = field(default_factory=dict)
    """Type URL → resources sent since start, to all streams."""
    responses: int = 0


class _Connection:
    """A stream and the signal that it may have something to send."""

    def __init__(self, limits: Limits) -> None:
        self.stream = DeltaStream(limits)
        self.wake = asyncio.Event()


class XdsServer:
    """Serves the newest published Resources to every Envoy that connects to the socket."""

    def __init__(
        self, socket_path: Path | str, clock: Callable[[], float] = time.monotonic, limits: Limits | None = None
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._path = Path(socket_path)
        self._clock = clock
        self._limits = limits or Limits()
        self._published: tuple[Resources, int] | None = None
        self._connections: list[_Connection] = []
        self._sent: Counter[str] = Counter()
        self._responses = 0
        self._state = ProxyState()
        self._changed = asyncio.Event()
        self._acks = AckFeed()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen on the socket (mode 0600). Raises HostError."""
        clear_path(self._path)
        server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        # Bytes in and out: a message that is no protobuf is this class's to refuse. The state-of-the-world variant
        # is not registered: grpc answers UNIMPLEMENTED.
        method = grpc.stream_stream_rpc_method_handler(self._serve)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method}),)
        )
        try:
            with private_files():
                server.add_insecure_port(f"unix:{self._path}")
            self._path.chmod(0o600)
        except (RuntimeError, OSError) as error:
            raise HostError(f"{self._path}: cannot listen for Envoy: {error}") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Close every stream and remove the socket; Envoy keeps what it holds and tries to connect again."""
        if self._server is not None:
            await self._server.stop(grace=None)
            self._server = None
            self._path.unlink(missing_ok=True)

    def publish(self, resources: Resources, revision: int) -> None:
        """Make these the newest Resources, for streams present and future; never blocks."""
        self._published = (resources, revision)
        for connection in self._connections:
            connection.stream.publish(resources, revision, self._clock())
            connection.wake.set()
        self._note_change()

    @property
    def state(self) -> ProxyState:
        """Return the present state, counters included (these alone changing is not reported by `on_change`)."""
        return replace(self._state, resources_sent=dict(self._sent), responses=self._responses)

    async def wait_changed(self) -> None:
        """Wait until `state` changes."""
        await self._changed.wait()

    async def wait_acked(self, revision: int, timeout: float) -> bool:
        """Wait until a connected Envoy has acknowledged that revision or a newer one; False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not (self._state.connected and self._state.acked_revision >= revision):
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def follow_acks(self) -> AsyncGenerator[Acknowledgement, None]:
        """Yield what Envoy holds now, then each acknowledgement as it comes."""
        return self._acks.follow(self._held_now)

    def _held_now(self) -> Acknowledgement:
        live = [connection.stream for connection in self._connections if connection.stream.connected]
        taken = tuple(live[-1].held()) if live else ()
        return Acknowledgement(self._clock(), self._state.settled, taken)

    def _tell_ack(self, type_url: str, pack: Pack, settled: bool) -> None:
        taken = tuple((type_url, name, version) for name, version in pack.versions.items())
        self._acks.tell(Acknowledgement(self._clock(), settled, taken))

    async def _serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        connection = _Connection(self._limits)
        if self._published:
            connection.stream.publish(*self._published, self._clock())
        self._connections.append(connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(connection, context), name="xds-writer")
                refusal = await self._read(connection, requests)
                writer.cancel()
        finally:
            self._connections.remove(connection)
            self._note_change()
        if refusal:
            logger.warning("xDS stream of node %r ended: %s", connection.stream.node_id, refusal)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal)

    async def _read(self, connection: _Connection, requests: AsyncIterator[bytes]) -> str | None:
        async for data in requests:
            try:
                request = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
                acked = connection.stream.receive(request, self._clock())
            except DecodeError:
                return "a message is not a DeltaDiscoveryRequest"
            except ProtocolError as error:
                return str(error)
            if acked and self._acks.is_followed:
                self._tell_ack(request.type_url, acked, connection.stream.settled)
            connection.wake.set()
            self._note_change()
        return None

    async def _write(self, connection: _Connection, context: Context) -> None:
        while True:
            connection.wake.clear()
            for response in connection.stream.responses(self._clock()):
                await context.write(self._counted(response))
            self._note_change()
            await self._woken(connection)

    async def _woken(self, connection: _Connection) -> None:
        now = self._clock()
        deadline = connection.stream.deadline(now)
        try:
            async with asyncio.timeout(None if deadline is None else deadline - now):
                await connection.wake.wait()
        except TimeoutError:
            return

    def _counted(self, response: discovery_pb2.DeltaDiscoveryResponse) -> bytes:
        data: bytes = response.SerializeToString()
        self._sent[response.type_url] += len(response.resources)
        self._responses += 1
        logger.debug(
            "xDS response %s: %s, %d resources, %d removed, %d bytes",
            response.nonce, response.type_url, len(response.resources), len(response.removed_resources), len(data),
        )  # fmt: skip
        return data

    def _note_change(self) -> None:
        state = self._state_of_newest()
        if state == self._state:
            return
        self._state = state
        self._changed.set()
        self._changed = asyncio.Event()
        self.on_change()

    def _state_of_newest(self) -> ProxyState:
        published = self._published[1] if self._published else 0
        live = [connection.stream for connection in self._connections if connection.stream.connected]
        if not live:
            # What the last one acknowledged and refused is still true: it serves on with that.
            return replace(self._state, connected=False, published_revision=published, settled=False, streams=0)
        newest = live[-1]
        return ProxyState(
            connected=True,
            proxy_version=newest.proxy_version,
            node_id=newest.node_id,
            published_revision=published,
            acked_revision=newest.acked_revision,
            settled=newest.settled,
            nacks=newest.faults,
            streams=len(live),
        )
