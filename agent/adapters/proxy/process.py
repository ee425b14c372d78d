"""A process that outlives whoever started it: spawn it, take it over by pid and start time, watch it, signal it.

Knows the kernel (/proc, pidfd), not Envoy.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from agent.errors import HostError

_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a child gets of the agent's environment: not its Consul token."""
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAP_NET_BIND_SERVICE = 10


class WatchedProcess:
    """A live process, a child of this one or not; belongs to the event loop it was made in."""

    def __init__(self, pid: int, pidfd: int, started: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self.started = started
        """Start time in clock ticks since boot: with the pid it names one process for as long as the machine is up."""
        self._pidfd = pidfd
        self._child = child
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)  # a pidfd becomes readable when its process ends

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        output: IO[bytes] | None,
        uid: int | None = None,
        gid: int | None = None,
        low_ports: bool = False,
    ) -> WatchedProcess:
        """Start a command in its own session, as another user if uid is given; raises HostError.

        output gets its stdout and stderr; None: they are this process's own.
        """
        with ThreadPoolExecutor(1) as thread:
            child = await asyncio.get_running_loop().run_in_executor(thread, _spawn, argv, output, uid, gid, low_ports)
        return cls(child.pid, os.pidfd_open(child.pid), _start_time(child.pid) or 0, child)

    @classmethod
    def adopt(cls, pid: int, started: int, executable: str) -> WatchedProcess | None:
        """Return the process with this pid, start time and executable, or None if there is none such any more."""
        try:
            pidfd = os.pidfd_open(pid)  # first: from here on the number can't change its owner unnoticed
        except OSError:
            return None
        if _start_time(pid) != started or executable_of(pid) != executable:
            os.close(pidfd)
            return None
        return cls(pid, pidfd, started, None)

    @property
    def is_alive(self) -> bool:
        """Tell whether it has not ended yet, as far as the event loop has noticed."""
        return not self._ended.is_set()

    async def wait(self) -> None:
        """Return when it has ended."""
        await self._ended.wait()

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
            await self._ended.wait()

    def exit_text(self) -> str:
        """Return how it ended: `exit code 1`, `killed by SIGKILL`; of another's child only that it ended is known."""
        if self._child is None or self._child.returncode is None:
            return "ended (exit code unknown, it was started by an earlier agent)"
        if self._child.returncode < 0:
            return f"killed by {signal.Signals(-self._child.returncode).name}"
        return f"exit code {self._child.returncode}"

    @property
    def failed(self) -> bool:
        """Tell whether it ended by itself with an error (or nobody knows), not by a signal to end."""
        code = self._child.returncode if self._child else None
        return code is None or code not in (0, -signal.SIGTERM, -signal.SIGKILL)

    def age(self) -> float:
        """Return the seconds since it was started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started / os.sysconf("SC_CLK_TCK")

    def release(self) -> None:
        """Stop watching; the process goes on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        self.release()
        if self._child is not None:
            self._child.wait()
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


def _start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat (proc(5)), None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])  # the name in parentheses may hold anything


def _spawn(
    argv: Sequence[str], output: IO[bytes] | None, uid: int | None, gid: int | None, low_ports: bool
) -> subprocess.Popen[bytes]:
    """Start the command, from a thread that is used for nothing else: it gives up its ambient capabilities first.

    Those are for the agent's iptables, and the child would inherit them; Linux keeps them per thread.
    With `low_ports` it keeps the one for ports below 1024, if the agent has it (if not, binding such a port says so).
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if low_ports:
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_NET_BIND_SERVICE, 0, 0)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            user=uid,
            group=gid if gid is not None else uid,
            extra_groups=() if uid is not None else None,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"{argv[0]}: cannot be started: {error}") from error
