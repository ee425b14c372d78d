"""The packages of this very tree, built once for all end-to-end tests, and the same as a newer version.

What takes a core for a minute and waits for nothing runs beside the rest: the machines' tree beside the build, lintian
beside the machines' tests.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.machine import TOP, root_tree
from tests.integration.netns import environment

NEWER = "0.1.0+next1"


@pytest.fixture(scope="session")
def packages() -> Path:
    """Build the packages; return their folder."""
    with ThreadPoolExecutor(max_workers=1) as beside:
        tree = beside.submit(root_tree)
        _build({"HOSTMESH_COMPRESSION": "-Zzstd"})  # half of the build's time is xz
        tree.result()
    return TOP / "dist"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what asks for lintian's verdict last."""
    items.sort(key=_asks_for_lintian)


@pytest.fixture(scope="session", autouse=True)
def start_lintian_first(request: pytest.FixtureRequest) -> None:
    """Start lintian before all tests if one of them asks for it."""
    if any(map(_asks_for_lintian, request.session.items)):
        request.getfixturevalue("lintian")


@pytest.fixture(scope="session")
def lintian(packages: Path) -> Iterator[subprocess.Popen[str]]:
    """Start lintian on the packages."""
    process = subprocess.Popen(
        [
            *("nice", "lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0"),
            "--suppress-tags=malformed-deb-archive",  # only the tests' packages are compressed by zstd
            *sorted(map(str, packages.glob("hostmesh-*.deb"))),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _asks_for_lintian(item: pytest.Item) -> bool:
    return "lintian" in getattr(item, "fixturenames", ())


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
