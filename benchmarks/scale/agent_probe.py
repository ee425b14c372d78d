"""The whole agent as the probe: a lab host with hostmesh-agent, Envoy, interception, names and its own Consul client.

A change was seen when Envoy acknowledged the endpoint resource that it altered; the agent tells each acknowledgement,
with its time, on its admin socket. Whether Envoy has what it acknowledged is looked up at the end in Envoy itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from agent.adapters.xds.acks import Acknowledgement
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, LabPlan
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, outbound_cluster
from agent.mesh.service import ServiceKey
from benchmarks.scale.catalog_load import PORT, Change

SUBNET = "10.78.92.0/24"
HOST = "client"
_KEPT = ("certificates",)
"""What a first start has from its join token, which is spent."""


def lab_plan(name: str, _page_port: int, consul_port: int) -> LabPlan:
    """Return a lab of a Consul server with the certificate authority, and one host with an agent."""
    app = App("load", (sys.executable, "-m", "http.server", "9090", "--bind", "127.0.0.1"), 9090, health_path="")
    return LabPlan(
        hosts=(CONSUL_HOST, HostPlan(HOST, (app,))),
        name=name,
        prefix=f"{name}-",
        subnet=SUBNET,
        consul_port=consul_port,
    )


class AgentProbe:
    """Starts the agent of a lab's host with nothing remembered of the mesh and follows its acknowledgements."""

    name = "agent"

    def __init__(self, lab: Lab, services: int) -> None:
        self._lab, self._host = lab, lab[HOST]
        self._wanted = {_endpoints(f"s{number}") for number in range(services)}
        self._held: dict[str, str] = {}
        self._waiting: dict[str, set[asyncio.Future[float]]] = {}
        self._synced: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._reader: asyncio.Task[None] | None = None

    @property
    def processes(self) -> Mapping[str, int]:
        """Return the pids of the agent, its Envoy and dnsmasq."""
        found = {part: self._host.pid(part) for part in ("agent", "envoy", "dnsmasq")}
        return {part: pid for part, pid in found.items() if pid is not None}

    async def start(self) -> float:
        """Start the agent on a host that knows nothing of the mesh."""
        await asyncio.to_thread(self._end_and_forget)
        started = time.monotonic()
        await asyncio.to_thread(self._lab.start_agent, HOST)
        self._reader = asyncio.create_task(self._read())
        return started

    async def synced(self) -> float:
        """Return when Envoy had acknowledged every service and everything else."""
        return await self._synced

    async def seen(self, change: Change) -> float:
        """Return when Envoy acknowledged the next form of the change's endpoint resource."""
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(_endpoints(change.service), set())
        waiting.add(future)
        try:
            return await future
        finally:
            waiting.discard(future)

    async def differences(self, serving: Mapping[str, frozenset[str]]) -> int | None:
        """Return how many services have other endpoints in Envoy's own dump than these."""
        query = "http://envoy/config_dump?include_eds&resource=dynamic_endpoint_configs"
        async with self._session("run/envoy-admin.sock") as session, session.get(query) as answer:
            dump = json.loads(await answer.read())
        found = {}
        for entry in dump["configs"]:
            assignment = entry["endpoint_config"]
            found[assignment["cluster_name"]] = frozenset(_addresses(assignment))
        names = {_endpoints(service): addresses for service, addresses in serving.items()}
        return sum(found.get(name) != addresses for name, addresses in names.items())

    async def stop(self) -> None:
        """End the agent."""
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await asyncio.to_thread(self._lab.stop, HOST, "agent")

    def _end_and_forget(self) -> None:
        self._lab.stop(HOST, "agent")
        for path in self._host.path("var").iterdir():
            if path.is_file():
                path.unlink()
            elif path.name not in (*_KEPT, "dns"):
                shutil.rmtree(path)

    async def _read(self) -> None:
        decode = msgspec.json.Decoder(Acknowledgement).decode
        async with self._session("run/admin.sock") as session, await _connected(session) as answer:
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._note(decode(line))

    def _note(self, acknowledgement: Acknowledgement) -> None:
        for type_url, name, version in acknowledgement.taken:
            # With a cluster its endpoints are gone: Envoy does not acknowledge that, it unsubscribes.
            counts = type_url == ENDPOINT_TYPE or (type_url == CLUSTER_TYPE and not version)
            if counts and self._held.get(name) != version:
                self._held[name] = version
                for future in self._waiting.get(name, ()):
                    if not future.done():
                        future.set_result(acknowledgement.time)
        if acknowledgement.settled and not self._synced.done() and self._wanted <= self._held.keys():
            self._synced.set_result(acknowledgement.time)

    def _session(self, socket: str) -> aiohttp.ClientSession:
        connector = aiohttp.UnixConnector(str(self._host.path(socket)))
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))


async def _connected(session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    """Return the answer of an agent that is just starting."""
    while True:
        try:
            return await session.get("http://agent/acks")
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.01)


def _endpoints(service: str) -> str:
    return outbound_cluster(ServiceKey("default", service), PORT)


def _addresses(assignment: Mapping[str, Any]) -> list[str]:
    sockets = [
        endpoint["endpoint"]["address"]["socket_address"]
        for locality in assignment.get("endpoints", ())
        for endpoint in locality.get("lb_endpoints", ())
    ]
    return [f"{each['address']}:{each['port_value']}" for each in sockets]
