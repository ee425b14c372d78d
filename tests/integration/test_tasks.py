"""docs/tasks as they stand: every block of commands is run, in order, on one lab, and prints what its page shows.

The lab is the default one, with its names and ports, so all of it is on an island: a network namespace, /run and
/etc/netns of its own. A lab of the machine's operator is not disturbed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.task_pages import FOLDER, INDEX, Block, blocks_of, pages

CHECKOUT = FOLDER.parents[1]
NETNS_FILES = Path("/etc/netns")
_ISLAND = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /etc/netns
ip link set lo up
echo ready
exec sleep infinity
"""
PAGE_SECONDS = 180.0


class Island:
    """Where the pages' commands run."""

    def __init__(self, home: Path) -> None:
        NETNS_FILES.mkdir(exist_ok=True)
        argv = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", _ISLAND]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self._environment = {"PATH": path, "HOME": str(home), "LANG": "C.UTF-8", "TERM": "dumb"}

    def run(self, blocks: list[Block]) -> list[str]:
        """Run the blocks in one bash, one after the other, in the checkout; return what each printed."""
        mark = f"=== {uuid.uuid4().hex}"
        script = "".join(f"{{\n{block.commands}}} 2>&1\nprintf '\\n%s\\n' '{mark}'\n" for block in blocks)
        enter = ["nsenter", f"--target={self._process.pid}", "--net", "--mount", "--"]
        process = subprocess.Popen(
            [*enter, "bash", "-c", f'cd "$1"\n{script}', "bash", str(CHECKOUT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=PAGE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # bash and what it waits for, a session of their own
            output, _ = process.communicate()
            output += f"\nended by the test after {PAGE_SECONDS:.0f} s\n"
        return output.split(f"\n{mark}\n")

    def end(self) -> None:
        """Take the lab down, whatever became of it, and leave no trace."""
        self.run([Block(0, ".venv/bin/hostmesh lab down\n")])
        self._process.kill()
        self._process.wait()
        with suppress(OSError):  # somebody else's files are in it
            NETNS_FILES.rmdir()


INTRODUCTION, CLEANED, FAREWELL = blocks_of(INDEX)
SETTINGS = "".join(f"{line}\n" for line in INTRODUCTION.commands.splitlines() if line.startswith("export "))


@pytest.fixture(scope="module")
def island(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Island]:
    island = Island(tmp_path_factory.mktemp("home"))
    try:
        output = island.run([INTRODUCTION])[0]
        assert " up\n" in output, output
        yield island
    finally:
        island.end()


def walk(island: Island, blocks: list[Block]) -> None:
    settings, *outputs = island.run([Block(0, SETTINGS), *blocks])
    assert settings == ""
    for block, output in zip(blocks, outputs, strict=False):
        assert not (wrong := block.difference(output)), wrong
    assert len(outputs) == len(blocks) + 1, f"not all was run: {outputs[-1]}"
    assert outputs[-1] == ""


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_page_prints_what_it_shows(island: Island, page: Path) -> None:
    walk(island, blocks_of(page))


def test_nothing_is_left_and_the_lab_goes(island: Island) -> None:
    walk(island, [CLEANED, FAREWELL])


def test_the_index_has_every_page() -> None:
    assert sorted(pages()) == sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
