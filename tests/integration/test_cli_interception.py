"""`hostmesh interception` on a host without an agent: what it shows, applies, tries and takes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.capture import PROXY, PYTHON
from tests.integration.netns import Host, end, environment, lan
from tests.waiting import wait_for

HOSTMESH = Path(sys.executable).with_name("hostmesh")
SSH = """
import socket
with socket.create_server(("", 22)) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(b"SSH-2.0-test\\r\\n")
        connection.close()
"""


@dataclass(frozen=True)
class Machine:
    """A host with hostmesh's folders."""

    host: Host
    folder: Path

    def argv(self, *words: str) -> list[str]:
        """Return the command line of `hostmesh interception …` there."""
        kinds = {"config-dir": "etc", "state-dir": "var", "run-dir": "run"}
        folders = [f"--{kind}={self.folder / name}" for kind, name in kinds.items()]
        return self.host.argv([HOSTMESH, "interception", words[0], *folders, *words[1:]])

    def cli(self, *words: str, code: int = 0) -> str:
        """Run it and return what it printed."""
        done = subprocess.run(
            self.argv(*words), capture_output=True, text=True, env=environment(), timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def serve(self, port: int) -> None:
        """Declare the one service of this host, on this port."""
        (self.folder / "etc/services.d/app.yaml").write_text(f"name: app\nport: {port}\nprotocol: http\n")

    def own_rules(self) -> list[str]:
        """Return the rules of ours that stand."""
        saved = self.host.run("iptables-save").stdout + self.host.run("ip6tables-save").stdout
        return [line for line in saved.splitlines() if "HOSTMESH_" in line]

    @property
    def hold(self) -> Path:
        return self.folder / "run/interception.hold"

    @property
    def trial(self) -> Path:
        return self.folder / "run/interception.trial"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with lan("host") as hosts:
        for name in ("etc/services.d", "var", "run"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "etc/agent.yaml").write_text("node: host\nconsul: {address: 'http://127.0.0.1:9'}\n")
        os.chown(tmp_path / "var", PROXY, PROXY)
        made = Machine(hosts["host"], tmp_path)
        made.serve(9080)
        yield made


def test_plan_diff_apply_and_remove(machine: Machine) -> None:
    planned = machine.cli("plan")
    assert "HOSTMESH_INBOUND" in planned
    assert f"--uid-owner {PROXY}" in planned, "Envoy runs as the user whose the state folder is"
    assert set(json.loads(machine.cli("plan", "-o", "json"))) == {"iptables", "ip6tables", "routes"}
    missing = machine.cli("diff", code=1)
    assert "HOSTMESH_INBOUND" in missing
    assert machine.own_rules() == []
    machine.cli("apply")
    assert "as planned" in machine.cli("diff")
    assert json.loads(machine.cli("diff", "-o", "json")) == []
    assert machine.cli("apply") == "Nothing to change.\n"
    machine.host.run("iptables", "-t", "nat", "-F", "OUTPUT")
    (change,) = json.loads(machine.cli("diff", "-o", "json", code=1))
    assert change == {"change": "-", "family": "ipv4", "table": "nat", "rule": "-A OUTPUT -j HOSTMESH_OUTPUT"}
    machine.cli("remove")
    assert machine.own_rules() == []
    assert "lo" not in machine.host.run("ip", "route").stdout
    assert not machine.hold.exists(), "without an agent there is nobody to hold off"


def test_a_change_that_costs_nothing_stays(machine: Machine) -> None:
    machine.cli("apply")
    machine.serve(9090)
    with machine.host.running(*PYTHON, SSH):
        wait_for(lambda: ":22" in machine.host.run("ss", "-Hltn").stdout)
        said = machine.cli("apply", "--confirm", "3s")
    assert "probed: ssh (down before: consul, dns)" in said
    assert "The change stays." in said
    assert any("9090" in line for line in machine.own_rules())
    assert "as planned" in machine.cli("diff")
    assert not machine.hold.exists()
    assert not machine.trial.exists()


def test_a_change_after_which_ssh_is_gone_is_taken_back(machine: Machine) -> None:
    machine.cli("apply")
    before = machine.own_rules()
    machine.serve(9090)
    with machine.host.running(*PYTHON, SSH) as server:
        wait_for(lambda: ":22" in machine.host.run("ss", "-Hltn").stdout)
        process = trying(machine, "120s")
        wait_for(lambda: any("9090" in line for line in machine.own_rules()), "the change is made")
        end(server)
        assert process.wait(60) == 1  # at the third look, long before its time
    assert sorted(machine.own_rules()) == sorted(before)
    assert "ssh did not answer any more" in machine.hold.read_text()
    assert "taken back" in machine.cli("diff", code=1)
    machine.cli("apply")
    assert any("9090" in line for line in machine.own_rules())
    assert not machine.hold.exists()


def test_a_trial_outlives_the_terminal_and_another_one_confirms(machine: Machine) -> None:
    process = trying(machine, "120s")
    wait_for(machine.own_rules, "the change is made")
    assert "on trial until" in machine.hold.read_text()
    os.killpg(process.pid, signal.SIGHUP)
    process.wait(20)
    assert "another change is on trial" in machine.cli("apply", "--confirm", "3s", code=1)
    machine.cli("confirm")
    wait_for(lambda: not machine.trial.exists(), "the trial ends")
    assert "as planned" in machine.cli("diff")
    assert not machine.hold.exists()
    assert "no change of interception is on trial" in machine.cli("confirm", code=1)


def trying(machine: Machine, seconds: str) -> subprocess.Popen[bytes]:
    """Start a trial as the leader of a session, as from a terminal."""
    # Whatever started the tests may ignore SIGHUP (nohup), and what is ignored is inherited.
    argv = ["env", "--default-signal=HUP", *machine.argv("apply", "--confirm", seconds)]
    return subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment()
    )
