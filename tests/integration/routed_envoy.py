"""One Envoy that follows one rule set after another, and instances that say their address; for tests of many rule sets.

The way of the rules is the agent's: read, checked, lowered, planned, sent by the xDS server. Not for what needs more
than one host.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct, structs

from agent.adapters.xds.server import XdsServer
from agent.api.document import Document, read_documents
from agent.api.lowering.lower import Lowerer
from agent.api.validate import validate
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey, Workload, labels_of
from agent.mesh.settings import MeshSettings, MtlsMode, OutboundTrafficPolicy
from agent.translate.bootstrap import BootstrapOptions, bootstrap
from agent.translate.plan import Planner, PlanOptions
from tests.integration import routing_reference as reference
from tests.integration.xds_envoy import socket_folder
from tests.ports import free_ports
from tests.programs import ENVOY
from tests.unit.mesh_samples import mesh

T = TypeVar("T")
SETTINGS = MeshSettings(mtls=MtlsMode.DISABLED, outbound_traffic_policy=OutboundTrafficPolicy.REGISTRY_ONLY)
_CANARY = "revision"
"""A service whose only route answers with the number of the rule set: when it does, the worker has all of the set."""


class Got(Struct, frozen=True):
    """What a request got: a status, and the address that answered."""

    status: int
    instance: str
    location: str


class RoutedEnvoy:
    """An Envoy with the services' ports on an address of its own."""

    def __init__(
        self, address: str, services: Sequence[reference.Service], server: XdsServer, loop: EventLoop, log: Path
    ) -> None:
        self.address = address
        self.ports = tuple(sorted({port for service in services for port in service.ports}))
        self._server, self._log, self._loop = server, log, loop
        self._services = dict(map(_service, services))
        canary = ServiceKey("default", _CANARY)
        self._services[canary] = Service(canary, tuple(Port(port, "http", Protocol.HTTP) for port in self.ports), ())
        self._lowerer, self._planner = Lowerer(), Planner()
        self._revision = 0
        self._connections: dict[int, socket.socket] = {}

    def follow(self, documents: Sequence[Mapping[str, Any]], caller_labels: Mapping[str, str]) -> None:
        """Return when Envoy has accepted the whole plan of these objects, and does as it says on every port."""
        self._loop.run(self._publish(documents, caller_labels))
        self._wait_until_followed()

    async def _publish(self, documents: Sequence[Mapping[str, Any]], caller_labels: Mapping[str, str]) -> None:
        self._revision += 1
        by_key = {document.key: document for document in _read([*documents, self._canary()])}
        lowered = self._lowerer.lower(by_key, dict.fromkeys(self._services, True))
        page = Workload(ServiceKey("default", "page"), self.address, (), labels_of(caller_labels), proxied=False)
        snapshot = mesh(self._services.values(), lowered.policies, workloads=(page,), certified=False)
        snapshot = structs.replace(snapshot, settings=SETTINGS)
        desired = self._planner.plan(snapshot, PlanOptions(intercepted=False, bind_outbound=self.address))
        assert desired.dangling == ()
        self._server.publish(desired.resources, self._revision)
        assert await self._server.wait_acked(self._revision, 20), self._log.read_text()
        assert self._server.state.nacks == ()

    def _wait_until_followed(self) -> None:
        deadline = time.monotonic() + 20
        for port in self.ports:
            while self.send(reference.Request(port, _CANARY, "/")).status != 200 + self._revision % 300:
                assert time.monotonic() < deadline, f"port {port} does not follow: {self._log.read_text()}"

    def _canary(self) -> dict[str, Any]:
        answer = {"directResponse": {"status": 200 + self._revision % 300}}
        spec = {"hosts": [_CANARY], "http": [answer]}
        meta = {"name": _CANARY, "namespace": "default"}
        return {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": meta, "spec": spec}

    def send(self, request: reference.Request) -> Got:
        """Send a request byte by byte as it stands."""
        lines = [f"{request.method} {request.target} HTTP/1.1", f"Host: {request.host}", "Content-Length: 0"]
        lines += [f"{name}: {value}" for name, value in request.headers]
        head = self._exchange(request.port, "\r\n".join([*lines, "", ""]).encode())
        status, headers = head.partition("\r\n")[::2]
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in headers.split("\r\n"))}
        return Got(int(status.split()[1]), fields.get("x-instance", ""), fields.get("location", ""))

    def _exchange(self, port: int, request: bytes) -> str:
        for attempt in range(200):
            connection = self._connections.get(port)
            try:
                if connection is None:
                    connection = socket.create_connection((self.address, port), timeout=20)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._connections[port] = connection
                connection.sendall(request)
                return _answer(connection)
            except ConnectionError:  # not listening yet, or a connection that Envoy has closed in between
                self._close(port)
                if attempt:
                    time.sleep(0.05)
        raise AssertionError(f"{self.address}:{port}: no answer; {self._log.read_text()}")

    def _close(self, port: int) -> None:
        connection = self._connections.pop(port, None)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connections."""
        for port in list(self._connections):
            self._close(port)


def _answer(connection: socket.socket) -> str:
    """Return the head of an answer, when its body has come too."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    text = head.decode("latin-1")
    length = next((int(line[15:]) for line in text.lower().split("\r\n") if line.startswith("content-length:")), 0)
    while len(body) < length:
        body += _received(connection)
    return text


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


