"""Keeps one Envoy running: starts it, adopts the one a dead agent left, restarts it when it dies, drains and ends it.

Envoy runs in a session of its own and outlives the agent. One that must run otherwise (a new binary, another bootstrap)
takes over from the running one by hot restart, so that no connection fails. What it is configured with is not this
module's business.
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
from agent.adapters.proxy.process import Command, WatchedProcess, processes_with_argument
from agent.adapters.proxy.shared_memory import new_base_id, remove_shared_memory
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


class _Binary(Struct, frozen=True):
    """What is wanted to run, and what its binary said of itself."""

    fingerprint: str = ""
    version: str = ""
    hot_restart: str = ""


class _CommandLine(Struct, frozen=True):
    restart_epoch: int = -1


class _ServerInfo(Struct, frozen=True):
    state: str = ""
    command_line_options: _CommandLine = _CommandLine()


class EnvoySupervisor:
    """One Envoy: `start()`, then `run()` as a task; `stop()` ends Envoy and `run()`, `release()` only `run()`."""

    def __init__(self, options: ProxyOptions, on_change: Callable[[ProxyProcess], None] | None = None) -> None:
        self._options = options
        self._on_change = on_change
        self._admin = AdminClient(options.admin_socket)
        self._view = ProxyProcess()
        self._bootstrap = b""
        self._binary = _Binary()
        self._process: WatchedProcess | None = None
        self._state: ProxyState | None = None
        """What is noted of `_process`, or of the last one."""
        self._before: tuple[WatchedProcess, ProxyState] | None = None
        """The Envoy that `_process` is to take over from, until it has."""
        self._log_size = 0
        self._backoff = Backoff()
        self._lock = asyncio.Lock()
        self._leaving = asyncio.Event()

    @property
    def process(self) -> ProxyProcess:
        """Return the present state."""
        return self._view

    async def start(self, bootstrap: bytes) -> None:
        """Have an Envoy with this bootstrap: the running one, if it is the same; else one that takes over from that.

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
        handover = asyncio.create_task(self._watch_handover())
        try:
            while not await self._left_before(self._process.wait() if self._process else None):
                lived = self._note_exit() if self._process else 0.0
                if self._return_to_the_one_before():
                    continue
                if await self._left_before(asyncio.sleep(self._backoff.after(lived))):
                    return
                await self._relaunch()
        finally:
            handover.cancel()

    async def find_left(self) -> bool:
        """Take over what a dead agent left, however it was started, to stop() it; tell whether there is anything."""
        if (state := read_state(self._options.state_file)) is None:
            return False
        self._state = state
        exit_file = self._options.exit_file(state.epoch)
        self._process = WatchedProcess.adopt(state.pid, state.started, state.executable, exit_file)
        return True

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Drain Envoy for so many seconds at most (default: the option's), end it, and remove what it leaves behind."""
        self._leaving.set()
        async with self._lock:
            if self._process is not None:
                await self._end(self._process, self._options.drain_seconds if drain_seconds is None else drain_seconds)
            await self._end_strays()
            self._remove_files()
            self._show(pid=None)

    def release(self) -> None:
        """Leave Envoy to run on its own, for the next agent to adopt."""
        self._leaving.set()
        for process in (self._process, *(self._before or ())[:1]):
            if process is not None:
                process.release()

    async def set_log_level(self, level: str) -> None:
        """Have Envoy log from this level on, and every one after it; raises HostError if it can't be asked."""
        self._options = msgspec.structs.replace(self._options, log_level=level)
        await self._admin.post(f"/logging?level={level}")

    async def admin_get(self, path: str) -> str:
        """Return what Envoy's admin interface answers to a GET of the path; raises HostError."""
        return await self._admin.get(path)

    async def _adopt(self) -> bool:
        """Take over the Envoy that the state file tells of, or have another one take over from it."""
        options = self._options
        state = read_state(options.state_file)
        if state is None:
            return False
        process = WatchedProcess.adopt(state.pid, state.started, state.executable, options.exit_file(state.epoch))
        if process is None:
            remove_shared_memory(state.base_id)
            return False
        self._show(restarts=state.restarts)
        if state.fingerprint != await asyncio.to_thread(options.fingerprint, self._bootstrap):
            return await self._replace(process, state)
        log.info("adopted Envoy %s, pid %d", state.version, process.pid)
        self._process, self._state = process, state
        self._binary = _Binary(state.fingerprint, state.version, state.hot_restart)
        self._show(pid=process.pid, version=state.version)
        return True

    async def _replace(self, process: WatchedProcess, state: ProxyState) -> bool:
        """Start the Envoy that takes over from this one; False if these two can't, and this one has been ended."""
        binary = await self._look_at_binary()
        await self._end_strays(process.pid)  # one whose connections were going on still: a third can't be told of it
        if binary.hot_restart != state.hot_restart:
            log.warning("Envoy %s can't take over from %s: draining it first", binary.version, state.version)
            await self._end(process, self._options.drain_seconds)
            remove_shared_memory(state.base_id)
            return False
        log.info("the running Envoy (pid %d) is to run otherwise: hot restart", process.pid)
        self._before = process, state
        await self._launch(state.base_id, state.epoch + 1)
        return True

    async def _look_at_binary(self) -> _Binary:
        options = self._options
        fingerprint = await asyncio.to_thread(options.fingerprint, self._bootstrap)
        if fingerprint != self._binary.fingerprint:  # a restart after a crash shall not wait for `envoy --version`
            version, hot_restart = await envoy_version(str(options.binary))
            self._binary = _Binary(fingerprint, version, hot_restart)
        return self._binary

    async def _launch(self, base_id: int | None = None, epoch: int = 0) -> None:
        """Start Envoy; without a base-id as the first one of a new one."""
        options, binary = self._options, await self._look_at_binary()
        base_id = new_base_id() if base_id is None else base_id
        self._prepare_files()
        with self._open_log() as output:
            process = await WatchedProcess.spawn(
                Command(
                    options.command_line(base_id, epoch),
                    options.exit_file(epoch),
                    output,
                    options.uid,
                    options.gid,
                    options.low_ports,
                )
            )
        self._process = process
        self._show(pid=process.pid, version=binary.version)
        log.info("started Envoy %s, pid %d, epoch %d", binary.version, process.pid, epoch)
        self._note(
            ProxyState(
                pid=process.pid,
                started=process.started,
                executable=options.executable(),
                fingerprint=binary.fingerprint,
                version=binary.version,
                restarts=self._view.restarts,
                epoch=epoch,
                base_id=base_id,
                hot_restart=binary.hot_restart,
            )
        )

    def _note(self, state: ProxyState) -> None:
        self._state = state
        try:
            write_state(self._options.state_file, state)
        except HostError as error:  # no reason to go without Envoy; the next agent will take this one for a stray
            log.error("Envoy can't be adopted by another agent later: %s", error)

    async def _watch_handover(self) -> None:
        """Forget the Envoy before this one as soon as this one serves; its connections may go on for a while."""
        while self._before is not None and self._state is not None:
            if await self._serves(self._state.epoch):
                log.info(
                    "Envoy, pid %d, serves; the one before, pid %d, is drained", self._state.pid, self._before[0].pid
                )
                self._before[0].release()
                self._before = None
                return
            await asyncio.sleep(0.1)

    async def _serves(self, epoch: int) -> bool:
        try:
            info = msgspec.json.decode(await self._admin.get("/server_info"), type=_ServerInfo)
        except (HostError, msgspec.MsgspecError):
            return False
        return info.state == "LIVE" and info.command_line_options.restart_epoch == epoch

    def _return_to_the_one_before(self) -> bool:
        """Go on with the Envoy that the one which just died was to take over from, if it never did."""
        before, self._before = self._before, None
        if before is None or not before[0].is_alive:
            return False
        self._process, state = before
        log.error("Envoy, pid %d, serves on as it was: %s", state.pid, self._view.last_exit)
        self._note(state)
        self._show(pid=state.pid, version=state.version)
        return True

    async def _relaunch(self) -> None:
        async with self._lock:
            if self._leaving.is_set():
                return
            self._show(restarts=self._view.restarts + 1)
            try:
                if self._state is not None:
                    remove_shared_memory(self._state.base_id)
                await self._end_strays()  # one whose connections were going on; another base-id can't be told of it
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

    async def _end_strays(self, kept: int | None = None) -> None:
        """End all Envoys of this folder but one: an agent died between start and note, or connections went on."""
        options = self._options
        executable = options.executable()
        for pid, started in processes_with_argument(executable, str(options.bootstrap_file)).items():
            nowhere = options.folder / "stray.exit"
            if pid != kept and (stray := WatchedProcess.adopt(pid, started, executable, nowhere)):
                log.warning("ending another Envoy of ours, pid %d", pid)
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
        except OSError as error:  # a full or read-only disk: no reason to go without Envoy
            log.error("%s: cannot be opened, Envoy's log goes with the agent's: %s", path, error.strerror or error)
            return nullcontext()
        self._log_size = file.tell()
        return file

    def _remove_files(self) -> None:
        options = self._options
        exits = options.folder.glob("envoy.*.exit")
        for path in (options.state_file, options.bootstrap_file, options.admin_socket, *exits):
            path.unlink(missing_ok=True)
        if self._state is not None:
            remove_shared_memory(self._state.base_id)

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


async def envoy_version(binary: str) -> tuple[str, str]:
    """Return the version that `envoy --version` tells, such as `1.40.0`, and its hot restart's; raises HostError."""
    text = await SystemRunner().run([binary, "--version"])
    words = text.strip().rpartition("version: ")[2].split("/")
    if len(words) < 2:
        raise HostError(f"{binary} --version: not Envoy's answer: {text.strip()[:100]}")
    return words[1], (await SystemRunner().run([binary, "--hot-restart-version"])).strip()
