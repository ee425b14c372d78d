"""The life of the hostmesh-ca process: start, stop, crash, and what a crash may not lose."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from pathlib import Path

import pytest

from agent.adapters.identity import new_key
from agent.errors import CaRefused, CaUnavailable
from agent.mesh.service import Identity
from tests.integration.ca_process import CaProcess

REVIEWS = Identity("default", "reviews")


async def test_kill_9_under_load_loses_no_record(tmp_path: Path) -> None:
    answered: dict[str, bytes] = {}
    with CaProcess(tmp_path / "ca") as ca:
        token = ca.token(uses=10_000)

        enough = asyncio.Event()

        async def keep_enrolling() -> None:
            key = new_key()
            while True:
                try:
                    issued = await ca.client().enrol(REVIEWS, key, token)
                except (CaUnavailable, CaRefused):
                    return
                answered[issued.leaf.serial] = key
                if len(answered) >= 40:
                    enough.set()

        callers = [asyncio.create_task(keep_enrolling()) for _ in range(4)]
        await asyncio.wait_for(enough.wait(), 20)
        ca.kill()
        await asyncio.gather(*callers)
        recorded = _serials(ca)
        assert set(answered) <= recorded
        await asyncio.to_thread(ca.start)
        assert set(answered) <= _serials(ca)
        await ca.client().enrol(REVIEWS, new_key(), token)


def _serials(ca: CaProcess) -> set[str]:
    with sqlite3.connect(ca.directory / "state/inventory.db") as connection:
        return {serial for (serial,) in connection.execute("SELECT serial FROM certificates")}


async def test_a_used_token_stays_used_over_a_crash(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        token = ca.token()
        await ca.client().enrol(REVIEWS, new_key(), token)
        ca.kill()
        await asyncio.to_thread(ca.start)
        with pytest.raises(CaRefused, match="used up"):
            await ca.client().enrol(REVIEWS, new_key(), token)


def test_sigterm_stops_it_in_order(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        assert ca.stop() == 0
        assert ca.log()[-1]["message"] == "stopped"
        assert not ca.socket.exists()


def test_two_on_one_state_or_port_are_refused_in_one_line(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        assert "another hostmesh-ca is using it" in _failure(ca.command())
        other = ca.directory / "other.yaml"
        other.write_text(ca.config.read_text().replace("/state", "/state2").replace("admin.sock", "admin2.sock"))
        assert "cannot listen on 127.0.0.1" in _failure([*ca.command()[:-1], str(other)])


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    ca = CaProcess(tmp_path / "ca")
    done = subprocess.run(ca.command("--check"), capture_output=True, text=True, timeout=20, check=True)
    assert "in order" in done.stdout
    ca.config.write_text("lifetime: 1s\nport: 5\n")
    done = subprocess.run(ca.command("--check"), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2
    assert not (ca.directory / "state").exists()


def _failure(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr
