"""One agent's operator port for tests: a real Consul that denies by default, a real Envoy, and whoever asks."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
from aiohttp import web

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.policies import administrator_policy, agent_policy
from agent.adapters.consul.status import StatusWriter
from agent.adapters.consul.tickets import TicketBox
from agent.adapters.proxy.admin import AdminClient
from agent.errors import HostError
from agent.mesh.names import ticket_key
from agent.mesh.status import NodeStatus, OperatorAccess
from agent.mesh.tickets import Proof, new_ticket
from agent.runtime.operator_port import OperatorPort
from tests.integration.consul_probe import background
from tests.integration.consul_process import ConsulProcess
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port
from tests.programs import ENVOY
from tests.waiting import eventually

NODE = "test"
ADDRESS = "127.0.0.1"
ROOT = "11111111-2222-3333-4444-555555555555"
HOSTMESH = Path(sys.executable).with_name("hostmesh")
DENYING = {
    "primary_datacenter": "dc1",
    "acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": ROOT, "agent": ROOT}},
}
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


@dataclass(frozen=True)
class Command:
    """What the command line did."""

    code: int
    out: str
    err: str


@dataclass
class OperatorMesh:
    """A Consul with tokens of an agent, an operator and a reader, and one agent's operator port."""

    consul: ConsulProcess
    folder: Path
    key: bytes
    """The private key that Envoy holds."""
    tokens: dict[str, str] = field(default_factory=dict)
    access: OperatorAccess | None = None

    def address(self, who: str) -> ConsulAddress:
        """Return Consul's address with somebody's token."""
        return replace(self.consul.address, token=self.tokens[who])

    async def hostmesh(self, *arguments: str, who: str = "operator") -> Command:
        """Run the CLI with somebody's token, as on another host: no agent's socket is here."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "CONSUL_HTTP_ADDR": self.consul.http_address,
            "CONSUL_HTTP_TOKEN": self.tokens[who],
            "HOSTMESH_RUN_DIR": str(self.folder / "none"),
        }
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            str(HOSTMESH), *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return Command(process.returncode or 0, out.decode(), err.decode())

    async def ticket(self, wanted: str = "routes", node: str = NODE, age: float = 0.0) -> Proof:
        """Write a ticket as the CLI does and return its proof."""
        proof, ticket = new_ticket(wanted, time.time() - age)
        await self.write(proof, msgspec.json.encode(ticket), node)
        return proof

    async def write(self, proof: Proof, value: bytes, node: str = NODE) -> None:
        """Write a value in the place of a ticket."""
        await self.consul.put(f"/v1/kv/{ticket_key(node, proof.id)}", json.loads(value) if value else None)

    async def tickets(self, node: str = NODE) -> list[str]:
        """Return the ids of the tickets that are there."""
        try:
            keys = await self.consul.get(f"/v1/kv/{ticket_key(node)}?keys")
        except AssertionError:
            return []
        return [key.rpartition("/")[2] for key in keys or ()]

    async def ask(self, proof: Proof | str, view: str = "routes", source: str = "127.0.0.1") -> tuple[int, bytes]:
        """Ask from a source address with a proof, or with that Authorization header."""
        header = proof.authorization if isinstance(proof, Proof) else proof
        line = f"Authorization: {header}\r\n" if header else ""
        answer = await self.send(f"GET /envoy/{view} HTTP/1.1\r\nHost: x\r\n{line}\r\n".encode(), source)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, _unchunked(body)

    async def send(self, data: bytes, source: str = "127.0.0.1") -> bytes:
        """Send bytes over TLS and return all that comes back."""
        reader, writer = await self.connect(source)
        try:
            writer.write(data)
            return await asyncio.wait_for(reader.read(-1), 20)
        except OSError:
            return b""
        finally:
            writer.transport.abort()

    async def connect(
        self, source: str = "127.0.0.1", tls: bool = True
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect from a source address; raises OSError when the port closes the connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        assert self.access is not None
        return await asyncio.open_connection(
            self.access.address, self.access.port, ssl=context if tls else None, local_addr=(source, 0)
        )


@asynccontextmanager
async def operator_mesh(folder: Path) -> AsyncIterator[OperatorMesh]:
    """Run all of it for the length of the block."""
    certificates = TestAuthority().write(folder / "certificates", "spiffe://mesh.test/ns/default/sa/x")
    async with AsyncExitStack() as stack:
        consul = await stack.enter_async_context(ConsulProcess(node=NODE, settings=DENYING))
        mesh = OperatorMesh(consul, folder, (certificates / "key.pem").read_bytes())
        mesh.tokens = {
            "agent": await token(consul, agent_policy(NODE, ["NAME"])),
            "operator": await token(consul, administrator_policy()),
            "reader": await token(consul, 'key_prefix "hostmesh/status/" { policy = "read" }'),
            "nobody": await token(consul, 'key "nothing" { policy = "read" }'),
        }
        await stack.enter_async_context(_envoy(folder, certificates))
        client = await stack.enter_async_context(ConsulClient(mesh.address("agent")))
        mesh = await stack.enter_async_context(serving(mesh, AdminClient(folder / "envoy.sock", 30.0), client))
        writer = StatusWriter(client, NODE)
        await stack.enter_async_context(background(writer.run()))
        writer.write(NodeStatus(NODE, operator=mesh.access))
        await eventually(lambda: _is_there(consul, f"/v1/kv/hostmesh/status/{NODE}"))
        yield mesh


@asynccontextmanager
async def serving(
    mesh: OperatorMesh, envoy: AdminClient, client: ConsulClient, address: str = ADDRESS
) -> AsyncIterator[OperatorMesh]:
    """Run an operator port of this node for that Envoy, with that client; yields the mesh as seen by it."""
    port = OperatorPort(TicketBox(client, NODE), envoy)
    announced: asyncio.Future[OperatorAccess] = asyncio.get_running_loop().create_future()
    async with background(port.run(address, free_port(), announced.set_result, lambda _: None)):
        yield replace(mesh, access=await asyncio.wait_for(announced, 10))


@asynccontextmanager
async def answering(mesh: OperatorMesh, folder: Path, body: bytes) -> AsyncIterator[OperatorMesh]:
    """Run an operator port for an admin interface that answers everything with this body."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.UnixSite(runner, str(folder / "admin.sock")).start()
        envoy = AdminClient(folder / "admin.sock", 30.0)
        async with ConsulClient(mesh.address("agent")) as client, serving(mesh, envoy, client) as other:
            yield other
    finally:
        await runner.cleanup()


