"""The Vagrant lab's description is one that Vagrant accepts, and its scripts are ones that sh does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.machine import TOP
from tests.integration.netns import environment


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
