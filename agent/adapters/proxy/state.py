"""What the supervisor keeps on disk about the running Envoy, so that the next agent can adopt it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from agent.adapters.files import read_optional, write_atomic


class ProxyState(Struct, frozen=True):
    """One running Envoy."""

    pid: int
    started: int
    """Clock ticks since boot."""
    executable: str
    fingerprint: str
    """Hash of everything it was started with; a different one means it must be replaced."""
    version: str
    restarts: int = 0
    epoch: int = 0
    """How many hot restarts lie between the first Envoy of this base-id and this one."""
    base_id: int = 0
    hot_restart: str = ""
    """What `envoy --hot-restart-version` says: only equal ones hand over to each other."""


def read_state(path: Path) -> ProxyState | None:
    """Return the state, or None if there is none or it can't be understood (then no Envoy is adopted)."""
    data = read_optional(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=ProxyState)
    except msgspec.MsgspecError:
        return None


def write_state(path: Path, state: ProxyState) -> None:
    """Replace the file; raises HostError."""
    write_atomic(path, msgspec.json.encode(state) + b"\n")
