"""How Envoy is run: options, command line, and the hash that tells whether a running one still fits."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

from msgspec import Struct

from agent.errors import HostError


class ProxyOptions(Struct, frozen=True):
    """How Envoy is run. A change of what is on its command line replaces an adopted Envoy."""

    binary: Path
    folder: Path
    """Where its bootstrap and state files are kept; one Envoy to a folder."""
    admin_socket: Path
    """As in the bootstrap."""
    concurrency: int = 2
    drain_seconds: float = 5.0
    log_level: str = "warning"
    log_file: Path | None = None
    """None: Envoy's log goes where the agent's goes (and its last words are not known when it dies)."""
    uid: int | None = None
    """Run Envoy as this user; needs root."""
    gid: int | None = None
    """None: the same number as uid."""
    low_ports: bool = False
    """A gateway's Envoy: it may listen on ports below 1024 (CAP_NET_BIND_SERVICE), if the agent may."""

    @property
    def bootstrap_file(self) -> Path:
        """Return the path of the bootstrap."""
        return self.folder / "envoy.json"

    @property
    def state_file(self) -> Path:
        """Return the path of the supervisor's note about the running Envoy."""
        return self.folder / "envoy.state"

    def command_line(self) -> list[str]:
        """Return Envoy's command line.

        Drain strategy `immediate`: by default Envoy closes connections with a probability that grows over the drain
        time, so a short drain would leave most of them open. No hot restart: with it Envoy has the kernel end it when
        its parent dies (PR_SET_PDEATHSIG), and it has to outlive the agent.
        """
        return [
            str(self.binary),
            *("-c", str(self.bootstrap_file)),
            *("--concurrency", str(self.concurrency)),
            "--disable-hot-restart",
            *("--drain-time-s", str(max(1, math.ceil(self.drain_seconds)))),
            *("--drain-strategy", "immediate"),
            *("--log-level", self.log_level),
        ]

    def executable(self) -> str:
        """Return the binary as /proc/PID/exe shows it."""
        return os.path.realpath(self.binary)

    def fingerprint(self, bootstrap: bytes) -> str:
        """Return a hash of bootstrap, command line and binary; raises HostError if there is no binary."""
        try:
            status = os.stat(self.binary)
        except OSError as error:
            raise HostError(f"proxy.binary: {self.binary}: {error.strerror}: install hostmesh-proxy") from error
        binary = (status.st_ino, status.st_size, status.st_mtime_ns)
        parts = repr((self.command_line(), self.uid, self.gid, binary, *self.low_ports * ("low ports",))).encode()
        return hashlib.sha256(parts + bootstrap).hexdigest()
