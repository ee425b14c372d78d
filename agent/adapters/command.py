"""Running commands of the operating system: the one way to iptables, ip and the like.

May not know what the commands do.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from agent.errors import HostError

TIMEOUT_SECONDS = 30.0


class CommandMissing(HostError):
    """The program is not installed."""


class CommandRunner(Protocol):
    """Runs a command to its end."""

    async def run(self, argv: Sequence[str], stdin: str | None = None) -> str:
        """Return what the command printed; raises HostError if it fails, CommandMissing if there is no such program."""


class SystemRunner:
    """Runs commands on this machine; `prefix` goes before each, such as `ip netns exec NAME`."""

    def __init__(self, prefix: Sequence[str] = (), timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._prefix = tuple(prefix)
        self._timeout = timeout_seconds

    async def run(self, argv: Sequence[str], stdin: str | None = None) -> str:
        """Return what the command printed; raises HostError if it fails, CommandMissing if there is no such program."""
        process = await self._start(argv, stdin is not None)
        try:
            output, errors = await asyncio.wait_for(
                process.communicate(stdin.encode() if stdin is not None else None), self._timeout
            )
        except TimeoutError as error:
            raise HostError(f"{shlex.join(argv)}: no end after {self._timeout:g} s, killed") from error
        finally:
            if process.returncode is None:  # timed out, or this task was cancelled
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            said = _one_line(errors) or _one_line(output) or "it said nothing"
            raise HostError(f"{shlex.join(argv)}: exit code {process.returncode}: {said}")
        return output.decode(errors="replace")

    async def _start(self, argv: Sequence[str], has_input: bool) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._prefix,
                *argv,
                stdin=asyncio.subprocess.PIPE if has_input else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError as error:
            raise CommandMissing(f"{argv[0]}: not found in PATH: install it") from error
        except OSError as error:
            raise HostError(f"{shlex.join(argv)}: cannot be started: {error.strerror or error}") from error


def _one_line(output: bytes) -> str:
    return "; ".join(line.strip() for line in output.decode(errors="replace").splitlines() if line.strip())
