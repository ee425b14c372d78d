"""How Envoy is run: options, command line, and the hash that tells whether a running one still fits."""

from __future__ import annotations

import hashlib
import math
import os
from functools import lru_cache
from pathlib import Path

from msgspec import Struct

from agent.errors import HostError


class ProxyOptions(Struct, frozen=True):
    """How Envoy is run. A change of what is on its command line, but of the log level, replaces an adopted Envoy."""

    binary: Path
    folder: Path
    """Where its bootstrap and state files are kept; one Envoy to a folder."""
    admin_socket: Path
    """As in the bootstrap."""
    concurrency: int = 2
    drain_seconds: float = 5.0
    handover_seconds: float = 60.0
    """How long connections of an Envoy that another one has taken over from may go on, at most."""
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

    def exit_file(self, epoch: int) -> Path:
        """Return where it is written how the Envoy of that epoch ended."""
        return self.folder / f"envoy.{epoch}.exit"

    def command_line(self, base_id: int, epoch: int) -> list[str]:
        """Return Envoy's command line; from epoch 1 on it takes over from the one before it, of the same base-id."""
        place = ("--base-id", str(base_id), "--restart-epoch", str(epoch))
        return [str(self.binary), *self._arguments(), *place, "--log-level", self.log_level]

    def _arguments(self) -> list[str]:
        """Return what an Envoy must have been started with to be the one that is wanted.

        Drain strategy `immediate`: by default Envoy closes connections with a probability that grows over the drain
        time, so a short drain would leave most of them open.
        """
        drain = max(1, math.ceil(self.drain_seconds))
        return [
            *("-c", str(self.bootstrap_file)),
            *("--concurrency", str(self.concurrency)),
            *("--drain-time-s", str(drain)),
            *("--parent-shutdown-time-s", str(max(drain + 1, math.ceil(self.handover_seconds)))),
            *("--drain-strategy", "immediate"),
            *("--file-flush-interval-msec", "1000"),  # what it tells in files is read by people
        ]

    def executable(self) -> str:
        """Return the binary as /proc/PID/exe shows it."""
        return os.path.realpath(self.binary)

    def fingerprint(self, bootstrap: bytes) -> str:
        """Return a hash of bootstrap, command line and binary; raises HostError if there is no binary.

        Takes 0.1 s for a binary that it has not seen: an upgrade of the agent alone brings the same one as a new file.
        """
        try:
            status = os.stat(self.binary)
            binary = _digest(self.executable(), status.st_ino, status.st_mtime_ns)
        except OSError as error:
            raise HostError(f"proxy.binary: {self.binary}: {error.strerror}: install hostmesh-proxy") from error
        parts = repr((self._arguments(), self.uid, self.gid, self.low_ports, binary)).encode()
        return hashlib.sha256(parts + bootstrap).hexdigest()


@lru_cache(maxsize=4)
def _digest(path: str, _inode: int, _changed: int) -> str:
    """Return the SHA-256 of a file, read again only if it is another one."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
