"""A real hostmesh-ca as a child process on free loopback ports: `with CaProcess(directory) as ca: ca.client()`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from agent.adapters.identity import CaClient
from agent.adapters.identity.administration import CaAdministration
from tests.integration.netns import Host
from tests.ports import free_ports

_START_SECONDS = 30.0


class CaProcess:
    """One CA with its state in a folder; it can be killed and started again on the same ports."""

    def __init__(self, directory: Path, host: Host | None = None, /, **settings: Any) -> None:
        """Write the configuration; `settings` are ca.yaml's (`lifetime="4s"`). With a host it runs there."""
        self._host = host
        address = host.v4 if host else "127.0.0.1"
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.enrolment_port, self.renewal_port, self.metrics_port = free_ports(3)
        self.socket = directory / "admin.sock"
        self.log_path = directory / "log"
        self.config = directory / "ca.yaml"
        self._document: dict[str, Any] = {
            "stateDir": str(directory / "state"),
            "adminSocket": str(self.socket),
            "enrolment": {"address": address, "port": self.enrolment_port},
            "renewal": {"address": address, "port": self.renewal_port},
            "metrics": {"address": address, "port": self.metrics_port},
            "lifetime": "60s",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Change settings; the next start reads them."""
        self._document |= settings
        self.config.write_text(yaml.safe_dump(self._document))

    def __enter__(self) -> CaProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it says READY as it does to systemd."""
        notify = self.directory / "notify.sock"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log_path.open("ab") as log:
            ready.bind(str(notify))
            ready.settimeout(0.2)
            environment = os.environ | {"NOTIFY_SOCKET": str(notify)}
            self._process = subprocess.Popen(self.command(), stderr=log, stdout=log, env=environment)
            deadline = time.monotonic() + _START_SECONDS
            while not _says_ready(ready):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise AssertionError(f"hostmesh-ca didn't start: {self.log_path.read_text()}")

    def command(self, *more: str) -> list[str]:
        """Return the command line."""
        argv = [sys.executable, "-m", "node_ca.cli", "--config", str(self.config), *more]
        return self._host.argv(argv) if self._host else argv

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int | None:
        """End it as systemd would; return its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int | None:
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            return process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    @property
    def root_path(self) -> Path:
        """Return where its root certificate is."""
        return self.directory / "state/ca-cert.pem"

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> CaClient:
        """Return a client of it."""
        return CaClient("127.0.0.1", self.enrolment_port, self.renewal_port)

    def token(self, identity: str = "ns/default/sa/reviews", ttl: int = 600, uses: int = 1) -> str:
        """Make a join token."""
        text, _ = CaAdministration(str(self.socket)).create_token(identity, ttl, uses)
        return text

    def log(self) -> list[dict[str, Any]]:
        """Return the log's lines; fails if one isn't JSON."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]


def _says_ready(ready: socket.socket) -> bool:
    try:
        return b"READY=1" in ready.recv(4096)
    except TimeoutError:
        return False
