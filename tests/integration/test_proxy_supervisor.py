"""The supervisor with the real Envoy: crash, adoption by another agent, drain, broken bootstrap, no trace left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from agent.adapters.proxy.options import ProxyOptions
from agent.adapters.proxy.supervisor import EnvoySupervisor, ProxyProcess
from agent.errors import HostError
from tests.integration.supervised_envoy import (
    answer,
    bootstrap,
    is_running,
    killed_agent,
    options_in,
    request,
    shared_memory,
    supervised,
    until,
    until_live,
)
from tests.ports import free_port
from tests.programs import ENVOY


@pytest.fixture
def options(tmp_path: Path) -> ProxyOptions:
    return options_in(tmp_path)


async def test_killed_envoy_is_back_within_a_second(options: ProxyOptions) -> None:
    seen: list[ProxyProcess] = []
    port = free_port()
    async with supervised(options, bootstrap(options, port), seen.append) as supervisor:
        assert await answer(port) == "hello"
        first = supervisor.process
        assert first.version == "1.40.0"
        assert first.pid is not None
        killed_at = time.monotonic()
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: supervisor.process.pid not in (None, first.pid))
        assert await answer(port) == "hello"
        assert time.monotonic() - killed_at < 1.0
        assert supervisor.process.restarts == 1
        assert supervisor.process.last_exit.startswith("killed by SIGKILL after ")
        assert any(process.pid is None for process in seen)


async def test_stop_leaves_nothing(options: ProxyOptions) -> None:
    port = free_port()
    async with supervised(options, bootstrap(options, port)) as supervisor:
        await answer(port)
        pid = supervisor.process.pid
        shared = shared_memory(pid)
        assert shared.exists()
        assert oct(options.admin_socket.stat().st_mode & 0o777) == "0o600"
        assert "LIVE" in await supervisor.admin_get("/ready")
        started = time.monotonic()
        await supervisor.stop()
        assert time.monotonic() - started < 2.0, "without traffic there is nothing to drain"
        assert pid is not None
        assert not is_running(pid)
        assert list(options.folder.iterdir()) == []
        assert not shared.exists()
        assert supervisor.process.pid is None
        with pytest.raises(HostError, match="admin"):
            await supervisor.admin_get("/ready")


async def test_stop_lets_a_request_end_and_limits_the_wait(options: ProxyOptions) -> None:
    port = free_port()
    async with supervised(options, bootstrap(options, port, delay="1s")) as supervisor:
        await until_live(supervisor)
        pending = asyncio.create_task(answer(port))
        await until_busy(supervisor)
        started = time.monotonic()
        await supervisor.stop(10)
        assert await pending == "hello"
        assert time.monotonic() - started < 4.0
    async with supervised(options, bootstrap(options, port, delay="30s")) as supervisor:
        await until_live(supervisor)
        pending = asyncio.create_task(request(port))
        await until_busy(supervisor)
        started = time.monotonic()
        await supervisor.stop(1)
        assert 0.9 < time.monotonic() - started < 4.0
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await pending


async def until_busy(supervisor: EnvoySupervisor) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                if "downstream_rq_active: 1" in await supervisor.admin_get(
                    "/stats?filter=http.test.downstream_rq_active"
                ):
                    return
            except HostError:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.02)


async def test_adopts_what_a_killed_agent_left(options: ProxyOptions) -> None:
    port = free_port()
    configuration = bootstrap(options, port)
    pid = killed_agent(options, configuration)
    async with supervised(options, configuration) as supervisor:
        assert supervisor.process == ProxyProcess(pid=pid, version="1.40.0")
        assert await answer(port) == "hello"
        os.kill(pid, signal.SIGKILL)  # an adopted one is watched like an own child
        await until(lambda: supervisor.process.pid not in (None, pid))
        assert await answer(port) == "hello"
        assert supervisor.process.last_exit.startswith("killed by SIGKILL after ")


async def test_a_stray_envoy_without_state_is_ended(options: ProxyOptions) -> None:
    port = free_port()
    pid = killed_agent(options, bootstrap(options, port))
    options.state_file.write_text("{ not JSON")
    async with supervised(options, bootstrap(options, port)) as supervisor:
        assert supervisor.process.pid != pid
        assert not is_running(pid)
        assert await answer(port) == "hello"


async def test_state_of_another_process_is_not_adopted(options: ProxyOptions) -> None:
    """The pid in the state file may have gone to someone else: that one is neither adopted nor harmed."""
    port = free_port()
    other = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        options.folder.mkdir()
        state = {"pid": other.pid, "started": 1, "executable": str(ENVOY), "fingerprint": "", "version": "1"}
        options.state_file.write_text(json.dumps(state))
        async with supervised(options, bootstrap(options, port)) as supervisor:
            assert supervisor.process.pid != other.pid
            assert await answer(port) == "hello"
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


async def test_release_leaves_envoy_for_the_next(options: ProxyOptions) -> None:
    port = free_port()
    configuration = bootstrap(options, port)
    first = EnvoySupervisor(options)
    await first.start(configuration)
    task = asyncio.create_task(first.run())
    first.release()
    await asyncio.wait_for(task, 2)
    async with supervised(options, configuration) as second:
        assert second.process.pid == first.process.pid
        assert await answer(port) == "hello"


async def test_broken_bootstrap_backs_off_and_says_why(options: ProxyOptions) -> None:
    seen: list[float] = []

    def note(process: ProxyProcess) -> None:
        if process.pid is not None:
            seen.append(time.monotonic())

    async with supervised(options, b'{"static_resources": {"listener": []}}', note) as supervisor:
        await until(lambda: len(seen) >= 4, 20)
        waits = [after - before for before, after in pairwise(seen)]
        assert waits[2] > waits[0] + 0.1, waits
        assert "exit code 1 after" in supervisor.process.last_exit
        assert "no such field: 'listener'" in supervisor.process.last_exit
        assert "\n" not in supervisor.process.last_exit
    assert supervisor.process.pid is None


async def test_missing_binary_is_told(options: ProxyOptions) -> None:
    supervisor = EnvoySupervisor(msgspec.structs.replace(options, binary=Path("/nowhere/envoy")))
    with pytest.raises(HostError, match=r"/nowhere/envoy: No such file or directory: install hostmesh-proxy"):
        await supervisor.start(b"{}")
    await supervisor.stop()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that every user can reach (tmp_path is private)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_runs_as_another_user_without_the_agents_environment(
    options: ProxyOptions, monkeypatch: pytest.MonkeyPatch, open_folder: Path
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "secret")
    own = open_folder / "run" / "own" / "admin.sock"
    options = msgspec.structs.replace(options, uid=1337, folder=open_folder / "run", admin_socket=own)
    port = free_port()
    async with supervised(options, bootstrap(options, port)) as supervisor:
        assert await answer(port) == "hello"
        status = proc(supervisor, "status")
        assert "\nUid:\t1337\t1337\t1337\t1337\n" in status
        assert "\nGid:\t1337\t1337\t1337\t1337\n" in status
        assert "\nGroups:\t \n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "CONSUL_HTTP_TOKEN" not in proc(supervisor, "environ")


def proc(supervisor: EnvoySupervisor, name: str) -> str:
    return Path(f"/proc/{supervisor.process.pid}/{name}").read_text()
