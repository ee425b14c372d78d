"""Keeps one Envoy running: starts it, adopts the one a dead agent left, restarts it when it dies, drains and ends it.

Envoy runs in a session of its own and outlives the agent. What it is configured with is not this module's business.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
from msgspec import Struct

from agent.adapters.command import SystemRunner
from agent.adapters.files import write_atomic
from agent.adapters.proxy.admin import AdminClient
from agent.adapters.proxy.backoff import Backoff
from agent.adapters.proxy.log_tail import last_error
from agent.adapters.proxy.options import ProxyOptions
from agent.adapters.proxy.process import WatchedProcess, processes_with_argument
from agent.adapters.proxy.state import ProxyState, read_state, write_state
from agent.errors import HostError

GRACE_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""
QUIET_SECONDS = 1.0
"""A draining Envoy is done when nothing is under way and nothing new came for so long (idle connections may stay)."""

log = logging.getLogger(__name__)


class ProxyProcess(Struct, frozen=True):
    """The supervised Envoy as others see it."""

    pid: int | None = None
    """None while there is none."""
    version: str = ""
    restarts: int = 0
    last_exit: str = ""
    """How and why the last one ended; "" if none has."""


class EnvoySupervisor:
    """One Envoy: `start()`, then `run()` as a task; `stop()` ends Envoy and `run()`, `release()` only `run()`."""

    def __init__(self, options: ProxyOptions, on_change: Callable[[ProxyProcess], None] | None = None) -> None:
        self._options = options
        self._on_change = on_change
        self._admin = AdminClient(options.admin_socket)
        self._view = ProxyProcess()
        self._bootstrap = b""
        self._fingerprint = ""
        self._version = ""
        self._process: WatchedProcess | None = None
        self._log_size = 0
        self._backoff = Backoff()
        self._lock = asyncio.Lock()
        self._leaving = asyncio.Event()

    @property
    def process(self) -> ProxyProcess:
        """Return the present state."""
        return self._view

    async def start(self, bootstrap: bytes) -> None:
        """Have an Envoy with this bootstrap: the running one, if it is the same; else that one is drained and replaced.

        Returns when the process exists, not when it is ready (`admin_get("/ready")`). Raises HostError if it can't be
        started at all.
        """
        async with self._lock:
            self._bootstrap = bootstrap
            if not await self._adopt():
                await self._end_strays()
                await self._launch()

    async def run(self) -> None:
        """Start Envoy again whenever it has died, until stop() or release(). Comes after start()."""
        while not await self._left_before(self._process.wait() if self._process else None):
            lived = self._note_exit() if self._process else 0.0
            if await self._left_before(asyncio.sleep(self._backoff.after(lived))):
                return
            await self._relaunch()

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Drain Envoy for so many seconds at most (default: the option's), end it, and remove what it leaves behind."""
        self._leaving.set()
        async with self._lock:
            if self._process is not None:
                await self._end(self._process, self._options.drain_seconds if drain_seconds is None else drain_seconds)
            self._remove_files()
            self._show(pid=None)

    def release(self) -> None:
        """Leave Envoy to run on its own, for the next agent to adopt."""
        self._leaving.set()
        if self._process is not None:
            self._process.release()

    async def admin_get(self, path: str) -> str:
        """Return what Envoy's admin interface answers to a GET of the path; raises HostError."""
        return await self._admin.get(path)

    async def _adopt(self) -> bool:
        """Take over the Envoy that the state file tells of; end it, drained, if it is not what is wanted now."""
        state = read_state(self._options.state_file)
        process = WatchedProcess.adopt(state.pid, state.started, state.executable) if state else None
        if state is None or process is None:
            return False
        self._show(restarts=state.restarts)
        if state.fingerprint != self._options.fingerprint(self._bootstrap):
            log.info("the running Envoy (pid %d) has another configuration: draining it", process.pid)
            await self._end(process, self._options.drain_seconds)
            return False
        log.info("adopted Envoy %s, pid %d", state.version, process.pid)
        self._process = process
        self._fingerprint, self._version = state.fingerprint, state.version
        self._show(pid=process.pid, version=state.version)
        return True

    async def _launch(self) -> None:
        options = self._options
        fingerprint = options.fingerprint(self._bootstrap)
        if fingerprint != self._fingerprint:  # a restart after a crash shall not wait for `envoy --version` again
            self._version = await envoy_version(str(options.binary))
            self._fingerprint = fingerprint
        self._prepare_files()
        with self._open_log() as output:
            process = await WatchedProcess.spawn(
                options.command_line(), output, options.uid, options.gid, options.low_ports
            )
        self._process = process
        self._show(pid=process.pid, version=self._version)
        log.info("started Envoy %s, pid %d", self._version, process.pid)
        executable, restarts = options.executable(), self._view.restarts
        state = ProxyState(process.pid, process.started, executable, fingerprint, self._version, restarts)
        try:
            write_state(options.state_file, state)
        except HostError as error:  # no reason to go without Envoy; the next agent will take this one for a stray
            log.error("Envoy can't be adopted by another agent later: %s", error)

    async def _relaunch(self) -> None:
        async with self._lock:
            if self._leaving.is_set():
                return
            self._show(restarts=self._view.restarts + 1)
            try:
                await self._launch()
            except HostError as error:
                log.error("Envoy is not running: %s", error)
                self._show(last_exit=str(error))

    def _note_exit(self) -> float:
        """Publish how Envoy ended and return how long it lived, seconds."""
        assert self._process is not None
        process, self._process = self._process, None
        lived = process.age()
        words = last_error(self._options.log_file, self._log_size) if process.failed else ""
        text = f"{process.exit_text()} after {lived:.1f} s" + (f": {words}" if words else "")
        log.error("Envoy (pid %d): %s", process.pid, text)
        self._show(pid=None, last_exit=text)
        return lived

    async def _end(self, process: WatchedProcess, drain_seconds: float) -> None:
        if drain_seconds > 0:
            await self._drain(process, drain_seconds)
        await process.end(GRACE_SECONDS)
        self._process = None

    async def _drain(self, process: WatchedProcess, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._admin.post("/healthcheck/fail")
                await self._admin.post("/drain_listeners?graceful")
                await self._until_quiet(process)
        except TimeoutError:
            log.info("Envoy still had traffic after %g s of draining", seconds)
        except HostError as error:
            log.warning("Envoy is ended without draining: %s", error)

    async def _until_quiet(self, process: WatchedProcess) -> None:
        """Return when no connection is open, or nothing has been under way and nothing new has come for a while."""
        total, quiet_since = -1, time.monotonic()
        while process.is_alive:
            activity = await self._admin.activity()
            if activity.open_connections == 0:
                return
            if activity.busy or activity.total != total:
                total, quiet_since = activity.total, time.monotonic()
            elif time.monotonic() - quiet_since >= QUIET_SECONDS:
                return
            await asyncio.sleep(0.1)

    async def _end_strays(self) -> None:
        """End Envoys of this folder that no state file tells of: an agent died between start and note."""
        executable = self._options.executable()
        for pid, started in processes_with_argument(executable, str(self._options.bootstrap_file)).items():
            if stray := WatchedProcess.adopt(pid, started, executable):
                log.warning("ending a stray Envoy, pid %d", pid)
                await stray.end(GRACE_SECONDS)

    def _prepare_files(self) -> None:
        options = self._options
        try:
            options.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if not options.admin_socket.parent.exists():
                options.admin_socket.parent.mkdir(mode=0o700, parents=True)
                os.chown(options.admin_socket.parent, -1 if options.uid is None else options.uid, -1)
        except OSError as error:
            raise HostError(f"{options.folder}: cannot be prepared for Envoy: {error}") from error
        write_atomic(options.bootstrap_file, self._bootstrap, mode=0o600 if options.uid is None else 0o644)

    def _open_log(self) -> AbstractContextManager[Any]:
        path = self._options.log_file
        if path is None:
            return nullcontext()
        try:
            file = path.open("ab")
        except OSError as error:
            raise HostError(f"{path}: cannot be opened for Envoy's log: {error.strerror or error}") from error
        self._log_size = file.tell()
        return file

    def _remove_files(self) -> None:
        for path in (self._options.state_file, self._options.bootstrap_file, self._options.admin_socket):
            path.unlink(missing_ok=True)

    async def _left_before(self, event: Awaitable[object] | None) -> bool:
        """Wait for the event, or for stop() and release(); tell whether it was these."""
        if event is not None:
            leaving = asyncio.ensure_future(self._leaving.wait())
            tasks = {leaving, asyncio.ensure_future(event)}
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
        return self._leaving.is_set()

    def _show(self, **changes: Any) -> None:
        view = msgspec.structs.replace(self._view, **changes)
        if view != self._view:
            self._view = view
            if self._on_change is not None:
                self._on_change(view)


async def envoy_version(binary: str) -> str:
    """Return the version that `envoy --version` tells, such as `1.40.0`; raises HostError."""
    text = await SystemRunner().run([binary, "--version"])
    words = text.strip().rpartition("version: ")[2].split("/")
    if len(words) < 2:
        raise HostError(f"{binary} --version: not Envoy's answer: {text.strip()[:100]}")
    return words[1]
