"""Numbers the registrations of an instance, so that a deregistration names one of them and never a later one.

Consul's agent knows no conditional deregistration, and one that is late (Consul hung, the agent that sent it is gone)
is carried out all the same. So the ID that it names is never registered again: the next registration has another one.
Knows no Consul.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import msgspec

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError

log = logging.getLogger(__name__)

_SPENT = msgspec.json.Decoder(dict[str, int])
_NUMBER = re.compile(r"(?P<base>.+)\.(?P<number>\d{1,9})", re.ASCII)


class Generations:
    """Which number comes next, by instance; kept in a file (mode 0600) if there is one.

    A file that can't be read counts as empty, one that can't be written is warned of: nothing else depends on it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._next = _load(path) if path else {}

    def current(self, base: str) -> str:
        """Return the service ID that an instance is registered by: its own, and `.NUMBER` after a deregistration."""
        number = self._next.get(base, 0)
        return f"{base}.{number}" if number else base

    def spend(self, service_id: str) -> None:
        """Note, durably, that this ID is about to be deregistered: it is never `current` again."""
        base, number = _parts(service_id)
        if number < self._next.get(base, 0):
            return
        self._next[base] = number + 1
        if self._path is None:
            return
        try:
            write_atomic(self._path, msgspec.json.encode(self._next) + b"\n")
        except HostError as error:
            log.warning("a late deregistration of %s could meet a newer registration: %s", service_id, error)

    def is_spent(self, service_id: str, base: str) -> bool:
        """Tell whether this ID is one that the instance was registered by before."""
        of, number = _parts(service_id)
        return of == base and number < self._next.get(base, 0)


def without_number(service_id: str) -> str:
    """Return the ID that an instance has before its first deregistration."""
    return _parts(service_id)[0]


def _parts(service_id: str) -> tuple[str, int]:
    match = _NUMBER.fullmatch(service_id)
    return (match["base"], int(match["number"])) if match else (service_id, 0)


def _load(path: Path) -> dict[str, int]:
    try:
        data = read_optional(path)
        return _SPENT.decode(data) if data is not None else {}
    except (HostError, ValueError) as error:  # msgspec's errors are ValueErrors
        log.warning("%s can't be read, registrations are numbered anew: %s", path, error)
        return {}
