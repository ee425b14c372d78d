"""A Consul of three servers with ACLs and TLS, and hosts with a client agent, hostmesh and an application of their own.

Everything runs in network namespaces of a `lan`; processes are known by (host, part), and end with the cluster.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import yaml
from cryptography.hazmat.primitives.serialization import Encoding

from agent.adapters.consul.policies import agent_policy
from agent.mesh.status import NodeStatus
from tests.integration.capture import PYTHON, USER
from tests.integration.netns import Host, end, environment
from tests.integration.operator_mesh import DENYING, ROOT
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY
from tests.waiting import wait_for

SERVERS = ("s1", "s2", "s3")
SERVICE, PORT = "web", 8080
LOAD = Path(__file__).parents[1] / "e2e/load.py"
CONSUL_PORTS = "8300,8301,8302"
_AGENT = Path(sys.executable).with_name("hostmesh-agent")


class ConsulCluster:
    """Servers s1 to s3, and any number of other hosts in the mesh."""

    def __init__(self, hosts: dict[str, Host], folder: Path) -> None:
        self.hosts = hosts
        self.meshed = [name for name in hosts if name not in SERVERS]
        self._folder = folder
        self._running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._authority = TestAuthority()
        self._authority.write_for_address(folder / "tls", "127.0.0.1")

    def up(self) -> None:
        """Start everything and wait until every instance is called healthy."""
        for name in self.hosts:
            self.start_consul(name)
        self.wait(self.leader, "a leader")
        self.wait(lambda: self.nodes() == set(self.hosts), "every node is in the catalog")
        for name in self.meshed:
            self.new_token(name)
            self.start_mesh(name)
        self.wait(self.is_quiet, "both instances are healthy and no agent has a fault")

    def down(self) -> None:
        """End every process: the agents first and in their own way, so that their Envoys leave nothing behind."""
        agents = [process for (_, part), process in self._running.items() if part == "agent"]
        for process in agents:
            process.send_signal(signal.SIGTERM)
        for process in agents:
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for process in self._running.values():
            end(process, 1.0)

    def start_consul(self, name: str) -> None:
        """Start a server, or a client agent."""
        path = self._folder / f"{name}.json"
        path.write_text(json.dumps(self._consul(name)))
        self._start(name, "consul", "consul", "agent", f"-config-file={path}")

    def start_mesh(self, name: str) -> None:
        """Start hostmesh on a host, and the application on all but the first."""
        folder = self._folder / name
        (folder / "etc/services.d").mkdir(parents=True)
        tls = self._folder / "tls"
        consul = {
            "address": "https://127.0.0.1:8501",
            "caFile": str(tls / "root-cert.pem"),
            "certFile": str(tls / "cert-chain.pem"),
            "keyFile": str(tls / "key.pem"),
            "tokenFile": str(self._token_file(name)),
        }
        config = {
            "node": name,
            "address": self.hosts[name].v4,
            "consul": consul,
            "proxy": {"binary": str(ENVOY), "drainSeconds": 0},
        }
        (folder / "etc/agent.yaml").write_text(yaml.safe_dump(config))
        if name != self.meshed[0]:
            check = {"http": "/", "interval": "1s"}
            service = {"name": SERVICE, "port": PORT, "protocol": "http", "check": check}
            self.services_file(name).write_text(yaml.safe_dump(service))
            self.start_application(name)
        self.start_agent(name)

    def start_agent(self, name: str) -> None:
        """Start hostmesh-agent."""
        folder = self._folder / name
        parts = (("config", "etc"), ("state", "var"), ("run", "run"))
        self._start(name, "agent", _AGENT, *(f"--{kind}-dir={folder / part}" for kind, part in parts))

    def start_application(self, name: str) -> None:
        """Start the web server of a host."""
        served = self._folder / name / "served"
        served.mkdir(exist_ok=True)
        (served / "index.html").write_text("hello from the mesh\n")
        module = (PYTHON[0], "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(served), str(PORT))
        self._start(name, "application", *module)

    def stop(self, name: str, part: str, hard: bool = False) -> None:
        """End a part by SIGTERM, or SIGKILL, and wait until it is gone."""
        process = self._running.pop((name, part))
        os.killpg(process.pid, signal.SIGKILL if hard else signal.SIGTERM)
        process.wait(30)

    def new_token(self, name: str) -> tuple[str, str]:
        """Give a host's agent a new ACL token of its role; return its accessor and the one it had."""
        rules = agent_policy(name, (SERVICE,))
        policy = f"agent-{name}"
        if policy not in [one["Name"] for one in self.ask("/v1/acl/policies")]:
            self.ask("/v1/acl/policy", "PUT", {"Name": policy, "Rules": rules})
        made = self.ask("/v1/acl/token", "PUT", {"Policies": [{"Name": policy}]})
        file = self._token_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.with_suffix(".accessor")
        old = before.read_text() if before.exists() else ""
        before.write_text(made["AccessorID"])
        file.write_text(made["SecretID"])
        return made["AccessorID"], old

    def new_certificates(self) -> None:
        """Let another authority sign what Consul and the agents bear; Consul is told to read its files again."""
        before, self._authority = self._authority, TestAuthority()
        roots = [authority.root.public_bytes(Encoding.PEM) for authority in (before, self._authority)]
        (self._folder / "tls/root-cert.pem").write_bytes(b"".join(roots))
        self._reload_consul()
        self._authority.write_for_address(self._folder / "tls", "127.0.0.1")
        self._reload_consul()

    def _reload_consul(self) -> None:
        for (_, part), process in self._running.items():
            if part == "consul":
                process.send_signal(signal.SIGHUP)

    def services_file(self, name: str) -> Path:
        """Return the file that says what a host serves."""
        return self._folder / name / f"etc/services.d/{SERVICE}.yaml"

    def ask(self, path: str, method: str = "GET", body: object = None, at: str = "") -> Any:
        """Ask the Consul of a host (default: any server that answers) as the administrator."""
        for name in (at,) if at else SERVERS:
            if (name, "consul") not in self._running:
                continue
            data = ["--data", json.dumps(body)] if body is not None else []
            header = f"X-Consul-Token: {ROOT}"
            url = f"http://127.0.0.1:8500{path}"
            done = self.hosts[name].run("curl", "-sf", "-m5", "-X", method, "-H", header, *data, url, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout) if done.stdout.strip() else None
        raise AssertionError(f"{method} {path}: no Consul answers: {done.stderr}")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Wait a minute at most; what fails is told with the agents' logs."""
        try:
            wait_for(condition, what, timeout=60, interval=0.3)
        except AssertionError as error:
            raise AssertionError(
                f"{error}\n" + "\n".join(f"{name}: {self.log(name)}" for name in self.meshed)
            ) from error

    def is_quiet(self) -> bool:
        """Tell whether every instance is healthy and no agent has a fault."""
        return self.passing() == set(self.meshed[1:]) and not any(self.status(name).faults for name in self.meshed)

    def leader(self) -> str:
        """Return the server that leads, "" if none does."""
        try:
            address = self.ask("/v1/status/leader").partition(":")[0]
        except AssertionError:
            return ""
        return next((name for name in SERVERS if self.hosts[name].v4 == address), "")

    def nodes(self) -> set[str]:
        """Return the nodes in the catalog."""
        return {node["Node"] for node in self.ask("/v1/catalog/nodes")}

    def passing(self, service: str = SERVICE) -> set[str]:
        """Return the nodes whose instance of a service is healthy, as the servers know it."""
        return {entry["Node"]["Node"] for entry in self.ask(f"/v1/health/service/{service}?passing")}

    def status(self, name: str) -> NodeStatus:
        """Return what an agent says of itself."""
        sock = self._folder / name / "run/admin.sock"
        done = self.hosts[name].run("curl", "-sf", "-m5", "--unix-socket", sock, "http://agent/status")
        return msgspec.json.decode(done.stdout, type=NodeStatus)

    def virtual_address(self, name: str, service: str = SERVICE, version: int = 4) -> str:
        """Return the service's address in a host's file of names, "" if it is not there."""
        for line in (self._folder / name / "var/dns/hostmesh").read_text().splitlines():
            address, *names = line.partition("#")[0].split() or [""]
            if service in names and (":" in address) == (version == 6):
                return address
        return ""

    def log(self, name: str, part: str = "agent") -> str:
        """Return the end of a part's log."""
        path = self._folder / f"{name}-{part}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    @contextmanager
    def load(self, name: str) -> Iterator[list[str]]:
        """Send requests from a host as an ordinary user while the block runs; the list has what failed, after it."""
        address = wait_for(lambda: self.virtual_address(name), f"the service has a name on {name}")
        url = f"http://{address}:{PORT}/"
        argv = self.hosts[name].argv([*PYTHON, LOAD.read_text(), url, "hello from the mesh"], uid=USER)
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        failures: list[str] = []
        try:
            yield failures
            result = json.loads(process.communicate(timeout=30)[0])
            assert result["total"] > 20, result
            failures += result["failures"]
        finally:
            end(process)

    @contextmanager
    def cut_off(self, *names: str) -> Iterator[None]:
        """Let nothing of Consul in or out of these hosts while the block runs; all else passes."""
        rules = [("-p", protocol, "-m", "multiport", "--ports", CONSUL_PORTS) for protocol in ("tcp", "udp")]
        ways = (("INPUT", "-i"), ("OUTPUT", "-o"))

        def change(verb: str) -> None:
            for name in names:
                for (chain, way), rule in product(ways, rules):
                    self.hosts[name].run("iptables", "-w", verb, chain, way, "eth0", *rule, "-j", "DROP")

        change("-I")
        try:
            yield
        finally:
            change("-D")

    def _consul(self, name: str) -> dict[str, Any]:
        tls = self._folder / "tls"
        config = {
            "node_name": name,
            "data_dir": str(self._folder / f"{name}-consul"),
            "bind_addr": self.hosts[name].v4,
            "client_addr": "127.0.0.1",
            "retry_join": [self.hosts[server].v4 for server in SERVERS if server != name],
            "retry_interval": "1s",
            "ports": {"https": 8501, "dns": -1, "grpc": -1},
            "verify_incoming": True,
            "verify_outgoing": True,
            "ca_file": str(tls / "root-cert.pem"),
            "cert_file": str(tls / "cert-chain.pem"),
            "key_file": str(tls / "key.pem"),
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "log_level": "warn",
            **DENYING,
        }
        return config | ({"server": True, "bootstrap_expect": len(SERVERS)} if name in SERVERS else {})

    def _token_file(self, name: str) -> Path:
        return self._folder / name / "etc/consul-token"

    def _start(self, name: str, part: str, *argv: str | Path) -> None:
        with (self._folder / f"{name}-{part}.log").open("ab") as log:
            self._running[name, part] = subprocess.Popen(
                self.hosts[name].argv(argv),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
