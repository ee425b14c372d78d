"""A spawned process gets none of the agent's ambient capabilities, and the agent keeps them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from agent.adapters.proxy.process import Command, WatchedProcess
from agent.errors import HostError
from tests.integration.netns import environment

SCRIPT = """
import asyncio
from pathlib import Path
from agent.adapters.proxy.process import Command, WatchedProcess

GREP = ["grep", "CapAmb\\\\|CapEff", "/proc/self/status"]

async def main():
    with open("status", "w+b") as file:
        process = await WatchedProcess.spawn(Command(GREP, Path("exit"), file))
        await process.wait()
        file.seek(0)
        print(file.read().decode(), end="")
        print(*(line for line in open("/proc/self/status") if line.startswith(("CapAmb", "CapEff"))), sep="", end="")

asyncio.run(main())
"""
NET_ADMIN = f"{1 << 12:016x}"
NONE = f"{0:016x}"


def test_ambient_capabilities_are_not_inherited() -> None:
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        shutil.chown(copy, 1337, 1337)
        # Another user may not be able to read the repository.
        for module in ("agent/errors.py", "agent/adapters/proxy/process.py"):
            (copy / module).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(__file__).parents[2] / module, copy / module)
        output = run_with_ambient_net_admin(copy)
    child_effective, child_ambient, own_effective, own_ambient = (line.split()[1] for line in output.splitlines())
    assert (child_effective, child_ambient) == (NONE, NONE)
    assert (own_effective, own_ambient) == (NET_ADMIN, NET_ADMIN)


def run_with_ambient_net_admin(folder: Path) -> str:
    setpriv = ["setpriv", "--reuid=1337", "--regid=1337", "--clear-groups"]
    setpriv += ["--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin"]
    python = Path(sys.base_prefix) / "bin" / "python3"
    done = subprocess.run(
        [*setpriv, str(python), "-c", SCRIPT],
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout


async def test_a_process_that_ends_at_once_has_not_lived_for_long(tmp_path: Path) -> None:
    """Not since the machine's boot: it would be started again and again without a pause."""
    for number in range(60):
        try:
            process = await WatchedProcess.spawn(Command(["sleep", f"{number / 10000}"], tmp_path / "exit"))
        except HostError:
            continue  # it had ended before anybody could look at it, which is told at once
        await process.wait()
        assert process.age() < 30
