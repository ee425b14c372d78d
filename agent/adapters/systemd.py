"""systemd's units as the operator's commands use them: whether one runs, enabling, starting, ending. Synchronous."""

from __future__ import annotations

import subprocess
from pathlib import Path

from agent.errors import HostError

_BOOTED = Path("/run/systemd/system")
_SECONDS = 150.0
"""More than the units' own start and stop timeouts."""


def is_booted() -> bool:
    """Tell whether systemd runs this machine (sd_booted(3))."""
    return _BOOTED.is_dir()


def is_active(unit: str) -> bool:
    """Tell whether a unit runs, or is about to."""
    return _ask("is-active", unit) in ("active", "activating", "reloading")


def is_installed(unit: str) -> bool:
    """Tell whether systemd knows such a unit."""
    return _ask("show", "--value", "-p", "LoadState", unit) == "loaded"


def act(*arguments: str) -> None:
    """Run `systemctl` with these arguments; raises HostError with what it said."""
    done = _systemctl(*arguments)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise HostError(f"systemctl {' '.join(arguments)}: {said}; see `journalctl -u {arguments[-1]}`")


def _ask(*arguments: str) -> str:
    return _systemctl(*arguments).stdout.strip()


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"systemctl {' '.join(arguments)}: {error}") from error
