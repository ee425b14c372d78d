"""What processes hold, looked at again and again: memory, file descriptors, threads."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median

import psutil

from benchmarks.soak.growth import Bound, Growth, growth

MEMORY, DESCRIPTORS, THREADS = "RSS MiB", "file descriptors", "threads"
BOUNDS = {MEMORY: Bound(2.0, 0.02), DESCRIPTORS: Bound(5.0), THREADS: Bound(2.0)}
"""Connections come and go with services and peers: a leak of one in each restart is three times the bound."""


class Samples:
    """Samples of processes that live as long as the benchmark, by name and figure."""

    def __init__(self, processes: Mapping[str, int]) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._seen: dict[tuple[str, str], list[tuple[float, float]]] = {}

    def take(self) -> None:
        """Look at every process now; raises psutil.NoSuchProcess if one has ended."""
        now = time.monotonic()
        for name, process in self._processes.items():
            with process.oneshot():
                figures = {
                    MEMORY: process.memory_info().rss / 2**20,
                    DESCRIPTORS: float(process.num_fds()),
                    THREADS: float(process.num_threads()),
                }
            for figure, value in figures.items():
                self._seen.setdefault((name, figure), []).append((now, value))

    def growths(self) -> dict[str, dict[str, Growth]]:
        """Return process → figure → what became of it; raises ValueError if there are too few samples."""
        found: dict[str, dict[str, Growth]] = {}
        for (name, figure), seen in self._seen.items():
            found.setdefault(name, {})[figure] = growth(seen, BOUNDS[figure], min if figure == MEMORY else median)
        return found

    def line(self) -> str:
        """Return the newest figures, for progress."""
        newest = {key: seen[-1][1] for key, seen in self._seen.items()}
        return "; ".join(
            f"{name} {newest[name, MEMORY]:.0f} MiB, {newest[name, DESCRIPTORS]:.0f} fds" for name in self._processes
        )
