"""`hostmesh node bundle | init | leave` and `mesh purge` against a real CA and a real Consul."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, UnixStreamServer
from typing import Any

import pytest
import yaml

from agent.adapters.consul.departure import Departure
from agent.adapters.consul.policies import agent_policy
from agent.adapters.consul.store import KvConnection
from agent.adapters.identity.administration import CaAdministration
from agent.cli.checkup.finding import Level, Patient
from agent.cli.checkup.outside import check_consul, check_ways
from agent.config import load_config
from agent.errors import ConflictError
from agent.mesh.names import config_key, status_key, ticket_key
from tests.integration.ca_process import CaProcess
from tests.integration.cli_consul import CommandLine, route_rule
from tests.integration.consul_process import ConsulProcess
from tests.integration.operator_mesh import DENYING, token

IDENTITY = "ns/default/sa/reviews"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaProcess]:
    with CaProcess(tmp_path_factory.mktemp("bundles") / "ca") as running:
        yield running


def make_bundle(hostmesh: CommandLine, ca: CaProcess, out: Path, *arguments: str) -> tuple[str, ...]:
    ports = f"{ca.enrolment_port},{ca.renewal_port}"
    words = ("node", "bundle", "web-1", "--ca", "127.0.0.1", "--identity", IDENTITY, "--ca-ports", ports)
    return (*words, "--socket", str(ca.socket), "--out", str(out), *arguments)


async def test_a_host_with_a_bundle_gets_its_certificate(hostmesh: CommandLine, ca: CaProcess, tmp_path: Path) -> None:
    out, etc = tmp_path / "web-1.bundle", tmp_path / "etc"
    secret = tmp_path / "token"
    secret.write_text("node-5ecret\n")
    made = make_bundle(hostmesh, ca, out, "--node-consul", hostmesh.address.url, "--node-token-file", str(secret))
    assert "node init --bundle" in hostmesh.ok(*made)
    assert out.stat().st_mode & 0o777 == 0o600
    assert "there already" in hostmesh.refused(*made)
    hostmesh.ok("node", "init", "--bundle", str(out), "--config-dir", str(etc), "--no-start")
    settings = yaml.safe_load((etc / "agent.yaml").read_text())
    assert settings["consul"] == {"address": hostmesh.address.url, "tokenFile": "consul-token"}
    assert settings["ca"]["enrolmentPort"] == ca.enrolment_port
    identity, token = (etc / "join-token").read_text().split()
    assert identity == IDENTITY
    info = next(it for it in CaAdministration(str(ca.socket)).list_tokens() if it.id == token.split(".")[1])
    assert (info.identity, info.uses, info.used) == (IDENTITY, 1, 0)


def test_a_bundle_for_another_ca_is_refused_and_its_token_too(
    hostmesh: CommandLine, ca: CaProcess, tmp_path: Path
) -> None:
    with CaProcess(tmp_path / "other") as other:
        words = make_bundle(hostmesh, ca, tmp_path / "x", "--ca-ports", f"{other.enrolment_port},1")
        assert "is not the CA that made the join token" in hostmesh.refused(*words)
    assert not (tmp_path / "x").exists()
    assert [it for it in CaAdministration(str(ca.socket)).list_tokens() if it.revoked_at]


class Mesh:
    """What agents have put into Consul, by hand."""

    def __init__(self, hostmesh: CommandLine) -> None:
        self.kv = KvConnection(hostmesh.address)

    def register(self, name: str, port: int, service_id: str) -> None:
        body = json.dumps({"Name": name, "ID": service_id, "Port": port})
        self.kv.send("put", "/v1/agent/service/register", data=body)

    def services(self) -> set[str]:
        return set(json.loads(self.kv.send("get", "/v1/agent/services").body))

    def start_session(self, node: str) -> str:
        body = json.dumps({"Name": f"hostmesh-agent {node}", "Behavior": "delete", "LockDelay": "0s"})
        session: str = json.loads(self.kv.send("put", "/v1/session/create", data=body).body)["ID"]
        self.kv.send("put", f"/v1/kv/{status_key(node)}", [("acquire", session)], data=b"{}")
        return session

    def sessions(self) -> list[str]:
        return [it["Name"] for it in json.loads(self.kv.send("get", "/v1/session/list").body)]

    def put(self, key: str) -> None:
        self.kv.send("put", f"/v1/kv/{key}", data=b"{}")

    def keys(self) -> list[str]:
        return [stored.key for stored in self.kv.read("hostmesh/")]

    def place(self, node: str, service_id: str, name: str, port: int, *tags: str) -> None:
        """Register an instance on a node that is dead."""
        entry = {"ID": service_id, "Service": name, "Port": port, "Tags": tags}
        body: dict[str, Any] = {"Node": node, "Address": "10.9.9.9", "Service": entry}
        self.kv.send("put", "/v1/catalog/register", data=json.dumps(body))

    def placed(self, node: str) -> set[str]:
        content = json.loads(self.kv.send("get", f"/v1/catalog/node/{node}").body) or {}
        return set(content.get("Services") or {})


@pytest.fixture
def mesh(hostmesh: CommandLine) -> Mesh:
    return Mesh(hostmesh)


@contextmanager
def agent_answers(folder: Path, body: bytes) -> Iterator[None]:
    """Answer on an agent's socket as one that is still there."""

    class Answer(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    with UnixStreamServer(str(folder / "admin.sock"), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_a_node_that_leaves_takes_out_its_own_and_nothing_else(
    hostmesh: CommandLine, mesh: Mesh, tmp_path: Path
) -> None:
    (tmp_path / "agent.yaml").write_text(f"node: web-1\nconsul: {{address: {hostmesh.address.url}}}\n")
    mesh.register("reviews", 9080, "hostmesh-reviews-9080")
    mesh.register("hostmesh-lookalike", 81, "hostmesh-lookalike")
    for node in ("web-1", "web-11"):
        mesh.start_session(node)
        mesh.put(ticket_key(node, "t"))
    leave = ("node", "leave", "--config-dir", str(tmp_path), "--run-dir", str(tmp_path))
    assert hostmesh.run(*leave, stdin="n\n").exit_code == 1
    with agent_answers(tmp_path, b'{"node": "web-1"}'):
        assert "the agent of web-1 still runs" in hostmesh.refused(*leave, "--yes")
    assert "hostmesh-reviews-9080" in mesh.services()
    assert "Deregistered hostmesh-reviews-9080" in hostmesh.ok(*leave, "--yes")
    assert mesh.services() == {"hostmesh-lookalike"}
    assert mesh.sessions() == ["hostmesh-agent web-11"]
    assert mesh.keys() == [status_key("web-11"), ticket_key("web-11", "t")]
    hostmesh.ok(*leave, "--yes")  # again: there is nothing left to do
    for session in json.loads(mesh.kv.send("get", "/v1/session/list").body):
        mesh.kv.send("put", f"/v1/session/destroy/{session['ID']}")
    mesh.kv.send("put", "/v1/agent/service/deregister/hostmesh-lookalike")


def test_a_mesh_is_purged_when_every_host_has_left(hostmesh: CommandLine, mesh: Mesh) -> None:
    hostmesh.ok("create", "-f", "-", stdin=route_rule("one"))
    hostmesh.ok("mesh", "set", "proxied=false")
    hostmesh.ok("register", "mysql", "1.2.3.4", "3306")
    mesh.place("gone", "hostmesh-web-80", "web", 80)
    mesh.place("gone", "other", "other", 81)
    session = mesh.start_session("web-1")
    assert "still in the mesh: " in hostmesh.refused("mesh", "purge", "--yes")
    mesh.kv.send("put", f"/v1/session/destroy/{session}")
    asked = hostmesh.run("mesh", "purge", stdin="n\n")
    assert asked.exit_code == 1
    for said in (config_key("default", "routerule", "one"), "hostmesh/mesh", "hostmesh-web-80 of node gone", "1-2-3-4"):
        assert said in asked.stdout
    assert len(mesh.keys()) == 2
    assert "Removed 2 keys under hostmesh/, 2 services" in hostmesh.ok("mesh", "purge", "--yes")
    assert mesh.keys() == []
    assert mesh.placed("gone") == {"other"}
    assert "hostmesh-external" not in mesh.kv.send("get", "/v1/catalog/nodes").body
    assert "Nothing of hostmesh" in hostmesh.ok("mesh", "purge", "--yes")


def test_what_was_written_since_it_was_listed_stays(hostmesh: CommandLine, mesh: Mesh) -> None:
    mesh.put("hostmesh/config/default/routerule/one")
    mesh.place("gone", "hostmesh-web-80", "web", 80)
    departure = Departure(hostmesh.address)
    found = departure.of_the_mesh()
    mesh.put("hostmesh/config/default/routerule/two")
    mesh.place("gone", "hostmesh-web-80", "web", 80, "newer")
    with pytest.raises(ConflictError, match="hostmesh-web-80 of node gone was changed meanwhile"):
        departure.remove(found)
    assert "hostmesh-web-80" in mesh.placed("gone")
    mesh.put("hostmesh/config/default/routerule/one")
    departure.remove(departure.of_the_mesh())
    assert mesh.keys() == []


async def test_a_host_leaves_and_looks_at_itself_with_no_more_than_the_agents_policy(tmp_path: Path) -> None:
    async with ConsulProcess(node="web-1", settings=DENYING) as consul:
        secret = await token(consul, agent_policy("web-1", ["reviews"]))
        (tmp_path / "consul-token").write_text(f"{secret}\n")
        settings = f"node: web-1\nconsul: {{address: {consul.http_address}, tokenFile: consul-token}}\n"
        (tmp_path / "agent.yaml").write_text(settings)
        await asyncio.to_thread(
            _leave_with, CommandLine(replace(consul.address, token=secret), tmp_path / "x"), tmp_path
        )


def _leave_with(hostmesh: CommandLine, folder: Path) -> None:
    mesh = Mesh(hostmesh)
    mesh.register("reviews", 9080, "hostmesh-reviews-9080")
    mesh.start_session("web-1")
    patient = Patient(load_config(folder, folder, folder), None)
    assert [found.level for check in (check_consul, check_ways) for found in check(patient)] == [Level.OK, Level.OK]
    hostmesh.ok("node", "leave", "--yes", "--config-dir", str(folder), "--run-dir", str(folder))
    assert mesh.services() == set()
    assert mesh.sessions() == []
    assert mesh.keys() == []
