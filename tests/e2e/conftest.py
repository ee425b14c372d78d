"""The packages of this very tree, built once for all end-to-end tests, and the same as a newer version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.e2e.machine import TOP
from tests.integration.netns import environment

NEWER = "0.1.0+next1"


@pytest.fixture(scope="session")
def packages() -> Path:
    """Build the packages; return their folder."""
    _build({"HOSTMESH_COMPRESSION": "-Zzstd"})  # half of the build's time is xz
    return TOP / "dist"


@pytest.fixture(scope="session")
def newer(packages: Path) -> Path:
    """Build the same with a newer version in the changelog; return their folder."""
    assert packages
    folder = TOP / "build/e2e/newer"
    for package in folder.glob("*.deb"):
        package.unlink()
    _build({}, "--relabel", NEWER, str(folder))
    return folder


def _build(settings: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [str(TOP / "packaging/build"), *arguments],
        capture_output=True,
        text=True,
        env=environment() | settings,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
