"""The Vagrant lab's description is one that Vagrant accepts, and its scripts are ones that sh does."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.e2e.machine import TOP
from tests.integration.netns import TOOL_PATH, environment


def test_the_vagrantfile_validates(tmp_path: Path) -> None:
    folders = {"VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "machines")}
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=TOP / "vagrant",
        env=environment() | folders | {"VAGRANT_CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "validated successfully" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("script", sorted((TOP / "vagrant/provision").glob("*.sh")), ids=lambda path: path.name)
def test_a_provisioning_script_is_sound_sh(script: Path) -> None:
    assert subprocess.run(["sh", "-n", str(script)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("script", ["build-box", "enter", "template"])
def test_a_script_for_lxc_is_sound_sh(script: str) -> None:
    done = subprocess.run(["sh", "-n", str(TOP / "vagrant/lxc" / script)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_machine_that_cannot_run_the_lab_says_so_and_stays_as_it_is(tmp_path: Path) -> None:
    """Here because programs are missing; the kernel's reasons are found and told in the same way."""
    for program in ("sh", "id", "dirname", "ip", "sed", "iptables"):
        path = shutil.which(program, path=TOOL_PATH)
        assert path is not None
        (tmp_path / program).symlink_to(path)
    netns = f"hmt-{uuid.uuid4().hex[:6]}-vagrant"
    done = subprocess.run(
        [str(TOP / "vagrant/lxc/enter"), "true"],
        env={"PATH": str(tmp_path), "HOSTMESH_VAGRANT_NETNS": netns},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 77, done.stdout + done.stderr
    assert "vagrant lab: cannot run on this machine: lxc-start is missing" in done.stderr
    assert not Path("/run/netns", netns).exists()
