"""When a dead Envoy is started again, and what is said about its death."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.proxy.backoff import Backoff
from agent.adapters.proxy.log_tail import last_error
from agent.adapters.proxy.state import read_state


def test_waits_double_up_to_the_limit() -> None:
    backoff = Backoff()
    waits = [backoff.after(0.05) for _ in range(9)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])


def test_a_stable_minute_resets_the_wait() -> None:
    backoff = Backoff()
    for _ in range(9):
        backoff.after(59.0)
    assert backoff.after(60.0) == 0.1
    assert backoff.after(1.0) == 0.2


PREFIX = "[2026-11-20 09:00:04.268][32226]"
LOGS = {
    "stderr": (
        f"{PREFIX}[critical][main] [source/server/server.cc:449] error `x` initializing config\n"
        f"{PREFIX}[info][main] [source/server/server.cc:1159] exiting\nProto   message has  unknown fields\n",
        "Proto message has unknown fields",
    ),
    "crash": (
        f"{PREFIX}[error][x] [source/a.cc:1] earlier\n"
        f"{PREFIX}[critical][backtrace] [./source/x.h:127] Caught Segmentation fault, suspect faulting address 0x0\n"
        f"{PREFIX}[critical][backtrace] [./source/x.h:121] Backtrace:\n",
        "Caught Segmentation fault, suspect faulting address 0x0",
    ),
    "no-source": (f"{PREFIX}[error][main] out of something\n", "out of something"),
    "nothing-wrong": (f"{PREFIX}[warning][main] [source/a.cc:1] be careful\n", ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize("case", LOGS)
def test_last_error_line(tmp_path: Path, case: str) -> None:
    text, expected = LOGS[case]
    earlier = f"{PREFIX}[critical][main] [source/a.cc:1] of the Envoy before\n"
    (tmp_path / "log").write_text(earlier + text)
    assert last_error(tmp_path / "log", len(earlier)) == expected


def test_last_error_of_a_missing_or_rotated_log(tmp_path: Path) -> None:
    assert last_error(None, 0) == ""
    assert last_error(tmp_path / "none", 0) == ""
    (tmp_path / "log").write_text("short\n")
    assert last_error(tmp_path / "log", 1_000_000) == "short"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "1"}', "\x00\xff"])
def test_an_unreadable_state_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state").write_text(text)
    assert read_state(tmp_path / "state") is None
    assert read_state(tmp_path / "none") is None
