"""Writes the one hosts file that dnsmasq re-reads by itself.

dnsmasq takes up a file that is renamed over the old one within a second, without a signal; a deleted file's names live
on. So the file is always replaced whole and never deleted.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError

FILE_NAME = "hostmesh"


class HostsFile:
    """The hosts file in dnsmasq's hostsdir. File and folder are world-readable: dnsmasq reads them as its own user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / FILE_NAME

    def prepare(self) -> None:
        """Make the folder and, if there is none, an empty file; dnsmasq doesn't start without the folder."""
        self._make_folder()
        if read_optional(self.path) is None:
            self.write("")

    def write(self, text: str) -> bool:
        """Replace the file and return True, or False if it has this text already; raises HostError."""
        data = text.encode()
        if read_optional(self.path) == data:
            return False
        self._make_folder()
        write_atomic(self.path, data, mode=0o644)
        return True

    def clear(self) -> None:
        """Take all mesh names away (the file stays, empty), also on a full disk; raises HostError."""
        try:
            self.write("")
        except HostError:
            with contextlib.suppress(OSError), self.path.open("wb"):  # closing it is what dnsmasq notices
                return
            raise

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"{self._folder}: cannot be made: {error.strerror or error}") from error
