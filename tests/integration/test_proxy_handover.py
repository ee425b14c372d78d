"""Hot restart: another bootstrap or binary takes over from the running Envoy under load, and what if it can't."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import msgspec
import pytest

from agent.adapters.proxy.options import ProxyOptions
from tests.integration.supervised_envoy import (
    Load,
    answer,
    bootstrap,
    epoch_of,
    is_running,
    killed_agent,
    listening,
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


async def test_a_changed_bootstrap_takes_over_by_hot_restart(options: ProxyOptions) -> None:
    """No request fails, one under way ends, the old Envoy goes; after a crash the next one starts at epoch 0."""
    port, slow = free_port(), free_port()
    before = two_listeners(options, port, "old", slow)
    pid = killed_agent(options, before)
    assert await answer(port) == "old"
    await listening(slow)
    long_one = asyncio.create_task(request(slow))
    load = Load(port)
    async with supervised(options, two_listeners(options, port, "new", slow)) as now:
        assert now.process.pid != pid
        await until(lambda: load.answers[-1] == "new")
        assert not long_one.done()
        assert is_running(pid), "a request is under way"
        assert await long_one == "slow"
        await until(lambda: not is_running(pid), 8)
        await load.end()
        assert set(load.answers) == {"old", "new"}
        assert len(load.answers) > 50
        shared = shared_memory(now.process.pid)
        assert epoch_of(now.process.pid) == "1"
        os.kill(now.process.pid or 0, signal.SIGKILL)
        await until(lambda: now.process.restarts == 1)
        assert await answer(port) == "new"
        assert epoch_of(now.process.pid) == "0"
        assert not shared.exists()


async def test_an_agent_killed_in_the_handover_costs_nothing(options: ProxyOptions) -> None:
    port = free_port()
    first = killed_agent(options, bootstrap(options, port, body="old"))
    assert await answer(port) == "old"
    load = Load(port)
    second = killed_agent(options, bootstrap(options, port, body="new"))
    async with supervised(options, bootstrap(options, port, body="new")) as now:
        assert now.process.pid == second
        await until(lambda: not is_running(first), 8)
        await until(lambda: load.answers[-1] == "new")
        await load.end()


async def test_an_envoy_that_cannot_take_over_costs_nothing(options: ProxyOptions) -> None:
    port = free_port()
    pid = killed_agent(options, bootstrap(options, port))
    assert await answer(port) == "hello"
    load = Load(port)
    async with supervised(options, b'{"static_resources": {"listener": []}}') as supervisor:
        await until(lambda: supervisor.process.pid == pid)
        await load.end()
        assert "no such field: 'listener'" in supervisor.process.last_exit
        assert "LIVE" in await supervisor.admin_get("/ready")
    assert not is_running(pid)


async def test_another_hot_restart_version_is_drained_and_replaced(options: ProxyOptions) -> None:
    port = free_port()
    pid = killed_agent(options, bootstrap(options, port, body="old"))
    assert await answer(port) == "old"
    state = json.loads(options.state_file.read_text())
    options.state_file.write_text(json.dumps(state | {"hot_restart": "10.1", "fingerprint": ""}))
    async with supervised(options, bootstrap(options, port, body="new")) as supervisor:
        assert not is_running(pid)
        assert await answer(port) == "new"
        assert epoch_of(supervisor.process.pid) == "0"


async def test_a_new_file_of_the_same_binary_changes_nothing(options: ProxyOptions, tmp_path: Path) -> None:
    """As when all packages are upgraded and Envoy is the same in both."""
    binary = tmp_path / "envoy"
    shutil.copy(ENVOY, binary)
    options = msgspec.structs.replace(options, binary=binary)
    port = free_port()
    pid = killed_agent(options, bootstrap(options, port))
    shutil.copy(ENVOY, tmp_path / "new")
    (tmp_path / "new").rename(binary)
    async with supervised(options, bootstrap(options, port)) as supervisor:
        assert supervisor.process.pid == pid
        await until_live(supervisor)
        await supervisor.set_log_level("debug")
        await answer(port)
        await until(lambda: "[debug]" in (options.log_file or tmp_path).read_text())


def two_listeners(options: ProxyOptions, port: int, body: str, slow: int) -> bytes:
    """Return a bootstrap with a listener that answers at once, and one that answers after two seconds."""
    one, other = (json.loads(text) for text in (bootstrap(options, port, body), bootstrap(options, slow, "slow", "2s")))
    listener = other["static_resources"]["listeners"][0] | {"name": "slow"}
    one["static_resources"]["listeners"].append(listener)
    return json.dumps(one).encode()
