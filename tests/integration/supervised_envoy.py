"""The supervisor with a real Envoy that answers itself, for tests of it: load, another agent that is killed, /proc."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent.adapters.proxy.options import ProxyOptions
from agent.adapters.proxy.supervisor import EnvoySupervisor, ProxyProcess
from agent.errors import HostError
from tests.programs import ENVOY

TYPES = "type.googleapis.com/envoy.extensions.filters"


def options_in(folder: Path) -> ProxyOptions:
    """Return the options of an Envoy that has everything in that folder."""
    return ProxyOptions(
        binary=ENVOY,
        folder=folder / "run",
        admin_socket=folder / "run" / "admin.sock",
        concurrency=1,
        drain_seconds=1,
        handover_seconds=3,
        log_file=folder / "envoy.log",
    )


def bootstrap(options: ProxyOptions, port: int, body: str = "hello", delay: str = "") -> bytes:
    """Return a bootstrap with one HTTP listener that answers itself, after a delay if one is given."""
    fault = {
        "name": "envoy.filters.http.fault",
        "typed_config": {
            "@type": f"{TYPES}.http.fault.v3.HTTPFault",
            "delay": {"fixed_delay": delay, "percentage": {"numerator": 100}},
        },
    }
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{TYPES}.http.router.v3.Router"},
    }
    http = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "http_filters": [fault, router] if delay else [router],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": body}}}
                    ],
                }
            ]
        },
    }
    listener = {
        "name": "test",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": http}]}],
    }
    config: dict[str, Any] = {
        "admin": {"address": {"pipe": {"path": str(options.admin_socket), "mode": 0o600}}},
        "static_resources": {"listeners": [listener]},
    }
    return json.dumps(config).encode()


@asynccontextmanager
async def supervised(
    options: ProxyOptions, configuration: bytes, on_change: Callable[[ProxyProcess], None] | None = None
) -> AsyncIterator[EnvoySupervisor]:
    """Run a supervisor, and stop it with its Envoy at the end."""
    supervisor = EnvoySupervisor(options, on_change)
    task: asyncio.Task[None] | None = None
    try:
        await supervisor.start(configuration)
        task = asyncio.create_task(supervisor.run())
        yield supervisor
    finally:
        await supervisor.stop(0)
        if task:
            await asyncio.wait_for(task, 5)


async def until(check: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.01)


async def answer(port: int, seconds: float = 5.0) -> str:
    """Return the body that the listener answers with, trying until it does."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await request(port)
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.02)


async def request(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert " 200 ok" in head
        return (await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))).decode()
    finally:
        writer.close()


async def until_live(supervisor: EnvoySupervisor) -> None:
    """Wait until the listener takes requests (the admin socket is there before it)."""
    async with asyncio.timeout(5):
        while True:
            try:
                await supervisor.admin_get("/ready")
                return
            except HostError:
                await asyncio.sleep(0.02)


async def listening(port: int, seconds: float = 5.0) -> None:
    """Return when the listener takes connections."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


AGENT = """
import asyncio, sys, msgspec
from pathlib import Path
from agent.adapters.proxy.options import ProxyOptions
from agent.adapters.proxy.supervisor import EnvoySupervisor
from agent.errors import HostError

async def main():
    data = msgspec.json.decode(sys.argv[1])
    paths = {name: Path(data[name]) for name in ("binary", "folder", "admin_socket", "log_file")}
    supervisor = EnvoySupervisor(ProxyOptions(**paths, concurrency=1, drain_seconds=1, handover_seconds=3))
    await supervisor.start(sys.argv[2].encode())
    while True:
        try:
            await supervisor.admin_get("/ready")  # what Envoy arranges for its parent's death is arranged by now
            break
        except HostError:
            await asyncio.sleep(0.02)
    print(supervisor.process.pid, flush=True)
    await supervisor.run()

asyncio.run(main())
"""


def killed_agent(options: ProxyOptions, configuration: bytes) -> int:
    """Run another process that starts an Envoy, kill that process with -9, and return the Envoy's pid."""
    paths = {name: str(getattr(options, name)) for name in ("binary", "folder", "admin_socket", "log_file")}
    argv = [sys.executable, "-c", AGENT, msgspec.json.encode(paths).decode(), configuration.decode()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        agent.kill()
    return pid


class Load:
    """Requests one after the other, each on a new connection."""

    def __init__(self, port: int) -> None:
        self.answers: list[str] = [""]
        self._tasks = [asyncio.create_task(self._ask(port)) for _ in range(2)]

    async def _ask(self, port: int) -> None:
        while True:
            self.answers.append(await request(port))

    async def end(self) -> None:
        """End it; fails if a request has failed."""
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
        self.answers.pop(0)


def epoch_of(pid: int | None) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return words[words.index("--restart-epoch") + 1]


def shared_memory(pid: int | None) -> Path:
    """Return the file in /dev/shm that an Envoy has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if "/dev/shm/envoy" in line)


def is_running(pid: int) -> bool:
    """Tell whether the process runs (as an orphan it may stay a zombie until init reaps it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
