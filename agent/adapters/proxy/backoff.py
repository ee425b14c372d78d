"""How long to wait before a process that died is started again. Pure."""

from __future__ import annotations


class Backoff:
    """Waits that double from the first to the limit, and start over after a life long enough to count as stable."""

    def __init__(self, first: float = 0.1, limit: float = 10.0, stable: float = 60.0) -> None:
        self._first = first
        self._limit = limit
        self._stable = stable
        self._next = first

    def after(self, lived: float) -> float:
        """Return the seconds to wait after a life of that many seconds."""
        if lived >= self._stable:
            self._next = self._first
        wait, self._next = self._next, min(self._next * 2, self._limit)
        return wait
