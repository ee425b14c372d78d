"""docs/operations as it stands: every block of commands is run, in order, on one systemd machine with a real Consul."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.machine import TOP, Machine, new_machine
from tests.e2e.test_packages import CONSUL_CONFIG, CONSUL_UNIT
from tests.integration.netns import lan
from tests.integration.task_pages import Block, blocks_of
from tests.waiting import wait_for

FOLDER = TOP / "docs/operations"
PAGES = ("install", "first-service", "first-rule", "upgrade", "troubleshooting", "uninstall")
PAGE_SECONDS = 300.0


@pytest.fixture(scope="module")
def machine(packages: Path) -> Iterator[Machine]:
    """A machine with Consul; the packages lie in root's home."""
    with lan("ops", subnet=93) as hosts, new_machine(hosts["ops"], [packages, TOP / "build/tools/bin"]) as running:
        running.write("/etc/systemd/system/consul.service", CONSUL_UNIT.replace("ADDRESS", running.host.v4))
        running.write("/etc/consul.json", json.dumps(CONSUL_CONFIG))
        running.run("systemctl", "daemon-reload")
        running.run("systemctl", "start", "consul")
        leader = "curl -sf http://127.0.0.1:8500/v1/status/leader | grep -q :"
        wait_for(lambda: running.run("sh", "-c", leader, check=False).returncode == 0, "Consul leads", 60)
        running.run("sh", "-c", "cp /mnt/dist/*.deb /root")
        yield running


def test_every_page_but_the_one_without_commands_is_run() -> None:
    linked = re.findall(r"^\| \[[^]]+\]\(([\w-]+)\.md\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert [name for name in linked if blocks_of(FOLDER / f"{name}.md")] == list(PAGES)


def test_the_pages(machine: Machine) -> None:
    """One test: each page needs those before it."""
    for name in PAGES:
        blocks = blocks_of(FOLDER / f"{name}.md")
        for block, printed in zip(blocks, run(machine, blocks), strict=True):
            difference = block.difference(printed)
            assert not difference, f"{name}.md: {difference}{machine.journal('hostmesh-agent')}"


def run(machine: Machine, blocks: list[Block]) -> list[str]:
    """Run a page's blocks in one bash; return what each printed."""
    mark = f"=== {uuid.uuid4().hex}"
    script = "".join(f"{{\n{block.commands}}} 2>&1\nprintf '\\n%s\\n' '{mark}'\n" for block in blocks)
    output = machine.run("bash", "-c", f"cd /root\n{script}", timeout=PAGE_SECONDS).stdout
    return [part.removeprefix("\n") for part in output.split(f"\n{mark}\n")[:-1]]
