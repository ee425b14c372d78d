"""Passes on what Envoy writes to a log file, line by line, and keeps that file short.

A file stands between the two because Envoy outlives the agent: nothing is lost, and nobody waits for anybody.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent.adapters.proxy.log_tail import PREFIX

LOOK_SECONDS = 0.5
MAX_FILE_BYTES = 4 * 2**20
MAX_BATCH_BYTES = 2**18
"""Read at a time: a debug log shall not hold up the agent."""
MAX_BACKLOG_BYTES = 64 * 2**20
"""Of a file that grows faster than it is read: then all that waits in it is lost, so that the disk never fills. So it
is with a file four times as long, whose end is never reached for a moment in which it could be emptied."""
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_log = logging.getLogger("envoy")


class EnvoyLog:
    """A log file of the supervised Envoy; how far it was read is in a file beside Envoy's other ones."""

    def __init__(self, path: Path, place: Path, tell: Callable[[str], None] | None = None) -> None:
        """Begin where the agent before this one ended, else at the file's end: construct it before Envoy starts.

        `tell` takes each line; without it lines go to the agent's log as Envoy's own.
        """
        self._tell = tell or tell_as_envoy
        self.lost = 0
        """Lines that were not passed on, because there were too many."""
        self._path = path
        self._place = place
        self._offset = self._size()
        with suppress(OSError, ValueError):
            self._offset = min(int(place.read_text()), self._offset)

    async def follow(self) -> None:
        """Pass everything on, until cancelled."""
        while True:
            if not self.pass_on():
                await asyncio.sleep(LOOK_SECONDS)
            await asyncio.sleep(0)

    def pass_on(self) -> bool:
        """Pass on what has come, up to the last whole line of a batch; tell whether there may be more."""
        try:
            size = self._size()
            self._offset = min(self._offset, size)
            if size == self._offset:
                return False
            if size - self._offset > MAX_BACKLOG_BYTES or size > 4 * MAX_BACKLOG_BYTES:
                self._skip()
                return True
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(MAX_BATCH_BYTES)
            whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == MAX_BATCH_BYTES else b"")
            for line in whole.decode(errors="replace").splitlines():
                self._tell(line)
            self._offset += len(whole)
            if self._offset >= MAX_FILE_BYTES and self._offset == self._size():
                os.truncate(self._path, 0)  # Envoy appends, so it goes on at the new end
                self._offset = 0
            self._place.write_text(str(self._offset))
        except OSError as error:
            _log.debug("its log cannot be read: %s", error)
            return False
        return bool(whole)

    def _skip(self) -> None:
        """Lose everything that waits."""
        before = self.lost
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while data := file.read(MAX_BATCH_BYTES):
                self.lost += data.count(b"\n")
        os.truncate(self._path, 0)
        self._offset = 0
        self._place.write_text("0")
        _log.warning("%s grows faster than it is read: %d lines are lost", self._path.name, self.lost - before)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


def tell_as_envoy(line: str) -> None:
    """Log a line of Envoy's log with its level, component and thread."""
    match = PREFIX.match(line)
    if match is None:
        if line.strip():
            _log.log(logging.INFO, "%s", line, extra={"journal": {"SYSLOG_IDENTIFIER": "envoy"}})
        return
    fields = {"SYSLOG_IDENTIFIER": "envoy", "ENVOY_COMPONENT": match["component"], "ENVOY_THREAD": match["thread"]}
    _log.log(_LEVELS.get(match["level"], logging.INFO), "%s", line[match.end() :], extra={"journal": fields})