async def token(consul: ConsulProcess, rules: str) -> str:
    """Return a fresh token whose policy has these rules."""
    name = f"p{abs(hash(rules))}"
    await consul.put("/v1/acl/policy", {"Name": name, "Rules": rules})
    made = await consul.put("/v1/acl/token", {"Policies": [{"Name": name}]})
    return str(made["SecretID"])


async def _is_there(consul: ConsulProcess, path: str) -> bool:
    try:
        return bool(await consul.get(path))
    except AssertionError:
        return False


@asynccontextmanager
async def _envoy(folder: Path, certificates: Path) -> AsyncIterator[None]:
    """Run an Envoy that holds a private key inline, and one by file."""
    key, chain = ((certificates / name).read_text() for name in ("key.pem", "cert-chain.pem"))
    own = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}}
    by_file = {
        "certificate_chain": {"filename": str(certificates / "cert-chain.pem")},
        "private_key": {"filename": str(certificates / "key.pem")},
    }
    sds = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "own"}]},
    }
    upstream = {"@type": f"{_TLS}.UpstreamTlsContext", "common_tls_context": {"tls_certificates": [by_file]}}
    tcp = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "x",
        "cluster": "backend",
    }
    endpoint = {"endpoint": {"address": {"socket_address": {"address": ADDRESS, "port_value": 9}}}}
    config = {
        "admin": {"address": {"pipe": {"path": str(folder / "envoy.sock"), "mode": 0o600}}},
        "static_resources": {
            "secrets": [{"name": "own", "tls_certificate": own}],
            "listeners": [
                {
                    "name": "front",
                    "address": {"socket_address": {"address": ADDRESS, "port_value": free_port()}},
                    "filter_chains": [
                        {
                            "filters": [{"name": "tcp", "typed_config": tcp}],
                            "transport_socket": {"name": "tls", "typed_config": sds},
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "backend",
                    "load_assignment": {"cluster_name": "backend", "endpoints": [{"lb_endpoints": [endpoint]}]},
                    "transport_socket": {"name": "tls", "typed_config": upstream},
                }
            ],
        },
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    log = folder / "envoy.log"
    command = [
        str(ENVOY),
        "-c",
        str(folder / "envoy.json"),
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "-l",
        "warning",
    ]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
    try:

        async def live() -> bool:
            assert process.returncode is None, log.read_text()
            with suppress(HostError):
                return bool(await AdminClient(folder / "envoy.sock").get("/ready"))
            return False

        await eventually(live)
        yield
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _unchunked(body: bytes) -> bytes:
    pieces = []
    while body:
        size, _, body = body.partition(b"\r\n")
        pieces.append(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return b"".join(pieces)
