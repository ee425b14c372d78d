"""Labs with the whole mesh for integration tests: names of their own, a load beside a test, waiting, the CLI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import msgspec

from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import LabPlan, bookinfo_plan
from agent.mesh.status import NodeStatus
from tests.ports import free_ports
from tests.waiting import wait_for

LOAD = Path(__file__).with_name("load.py")
HOSTMESH = Path(sys.executable).with_name("hostmesh")
APP_UID = 2000
REVIEWS = "http://reviews:9080/reviews/0"


def bookinfo(subnet: str, ca_settings: Mapping[str, Any] | None = None) -> LabPlan:
    """Return a Bookinfo plan that can run beside any other."""
    name = f"hmt-{uuid.uuid4().hex[:6]}"
    page, consul = free_ports(2)
    return msgspec.structs.replace(
        bookinfo_plan(page, consul), name=name, prefix=f"{name}-", subnet=subnet, ca_settings=ca_settings or {}
    )


def hostmesh(lab: Lab, *arguments: str, stdin: str = "", check: bool = True) -> str:
    """Run the CLI as the operator does, against the lab's Consul; return what it printed."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(lab.folder),
        "CONSUL_HTTP_ADDR": lab.state.consul,
        "HOSTMESH_CONFIG": str(lab.folder / "contexts.yaml"),
    }
    done = subprocess.run(
        [str(HOSTMESH), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert not check or done.returncode == 0, f"hostmesh {' '.join(arguments)}: {done.stderr}"
    return done.stdout if check else done.stdout + done.stderr


def forget_rules(lab: Lab) -> None:
    """Take all rules away, and wait until every Envoy has forgotten them."""
    there, _ = _rules(lab, "GET", "?keys")
    if there:
        _rules(lab, "DELETE", "?recurse")
        wait_settled(lab, _rules(lab, "GET", "?keys")[1])


def _rules(lab: Lab, method: str, query: str) -> tuple[bool, int]:
    """Ask Consul about the rules; return whether there are any, and its index."""
    request = urllib.request.Request(f"{lab.state.consul}/v1/kv/hostmesh/config/{query}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return True, int(answer.headers.get("X-Consul-Index", "0"))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False, int(error.headers["X-Consul-Index"])


def node_status(host: Host) -> NodeStatus:
    """Return what a host's agent says of itself, over its Unix socket; raises CalledProcessError if it is not there."""
    return msgspec.json.decode(_agent(host, "/status"), type=NodeStatus)


def sent_resources(host: Host) -> dict[str, int]:
    """Return how many xDS resources the agent has sent to its Envoy since it started, by kind."""
    lines = _agent(host, "/metrics").decode().splitlines()
    prefix = 'hostmesh_xds_resources_sent_total{type="'
    pairs = [line.removeprefix(prefix).split('"} ') for line in lines if line.startswith(prefix)]
    return {kind: int(float(value)) for kind, value in pairs}


def metric_lines(host: Host, name: str) -> list[str]:
    """Return the samples of one metric of a host's agent."""
    return [line for line in _agent(host, "/metrics").decode().splitlines() if line.startswith(name)]


def envoy_admin(host: Host, path: str) -> str:
    """Return what Envoy's admin answers on its Unix socket."""
    return _curl(host.path("run/envoy-admin.sock"), path).decode()


def wait_settled(lab: Lab, revision: int = 0, timeout: float = 20.0) -> None:
    """Wait until every Envoy has acknowledged all that its agent has, rules up to that Consul index included."""

    def is_settled(host: Host) -> bool:
        status = node_status(host)
        return status.state == "SYNCED" and status.proxy.acked_revision >= revision

    wait_for(lambda: all(is_settled(host) for host in agents(lab)), f"all Envoys at revision {revision}", timeout)


def agents(lab: Lab) -> list[Host]:
    """Return the hosts that run an agent."""
    return [host for host in lab if host.plan.agent]


class Load:
    """A load under way."""

    def __init__(self, process: subprocess.Popen[str], answered: int) -> None:
        self._process, self._answered = process, answered
        self.total = 0
        self.failures: list[tuple[float, str]] = []

    @property
    def answered(self) -> int:
        """Return how many requests are answered, well or badly."""
        return os.fstat(self._answered).st_size

    def go_on(self, requests: int) -> None:
        """Wait until so many more requests are answered."""
        goal = self.answered + requests
        wait_for(lambda: self.answered >= goal, f"{requests} more requests", 180)

    def finish(self) -> None:
        """End it and read its result."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=30)
        result = json.loads(output)
        self.total = result["total"]
        self.failures = [(when, reason) for when, reason in result["failures"]]


@contextmanager
def load(
    host: Host, url: str = REVIEWS, rate: float = 20.0, contains: str = "", seconds: float = 600.0
) -> Iterator[Load]:
    """Send requests from a host, as its application would, until the block ends, but no longer than so many seconds;
    its result is there then."""
    with TemporaryFile() as answered:
        argv = [sys.executable, str(LOAD), url, f"--rate={rate}", f"--contains={contains}", f"--seconds={seconds}"]
        process = subprocess.Popen(
            host.argv([*argv, f"--answered={answered.fileno()}"], APP_UID),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[answered.fileno()],
        )
        running = Load(process, answered.fileno())
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            yield running
            running.finish()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _agent(host: Host, path: str) -> bytes:
    return _curl(host.path("run/admin.sock"), path)


def _curl(sock: Path, path: str) -> bytes:
    argv = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        "--unix-socket",
        str(sock),
        f"http://agent{path}",
    ]
    return subprocess.run(argv, capture_output=True, check=True).stdout
