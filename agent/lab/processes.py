"""Processes by pid and start time, read from /proc: found, watched and ended without mistaking one for another."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec import Struct

from agent.errors import HostError


class ProcessId(Struct, frozen=True):
    """A process for all time: pids are reused, pids with their start time are not."""

    pid: int
    started: int
    """Clock ticks since boot (proc(5), stat field 22)."""

    @property
    def is_running(self) -> bool:
        """Tell whether it exists and is no zombie."""
        return identify(self.pid) == self


def identify(pid: int) -> ProcessId | None:
    """Return the running process with that pid; a zombie counts as none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return None if fields[0] in "ZX" else ProcessId(pid, int(fields[19]))


def name_of(pid: int) -> str:
    """Return the process' short name (comm), "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def in_network_namespaces(inodes: Collection[int]) -> Iterator[ProcessId]:
    """Return the processes whose network namespace has one of these inode numbers."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            inode = os.stat(f"/proc/{entry}/ns/net").st_ino
        except OSError:  # ended meanwhile, or a zombie
            continue
        if inode in inodes and (process := identify(int(entry))):
            yield process


def kill(process: ProcessId, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to exactly this process; nothing if it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if process.is_running:  # checked while the handle keeps the pid from being anybody else's
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(handle)


def kill_all(processes: Collection[ProcessId], inodes: Collection[int], seconds: float = 10.0) -> None:
    """End these processes and everything in these network namespaces; raises HostError if some stay."""
    deadline = time.monotonic() + seconds
    remaining = set(processes)
    while True:
        remaining = {process for process in remaining if process.is_running}
        remaining.update(in_network_namespaces(inodes) if inodes else ())
        remaining.discard(ProcessId(0, 0))
        if not remaining:
            return
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in sorted(remaining, key=lambda p: p.pid))
            raise HostError(f"lab: processes {pids} do not end; see `ps -o pid,stat,wchan,args -p {pids}`")
        for process in remaining:
            kill(process)
        time.sleep(0.02)
