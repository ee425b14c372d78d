"""What the agent tells systemd, and what it writes to the journal."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.adapters.proxy.log_follow import MAX_FILE_BYTES, EnvoyLog
from agent.config import load_config
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus, ProxyStatus, ScopeStatus
from agent.runtime.levels import Levels
from agent.runtime.log_setup import FIELDS, JournalHandler
from agent.runtime.mailbox import Mailbox
from agent.runtime.unit import Unit, status_line

LINE = "[2026-11-20 13:06:36.318][25351][warning][config] [source/common/config/x.cc:98] gRPC closed\n"


def status(*faults: Fault) -> NodeStatus:
    proxy = ProxyStatus(version="1.40.0")
    return NodeStatus(node="n", address="10.0.0.1", proxy=proxy, scope=ScopeStatus("", 4, 5), faults=faults)


def test_each_thing_is_told_once_and_nothing_after_the_end() -> None:
    sent: list[str] = []
    unit = Unit(sent.append)
    for _ in range(2):
        unit.status("waiting")
        unit.ready()
    unit.stopping("draining")
    unit.status("serving")
    assert sent == ["STATUS=waiting", "READY=1", "STOPPING=1\nSTATUS=draining"]


def test_the_status_line_says_what_is_missing_and_what_is_wrong() -> None:
    fault = Fault("Consul", "http://127.0.0.1:8500: connection refused")
    assert status_line(status(), True, ()) == "serving: Envoy 1.40.0, 4 of 5 services"
    said = status_line(status(fault), False, ("Consul's catalog", "certificates"))
    assert said == (
        "nothing is served yet, waiting for Consul's catalog, certificates; "
        "1 fault: Consul: http://127.0.0.1:8500: connection refused"
    )
    assert "; 3 faults: a: x; a: x" in status_line(status(*[Fault("a", "x")] * 3), True, ())
    assert len(status_line(status(Fault("a", "x" * 1000)), True, ())) == 400


async def test_the_watchdog_is_fed_only_while_the_agent_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    sent: list[str] = []
    mailbox: Mailbox[int] = Mailbox()
    task = asyncio.create_task(Unit(sent.append).feed_watchdog(lambda: mailbox.waiting_seconds < 0.1))
    await until(lambda: len(sent) > 3)
    mailbox.post(1)
    await until(lambda: mailbox.waiting_seconds > 0.1)
    fed = len(sent)
    await until(lambda: mailbox.waiting_seconds > 0.2)
    assert len(sent) <= fed + 1
    await mailbox.take()
    await until(lambda: len(sent) > fed + 3)
    task.cancel()
    assert set(sent) == {"WATCHDOG=1"}


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_an_entry_has_the_fields_of_its_record() -> None:
    sent: list[dict[str, object]] = []
    log = logging.getLogger("test.journal")
    log.propagate = False
    log.addHandler(JournalHandler(lambda **fields: sent.append(fields)))
    log.error("fault: %s", "x", extra={FIELDS: {"HOSTMESH_SUBJECT": "rules"}})
    assert sent[0]["MESSAGE"] == "fault: x"
    assert sent[0]["PRIORITY"] == "3"
    assert sent[0]["LOGGER"] == "test.journal"
    assert sent[0]["HOSTMESH_SUBJECT"] == "rules"


def test_envoys_log_is_passed_on_once_and_kept_short(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "envoy")
    path, place = tmp_path / "envoy.log", tmp_path / "read"
    path.write_text(LINE)
    log = EnvoyLog(path, place)
    with path.open("a") as file:
        file.write(LINE + "[2026-11-20 13:06:36.318][1][error][main] half")
    assert log.pass_on()
    assert [record.getMessage() for record in caplog.records] == ["gRPC closed"], "not what was there before"
    assert caplog.records[0].levelname == "WARNING"
    assert getattr(caplog.records[0], FIELDS)["ENVOY_COMPONENT"] == "config"
    with path.open("a") as file:
        file.write(" a line\nno line of its format\n")
    next_agents = EnvoyLog(path, place)
    assert next_agents.pass_on()
    assert [record.getMessage() for record in caplog.records[1:]] == ["half a line", "no line of its format"]
    caplog.clear()
    with path.open("a") as file:
        file.write(LINE * (MAX_FILE_BYTES // len(LINE) + 1))
    while next_agents.pass_on():
        pass
    assert len(caplog.records) == MAX_FILE_BYTES // len(LINE) + 1
    assert path.stat().st_size == 0


def test_levels_change_at_run_time_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = root.level
    try:
        levels = Levels(load_config(tmp_path, tmp_path, tmp_path))
        (tmp_path / "agent.yaml").write_text("log: {level: error}\nproxy: {logLevel: debug}\nnode: other\n")
        assert levels.read_again() == "debug"
        assert root.level == logging.ERROR
        (tmp_path / "agent.yaml").write_text("log: {level: loud}\n")
        assert levels.read_again() is None
        assert "not read again: " in caplog.text
        assert root.level == logging.ERROR
        (tmp_path / "agent.yaml").write_text("log: {level: info}\nproxy: {logLevel: debug}\nnode: other\n")
        assert levels.read_again() is None
        assert "takes effect at the next restart: node" in caplog.text
    finally:
        root.setLevel(before)
