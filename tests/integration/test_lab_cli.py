"""`hostmesh lab` whole: Bookinfo in the mesh, shown, half broken, removed without a trace."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.lab import network
from agent.lab.full_plan import lab_plan
from tests.integration.test_lab_network import machine
from tests.ports import free_port, free_ports
from tests.waiting import wait_for

SAMPLES = Path(__file__).parents[2] / "vagrant" / "samples" / "bookinfo"
Hostmesh = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hostmesh(tmp_path: Path) -> Hostmesh:
    """Run the CLI with contexts of its own."""
    environment = {**os.environ, "HOSTMESH_CONFIG": str(tmp_path / "contexts.yaml")}
    environment.pop("CONSUL_HTTP_ADDR", None)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("hostmesh")), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150, check=False)

    return run


@pytest.fixture
def name(hostmesh: Hostmesh) -> Iterator[str]:
    """Name a lab; it is taken down at the end, whatever happens."""
    name = f"hmt-{uuid.uuid4().hex[:6]}"
    yield name
    hostmesh("lab", "down", "--name", name)


def page(port: int, **headers: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/productpage", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        text: str = response.read().decode()
        return text


def test_lab_up_rules_status_half_up_down(hostmesh: Hostmesh, name: str, tmp_path: Path) -> None:
    before = machine()
    listens = "port", "consul-port", "gateway-port", "gateway-tls-port", "prometheus-port", "graph-port", "zipkin-port"
    options = tuple(f"--{name}" for name in listens)
    ports = free_ports(len(options))
    port = ports[0]
    arguments = ["--name", name, *(word for pair in zip(options, map(str, ports), strict=True) for word in pair)]
    up = hostmesh("lab", "up", *arguments)
    assert up.returncode == 0, up.stdout + up.stderr
    assert machine() == before
    assert f"http://127.0.0.1:{port}/productpage" in up.stdout
    assert "proxy-status" in up.stdout
    assert "William Shakespeare" in page(port)

    applied = hostmesh("apply", "-f", str(SAMPLES / "route-rule-reviews-v3.yaml"))  # by the context that `up` chose
    assert applied.returncode == 0, applied.stderr
    wait_for(lambda: all("<b>reviews-v3</b>" in page(port) for _ in range(6)), timeout=5)
    applied = hostmesh("apply", "-f", str(SAMPLES / "route-rule-reviews-test-v2.yaml"))
    assert applied.returncode == 0, applied.stderr
    wait_for(lambda: all("<b>reviews-v2</b>" in page(port, Cookie="user=jason") for _ in range(6)), timeout=5)
    assert "<b>reviews-v3</b>" in page(port, Cookie="user=bob")

    assert "up already" in hostmesh("lab", "up", *arguments).stdout
    status = hostmesh("lab", "status", "--name", name, "-o", "json")
    document: dict[str, Any] = json.loads(status.stdout)
    assert (status.returncode, document["whole"]) == (0, True)
    hosts = {host["name"]: host["parts"] for host in document["hosts"]}
    assert set(hosts["reviews-v1"]) == {"consul", "dnsmasq", "reviews", "agent", "envoy"}

    ratings = hostmesh(
        "lab", "exec", "--name", name, "ratings-v2", "--", "curl", "-s", "http://127.0.0.1:9080/ratings/0"
    )
    assert json.loads(ratings.stdout)["ratings"] == {"Reviewer1": 5, "Reviewer2": 4}  # out of the database
    called = hostmesh("lab", "exec", "--name", name, "sleep", "--", "curl", "-s", "http://httpbin:8000/anything/called")
    assert "ns/default/sa/sleep" in called.stdout
    logs = [hostmesh("lab", "logs", "--name", name, host, "httpbin").stdout for host in ("httpbin", "httpbin-v2")]
    assert "/anything/called" in "".join(logs)
    failed = hostmesh("lab", "exec", "--name", name, "sleep", "--", "sh", "-c", "exit 7")
    assert (failed.returncode, failed.stdout, failed.stderr) == (7, "", "")
    assert "no host 'nobody' (hosts: consul, " in hostmesh("lab", "exec", "--name", name, "nobody", "true").stderr
    assert "there are: " in hostmesh("lab", "logs", "--name", name, "sleep", "nothing").stderr

    reviews = ["ip", "netns", "exec", f"{name}-details", "curl", "-sS", "-m", "5", "http://reviews:9080/reviews/0"]
    answer = subprocess.run(reviews, capture_output=True, text=True, check=False)
    assert "reviews-v3" in answer.stdout, answer.stderr  # names and rules as on the host
    assert answer.stderr == ""

    os.kill(hosts["details"]["details"], 9)
    wait_for(lambda: hostmesh("lab", "status", "--name", name).returncode == 1, timeout=5)
    again = hostmesh("lab", "up", *arguments)
    assert again.returncode == 1
    assert "half up, these do not run: details: details" in again.stderr

    down = hostmesh("lab", "down", "--name", name)
    assert (down.returncode, down.stderr) == (0, "")
    assert machine() == before
    assert not [space for space in lab_plan(name=name).namespaces if network.exists(space)]
    assert not (Path("/run") / name).exists()
    assert not list(Path("/etc").glob(f"netns/{name}*"))
    assert not [pid for parts in hosts.values() for pid in parts.values() if Path(f"/proc/{pid}/exe").exists()]
    assert not list(tmp_path.iterdir())
    assert hostmesh("lab", "down", "--name", name).returncode == 0


def test_a_port_in_use_is_refused_before_anything_is_made(hostmesh: Hostmesh, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = hostmesh("lab", "up", "--name", name, "--port", str(port), "--consul-port", str(free_port()))
    assert up.returncode == 1
    assert f"127.0.0.1:{port}: Address already in use; choose another port with --port" in up.stderr
    assert not network.exists(name)


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        ("iptables -w -N HOSTMESH_INPUT", "iptables has HOSTMESH chains"),
        (
            "mount -t tmpfs none /var/lib && mkdir -p /var/lib/hostmesh/certificates/x",
            "certificates in /var/lib/hostmesh/certificates",
        ),
    ],
)
def test_a_host_that_is_itself_in_a_mesh_is_refused(name: str, trace: str, reason: str) -> None:
    hostmesh = Path(sys.executable).with_name("hostmesh")
    script = f"{trace} && exec {hostmesh} lab up --name {name}"
    up = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert up.returncode == 1
    assert "itself enrolled in a mesh" in up.stderr
    assert reason in up.stderr
    assert not network.exists(name)
