"""A process that outlives whoever started it: spawn it, take it over by pid and start time, watch it, signal it.

Knows the kernel (/proc, pidfd), not Envoy.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from agent.errors import HostError

_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a child gets of the agent's environment: not its Consul token."""
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_NET_BIND_SERVICE = 10
_EXIT_PATIENCE_SECONDS = 1.0
_KEEPER = '"$@" >&2 & echo $!; read _ <&1; exec >&2; wait $!; echo $? >&0'
"""The command's parent, which outlives the agent: Envoy with hot restart has the kernel end it when its parent ends
(PR_SET_PDEATHSIG), and a parent alone learns how it ended. File 0 is the exit file; file 1 is a socket to the agent,
which gets the pid and closes it when it watches that process: until then nobody else can get the pid.
"""


@dataclass(frozen=True)
class Command:
    """What is to be started, and as whom."""

    argv: Sequence[str]
    exit_file: Path
    """Where it is written how it ended."""
    output: IO[bytes] | None = None
    """Gets its stdout and stderr; None: they are this process's own stderr."""
    uid: int | None = None
    """None: this process's user."""
    gid: int | None = None
    low_ports: bool = False
    """It keeps the capability for ports below 1024, if the agent has it (if not, binding such a port says so)."""


class WatchedProcess:
    """A live process, a child of this one or not; belongs to the event loop it was made in."""

    def __init__(
        self, pid: int, pidfd: int, started: int, exit_file: Path, keeper: subprocess.Popen[bytes] | None
    ) -> None:
        self.pid = pid
        self.started = started
        """Start time in clock ticks since boot: with the pid it names one process for as long as the machine is up."""
        self._pidfd = pidfd
        self._exit_file = exit_file
        self._keeper = keeper
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)  # a pidfd becomes readable when its process ends

    @classmethod
    async def spawn(cls, command: Command) -> WatchedProcess:
        """Start a command in its own session; raises HostError."""
        with ThreadPoolExecutor(1) as thread:
            started = await asyncio.get_running_loop().run_in_executor(thread, _spawn, command)
        pid, pidfd, keeper = started
        # One that has ended by now is gone from /proc, and was started just before.
        return cls(pid, pidfd, _start_time(pid) or _ticks_since_boot(), command.exit_file, keeper)

    @classmethod
    def adopt(cls, pid: int, started: int, executable: str, exit_file: Path) -> WatchedProcess | None:
        """Return the process with this pid, start time and executable, or None if there is none such any more."""
        try:
            pidfd = os.pidfd_open(pid)  # first: from here on the number can't change its owner unnoticed
        except OSError:
            return None
        if _start_time(pid) != started or executable_of(pid) != executable:
            os.close(pidfd)
            return None
        return cls(pid, pidfd, started, exit_file, None)

    @property
    def is_alive(self) -> bool:
        """Tell whether it has not ended yet, as far as the event loop has noticed."""
        return not self._ended.is_set()

    async def wait(self) -> None:
        """Return when it has ended, and how it ended is known."""
        await self._ended.wait()
        if self._keeper is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._keeper.wait, _EXIT_PATIENCE_SECONDS)
        else:
            await asyncio.to_thread(self._await_exit_status)

    def _await_exit_status(self) -> None:
        """Wait until another's keeper has written it, which is a matter of a moment (or never, if that was killed)."""
        until = time.monotonic() + _EXIT_PATIENCE_SECONDS
        while self._exit_status() is None and self._exit_file.exists() and time.monotonic() < until:
            time.sleep(0.005)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        if self.is_alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def end(self, grace_seconds: float) -> None:
        """End it: SIGTERM, and after some seconds SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), grace_seconds)
        except TimeoutError:
            self.signal(signal.SIGKILL)
        await self.wait()

    def exit_text(self) -> str:
        """Return how it ended: `exit code 1`, `killed by SIGKILL`."""
        status = self._exit_status()
        if status is None:
            return "ended (exit code unknown)"
        return f"exit code {status}" if status <= 128 else f"killed by {signal.Signals(status - 128).name}"

    @property
    def failed(self) -> bool:
        """Tell whether it ended by itself with an error (or nobody knows), not by a signal to end."""
        return self._exit_status() not in (0, 128 + signal.SIGTERM, 128 + signal.SIGKILL)

    def _exit_status(self) -> int | None:
        """Return the status as a shell gives it: 128 and the signal's number for one that a signal ended."""
        try:
            return int(self._exit_file.read_text())
        except (OSError, ValueError):
            return None

    def age(self) -> float:
        """Return the seconds since it was started."""
        return (_ticks_since_boot() - self.started) / os.sysconf("SC_CLK_TCK")

    def release(self) -> None:
        """Stop watching; the process goes on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        self.release()
        self._ended.set()


def executable_of(pid: int) -> str | None:
    """Return the path of the program a process runs (its old one, if the file was replaced), None if unreadable."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return None


def processes_with_argument(executable: str, argument: str) -> dict[int, int]:
    """Return pid → start time of the processes that run this program with that word on their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and executable_of(int(entry.name)) == executable:
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                started = _start_time(int(entry.name))
                if os.fsencode(argument) in words and started is not None:
                    found[int(entry.name)] = started
    return found


def _ticks_since_boot() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat (proc(5)), None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])  # the name in parentheses may hold anything


def _spawn(command: Command) -> tuple[int, int, subprocess.Popen[bytes]]:
    """Return pid, pidfd and keeper, from a thread that is used for nothing else: it gives up its ambient capabilities.

    Those are for the agent's iptables, and the child would inherit them; Linux keeps them per thread.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if command.low_ports:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_NET_BIND_SERVICE, 0, 0)
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs, command.exit_file.open("wb") as exit_file:
            keeper = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER, "keeper", *command.argv],
                stdin=exit_file,
                stdout=theirs.fileno(),
                stderr=command.output,
                start_new_session=True,
                user=command.uid,
                group=command.gid if command.gid is not None else command.uid,
                extra_groups=() if command.uid is not None else None,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            theirs.close()
            pid = int(ours.recv(32))
            pidfd = os.pidfd_open(pid)
            _await_program(pid, keeper.pid)
            return pid, pidfd, keeper
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise HostError(f"{command.argv[0]}: cannot be started: {error}") from error


def _await_program(pid: int, keeper: int) -> None:
    """Wait until a process is no copy of the shell any more: only as what it is to become it can be adopted."""
    until = time.monotonic() + _EXIT_PATIENCE_SECONDS
    while executable_of(pid) == executable_of(keeper) and time.monotonic() < until:
        time.sleep(0.001)