def _read(documents: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Return the documents as a file of them would be read; each of them must be valid."""
    found, problems = read_documents("\n---\n".join(map(json.dumps, documents)), "rules.yaml", "default")
    problems += [problem for document in found for problem in validate(document)]
    assert problems == []
    return found


def _service(service: reference.Service) -> tuple[ServiceKey, Service]:
    key = ServiceKey(service.namespace, service.name)
    ports = tuple(Port(number, f"http-{number}", Protocol.HTTP) for number in service.ports)
    made = [
        Instance(f"{key}-{n}", key, f"node-{n}", each.address, ports, labels_of(each.labels))
        for n, each in enumerate(service.instances)
    ]
    return key, Service(key, ports, tuple(made))


class _Instance(asyncio.Protocol):
    """Answers each request with the address that it came to, in a header."""

    def __init__(self) -> None:
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            self._data = self._data.partition(b"\r\n\r\n")[2]
            address = self._transport.get_extra_info("sockname")[0]
            self._transport.write(f"HTTP/1.1 200 OK\r\nx-instance: {address}\r\ncontent-length: 0\r\n\r\n".encode())


class EventLoop:
    """An event loop in a thread of its own, for tests that hypothesis runs."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def routed_envoy(
    address: str, services: Sequence[reference.Service], loop: EventLoop, folder: Path
) -> Iterator[RoutedEnvoy]:
    """Run the services' instances, the xDS server and Envoy until the block ends."""
    with ExitStack() as stack:
        sockets = Path(stack.enter_context(socket_folder()))
        health, stats = free_ports(2)
        admin, xds = (str(sockets / name) for name in ("admin.sock", "xds.sock"))
        options = BootstrapOptions(
            "node-1", admin_socket=admin, xds_socket=xds, health_port=health, stats_port=stats, ipv6=False
        )
        (folder / "bootstrap.json").write_bytes(bootstrap(options))
        for service in services:
            for each in service.instances:
                for port in service.ports:
                    started = loop.run(_listening(each.address, port))
                    stack.callback(loop.run, _closed(started))
        server = XdsServer(xds)
        loop.run(server.start())
        stack.callback(lambda: loop.run(server.stop()))
        log = folder / "envoy.log"
        command = [
            str(ENVOY),
            "-c",
            str(folder / "bootstrap.json"),
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "warning",
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        stack.callback(process.wait)
        stack.callback(process.kill)
        envoy = RoutedEnvoy(address, services, server, loop, log)
        stack.callback(envoy.close)
        yield envoy


async def _listening(address: str, port: int) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(_Instance, address, port)


async def _closed(server: asyncio.Server) -> None:
    server.close()
