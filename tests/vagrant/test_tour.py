"""vagrant/README.md as it stands, on LXC: every command is run, in order, and prints what the page shows.

Twelve machines are made, used and destroyed, which takes minutes: `make vagrant-test`. All of it is in the network
namespace that vagrant/lxc/enter makes. Machines whose kernel cannot run the lab skip it, with the reason in a line.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.netns import end, environment
from tests.integration.task_pages import Block, blocks_of
from tests.waiting import wait_for

TOP = Path(__file__).parents[2]
ENTER = TOP / "vagrant/lxc/enter"
CONTAINERS = TOP / "build/vagrant/lxc"
CANNOT = 77
FAST = environment() | {"HOSTMESH_COMPRESSION": "-Zzstd"}
MARK = "=== next block ==="
SECONDS = 1800.0
"""For the whole tour: it takes 5 minutes on an idle machine with two cores."""


@pytest.fixture(scope="module")
def inside() -> Iterator[list[str]]:
    """Return the command line that enters the lab's namespace; afterwards the machines and the namespace are gone."""
    probe = subprocess.run([str(ENTER), "true"], capture_output=True, text=True, check=False)
    if probe.returncode == CANNOT:
        pytest.skip(probe.stderr.strip())
    assert probe.returncode == 0, probe.stderr
    destroy = [str(ENTER), "vagrant", "destroy", "--force", "--parallel"]
    try:
        subprocess.run(destroy, capture_output=True, check=True)  # what a test that was killed has left
        for build in ("vagrant/lxc/build-box", "packaging/build"):
            done = subprocess.run([str(TOP / build)], capture_output=True, text=True, env=FAST, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
        yield [str(ENTER)]
    finally:
        subprocess.run(destroy, capture_output=True, check=False)
        subprocess.run([str(ENTER), "--leave"], check=True)


@pytest.mark.parametrize("written", ["", "VAGRANT-END"], ids=["being made", "starting"])
def test_destroy_removes_what_an_interrupted_up_leaves(inside: list[str], written: str) -> None:
    """Interrupted when LXC's description of the machine is there, and when it is whole."""
    config = CONTAINERS / "hostmesh-httpbin/config"
    up = subprocess.Popen(
        [*inside, "vagrant", "up", "httpbin"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: config.exists() and written in config.read_text(), "a machine", timeout=120, interval=0.002)
        os.killpg(up.pid, signal.SIGINT)  # as Ctrl-C does: to Vagrant and all it has started
        up.wait(timeout=120)
    finally:
        end(up)
    subprocess.run([*inside, "vagrant", "destroy", "--force"], capture_output=True, check=True)
    assert list(CONTAINERS.iterdir()) == []


def test_the_tour_prints_what_it_shows(inside: list[str]) -> None:
    blocks = blocks_of(TOP / "vagrant/README.md")
    outputs = run(inside, blocks)
    for block, output in zip(blocks, outputs, strict=False):
        assert not (wrong := block.difference(output)), wrong
    assert len(outputs) == len(blocks) + 1, f"not all was run: {outputs[-1]}"
    assert outputs[-1] == ""
    machines = subprocess.run([*inside, "lxc-ls"], capture_output=True, text=True, check=True)
    assert machines.stdout.split() == []


def run(inside: list[str], blocks: list[Block]) -> list[str]:
    """Run the blocks in one bash in the folder of the page; return what each printed."""
    script = "".join(f"{{\n{block.commands}}} 2>&1\nprintf '\\n%s\\n' '{MARK}'\n" for block in blocks)
    process = subprocess.Popen(
        [*inside, "bash", "-c", script],
        cwd=TOP / "vagrant",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb"},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nended by the test after {SECONDS:.0f} s\n"
    return output.split(f"\n{MARK}\n")
