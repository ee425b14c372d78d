"""What is compared, on one lab of two hosts: the mesh's own pair of Envoys, and beside it the hand-written pair.

All three ways lead from the client's network namespace over the same bridge to the same application process. The
hand-written pair is client.json and server.json: as little as mutual TLS with secure naming and HTTP need.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from string import Template

import psutil
from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.external import ExternalInstance, ExternalInstances
from agent.errors import HostError
from agent.lab import network
from agent.lab.host import Host
from agent.lab.hostfiles import AGENT_UID, APP_UID
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, LabPlan
from agent.lab.processes import in_network_namespaces, name_of
from agent.lab.programs import find_programs
from agent.mesh.service import Port, Protocol, ServiceKey
from benchmarks.testlab import running
from tests.integration.meshlab import envoy_admin
from tests.mesh_certificates import TestAuthority
from tests.waiting import wait_for

FOLDER = Path(__file__).parent
SUBNET = "10.78.90.0/24"
DIRECT_PORT, STATIC_PORT, MESH_PORT = 9180, 9280, 9080
BODY = "hostmesh " * 16
STATIC_UID = 2010
"""Not the agents' user, whose connections are never captured, nor anybody else's."""
EXTRA_ADDRESS = "192.0.2.1"
"""Where the services of which there are only names are said to be (RFC 5737)."""


class Way(Struct, frozen=True):
    """One way from client to application."""

    name: str
    url: str
    proxies: tuple[int, ...]
    """The pids of the Envoys on the way."""


class Testbed(Struct, frozen=True):
    """Everything that is measured."""

    lab: Lab
    ways: tuple[Way, ...]

    @property
    def client(self) -> Host:
        """Return the host where the load is made."""
        return self.lab["client"]

    def add_services(self, count: int) -> None:
        """Enter services without traffic into the catalog and wait until the client's route table has them."""
        catalog = ExternalInstances(ConsulAddress(port=self.lab.plan.consul_port))
        port = Port(MESH_PORT, "http", Protocol.HTTP)
        keys = [ServiceKey("default", f"extra-{number}") for number in range(count)]
        for key in keys:
            catalog.register(ExternalInstance(key, EXTRA_ADDRESS, (port,)))
        last = f"{keys[-1]}:{MESH_PORT}"
        wait_for(lambda: last in self.route_table(), f"{count} services in the client's route table")

    def route_table(self) -> str:
        """Return the route tables of the client's mesh Envoy as its admin tells them."""
        return envoy_admin(self.client, "/config_dump?resource=dynamic_route_configs")


@contextmanager
def testbed(concurrency: int) -> Iterator[Testbed]:
    """Bring up lab, application and both pairs; every Envoy has that many worker threads. All is gone at the end."""
    with running(lambda name, _page, consul: _plan(name, consul, concurrency)) as lab:
        _start_static_pair(lab, concurrency)
        ways = (
            Way("direct", f"http://{lab['server'].address}:{DIRECT_PORT}/", ()),
            Way("hand-written", f"http://127.0.0.1:{STATIC_PORT}/", _pids(lab, "static")),
            Way("mesh", f"http://echo:{MESH_PORT}/", (mesh_proxy(lab["client"]), mesh_proxy(lab["server"]))),
        )
        for way in ways:
            wait_for(partial(_answers, lab["client"], way.url), f"an answer from {way.url}")
        bed = Testbed(lab, ways)
        _require_mutual_tls(bed)
        yield bed


def _plan(name: str, consul_port: int, concurrency: int) -> LabPlan:
    settings = {"proxy": {"concurrency": concurrency}}
    app = envoy_command(concurrency, "app.json", {"BODY": BODY})
    echo = App("echo", app, MESH_PORT, service_account="echo", health_path="/")
    # A client has an identity because it has a workload; nobody calls this one.
    idle = App("load", (sys.executable, "-m", "http.server", "9090", "--bind", "127.0.0.1"), 9090, health_path="")
    return LabPlan(
        hosts=(
            CONSUL_HOST,
            HostPlan("client", (idle,), settings=settings),
            HostPlan("server", (echo,), settings=settings),
        ),
        name=name,
        prefix=f"{name}-",
        subnet=SUBNET,
        consul_port=consul_port,
    )


def envoy_command(concurrency: int, template: str, values: Mapping[str, str]) -> tuple[str, ...]:
    config = Template((FOLDER / template).read_text()).substitute(values)
    options = ("--concurrency", str(concurrency), "--disable-hot-restart", "--log-level", "warning")
    return (find_programs(("envoy",))["envoy"], *options, "--config-yaml", config)


def _start_static_pair(lab: Lab, concurrency: int) -> None:
    authority = TestAuthority()
    for name, identity in (("client", "load"), ("server", "echo")):
        host = lab[name]
        folder = authority.write(host.path("static"), f"spiffe://cluster.local/ns/default/sa/{identity}")
        for file in folder.iterdir():
            file.chmod(0o644)
        values = {"SERVER": lab["server"].address, "CERTIFICATES": str(folder)}
        host.start("static", envoy_command(concurrency, f"{name}.json", values), STATIC_UID)


def _pids(lab: Lab, part: str) -> tuple[int, ...]:
    pids = [lab[name].pid(part) for name in ("client", "server")]
    if None in pids:
        raise HostError(f"{part}: an Envoy ended at once: {lab['client'].log(part)}{lab['server'].log(part)}")
    return tuple(pid for pid in pids if pid is not None)


def mesh_proxy(host: Host) -> int:
    """Return the pid of the agent's Envoy: of several on this host, the one of the agent's user."""
    inode = network.inode_of(host.namespace)
    for process in in_network_namespaces({inode} if inode else ()):
        if name_of(process.pid) == "envoy" and psutil.Process(process.pid).uids().real == AGENT_UID:
            return process.pid
    raise HostError(f"{host.name}: no Envoy of the agent's")


def _answers(client: Host, url: str) -> bool:
    done = client.exec("curl", "--silent", "--fail", "--max-time", "5", url, uid=APP_UID, check=False)
    return done.stdout == BODY


def _require_mutual_tls(bed: Testbed) -> None:
    """Raise HostError unless the mesh pair speaks mutual TLS: in plain text the comparison would flatter it."""
    stats = envoy_admin(bed.client, "/stats?filter=echo.*ssl.handshake")
    if not any(int(line.rpartition(" ")[2]) for line in stats.splitlines()):
        raise HostError("the mesh's way to `echo` has made no TLS handshake: not what is to be measured")
