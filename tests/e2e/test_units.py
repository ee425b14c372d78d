"""The units' sandboxes, as systemd itself judges them."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.machine import TOP
from tests.integration.netns import environment


@pytest.mark.parametrize(("unit", "most"), [("hostmesh-agent", 2.5), ("hostmesh-ca", 1.5)])
def test_a_unit_is_sandboxed(unit: str, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(TOP / "systemd" / f"{unit}.service")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout.partition("Overall exposure level")[2].split()
    assert float(words[2]) <= most, done.stdout + done.stderr
