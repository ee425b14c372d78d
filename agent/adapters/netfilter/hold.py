"""The file by which an operator's command keeps the agent's hands off interception for a while.

It lies in the agent's run folder: it outlives both, and ends with the machine's uptime.
"""

from __future__ import annotations

from pathlib import Path

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError

FILE_NAME = "interception.hold"


class Hold:
    """Whoever may write the run folder can hold interception as it is; the agent then neither makes nor repairs it."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE_NAME

    def reason(self) -> str | None:
        """Return why interception is held, one line, or None if it is not."""
        try:
            said = read_optional(self._path)
        except HostError as error:
            return str(error)
        return None if said is None else " ".join(said.decode(errors="replace").split()) or "held by an operator"

    def set(self, reason: str) -> None:
        """Hold it from now on; raises HostError."""
        write_atomic(self._path, f"{reason}\n".encode(), mode=0o644)

    def release(self) -> None:
        """Let the agent go on; raises HostError."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise HostError(f"{self._path}: cannot be removed: {error.strerror or error}") from error
