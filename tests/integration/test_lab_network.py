"""The lab without agents: hosts in namespaces, Consul's cluster, names, applications, forwarders, and no trace left."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.errors import HostError, UserError
from agent.lab import network
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, LabPlan, bookinfo_app
from agent.lab.processes import identify, in_network_namespaces
from tests.ports import free_port

CONSUL = msgspec.structs.replace(CONSUL_HOST, ca=False)


def plan_of(*hosts: HostPlan) -> LabPlan:
    name = f"hmt-{uuid.uuid4().hex[:6]}"
    return LabPlan(hosts=hosts, name=name, prefix=f"{name}-")


def bare(name: str, *apps: App) -> HostPlan:
    return HostPlan(name, apps, agent=False, consul=False)


def machine() -> dict[str, str]:
    """Return what the lab may not change: the machine's links, routes, rules and resolver."""
    commands = (["ip", "-o", "link"], ["ip", "route", "show", "table", "all"], ["iptables-save"], ["ip6tables-save"])
    texts = {}
    for argv in commands:
        lines = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
        # Without iptables-save's dates and packet counts.
        kept = (re.sub(r"\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#"))
        texts[" ".join(argv)] = "\n".join(kept)
    return {
        **texts,
        "resolv.conf": Path("/etc/resolv.conf").read_text(),
    }


def assert_no_trace(plan: LabPlan, inodes: set[int]) -> None:
    assert not [name for name in plan.namespaces if network.exists(name)]
    assert not (Path("/run") / plan.name).exists()
    assert not list(in_network_namespaces(inodes))


@pytest.fixture
def labs() -> Iterator[list[Lab]]:
    """Labs to be taken down at the end, whatever happens."""
    made: list[Lab] = []
    yield made
    for lab in made:
        lab.down()


def test_cluster_names_applications_forwarders_and_no_trace(labs: list[Lab]) -> None:
    before = machine()
    details = bookinfo_app("details", "v1", {})
    plan = plan_of(CONSUL, HostPlan("details", (details,), agent=False), HostPlan("client", agent=False))
    plan = msgspec.structs.replace(plan, page_host="details", page_port=free_port(), consul_port=free_port())
    lab = Lab(plan)
    labs.append(lab)
    # The page's condition is the product page's; here the forwarder is what is tested.
    lab.plan = msgspec.structs.replace(plan, page_host="")
    lab.up(timeout=60)
    inodes = {inode for name in plan.namespaces if (inode := network.inode_of(name))}
    assert machine() == before

    client = lab["client"]
    assert client.get("/details/7", address=lab["details"].address)[0] == 200
    assert "nameserver 127.0.0.1" in client.exec("cat", "/etc/resolv.conf").stdout
    assert client.exec("hostname").stdout == "client\n"
    assert client.exec("getent", "hosts", "consul.service.consul").stdout.split()[0] == lab["consul"].address
    assert client.exec("ls", "/dev/shm").stdout == ""
    with urllib.request.urlopen(f"{lab.state.consul}/v1/catalog/nodes", timeout=5) as response:
        assert {node["Node"] for node in json.load(response)} == {"consul", "details", "client"}
    pid = lab["details"].pid("details")
    assert pid is not None
    assert "Uid:\t2000\t" in Path(f"/proc/{pid}/status").read_text()

    other = Lab(plan)
    assert other.attach()
    assert other["details"].pid("details") == pid
    with pytest.raises(UserError, match="there already"):
        other.up()
    other.down()  # by a process that did not start it
    assert_no_trace(plan, inodes)
    assert machine() == before


def test_two_labs_side_by_side_with_the_same_addresses(labs: list[Lab]) -> None:
    for version in ("one", "two"):
        app = bookinfo_app("details", version, {})
        labs.append(Lab(plan_of(bare("a", app), bare("b"))))
        labs[-1].up(timeout=30)
    for lab, version in zip(labs, ("one", "two"), strict=True):
        headers = lab["b"].exec("curl", "-si", f"http://{lab['a'].address}:9080/details/0").stdout
        assert f"x-served-by: a {version}" in headers
    labs[0].down()
    assert labs[1]["a"].get("/health")[0] == 200


def test_a_part_that_dies_is_named_with_its_log_and_nothing_stays(labs: list[Lab]) -> None:
    broken = App("broken", (sys.executable, "-c", "import sys; sys.exit('no such luck')"))
    plan = plan_of(bare("a", broken), bare("b"))
    labs.append(Lab(plan))
    with pytest.raises(HostError, match=r"host a: broken: ended by itself(?s:.*)no such luck"):
        labs[-1].up(timeout=20)
    assert_no_trace(plan, set())


def test_a_part_that_is_never_ready_is_named(labs: list[Lab]) -> None:
    plan = plan_of(bare("a", App("mute", ("sleep", "60"))))
    labs.append(Lab(plan))
    with pytest.raises(HostError, match=r"host a: mute: not ready in time: port 9080: .*refused"):
        labs[-1].up(timeout=2)
    assert_no_trace(plan, set())


def test_down_after_a_crash_that_lost_state_and_parents(labs: list[Lab]) -> None:
    plan = plan_of(bare("a", bookinfo_app("details", "v1", {})))
    code = f"""
import os, signal, msgspec
from agent.lab.lab import Lab
from agent.lab.plan import LabPlan
Lab(msgspec.json.decode({msgspec.json.encode(plan)!r}, type=LabPlan)).up()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    inode = network.inode_of(plan.namespace("a"))
    assert inode is not None
    assert list(in_network_namespaces({inode}))
    (Path("/run") / plan.name / "state.json").write_text("{")
    Lab(plan).down()
    assert_no_trace(plan, {inode})


def test_kill_and_restart_of_one_part(labs: list[Lab]) -> None:
    lab = Lab(plan_of(bare("a", bookinfo_app("details", "v1", {}))))
    labs.append(lab)
    lab.up(timeout=20)
    first = lab["a"].pid("details")
    lab.kill("a", "details")
    assert first is not None
    assert identify(first) is None
    assert lab["a"].pid("details") is None
    assert lab["a"].start_app("details").pid != first
    lab.stop("a", "details")
    with pytest.raises(HostError, match="details does not run"):
        lab.stop("a", "details")


def test_a_folder_of_somebody_else_is_left_alone() -> None:
    plan = plan_of(bare("a"))
    folder = Path("/run") / plan.name
    folder.mkdir()
    try:
        (folder / "precious").touch()
        with pytest.raises(UserError, match="there already"):
            Lab(plan).up()
        Lab(plan).down()
        assert (folder / "precious").exists()
    finally:
        (folder / "precious").unlink(missing_ok=True)
        folder.rmdir()
    with pytest.raises(UserError, match="must be hostmesh-"):
        LabPlan(hosts=(), name="../etc")


def test_up_needs_root() -> None:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c"]
    code = "from agent.lab.preflight import require_root; require_root()"
    done = subprocess.run([*command, code], capture_output=True, text=True, check=False)
    assert "lab: needs root" in done.stderr
