"""A first start that knows nothing, with Consul away: systemd is told so, and units ordered after it may start."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from pathlib import Path

import pytest

from agent.config import load_config
from agent.runtime import daemon
from tests.ports import free_port


async def test_ready_with_a_status_that_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/agent.yaml").write_text(f"consul: {{address: 'http://127.0.0.1:{free_port()}'}}\n")
    (tmp_path / "state").mkdir()
    (tmp_path / "state/last-known").write_bytes(b"\xc1 not what we wrote")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(daemon, "FIRST_CONFIGURATION_SECONDS", 0.1)
        monkeypatch.setattr(daemon, "CONSUL_PATIENCE_SECONDS", 0.2)
        config = load_config(tmp_path / "etc", tmp_path / "state", tmp_path / "run")
        running = asyncio.create_task(daemon.run_daemon(config))
        told = await asyncio.to_thread(systemd.recv, 4096)
        assert told.startswith(b"STATUS=nothing is served yet, waiting for Consul")
        assert await asyncio.to_thread(systemd.recv, 4096) == b"READY=1"
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running, 5)
    gc.unfreeze()  # what a daemon needs for its whole life, these tests don't
