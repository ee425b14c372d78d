"""From samples to a verdict: does this figure grow? Pure.

A process's memory goes up and down between two collections, so what counts is the least of each window of time (of
other figures the median); what caches and heaps take until they have seen everything once is the warm-up, which does
not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from msgspec import Struct

WARM_UP = 0.25
"""Share of the time that does not count."""
WINDOWS = 12


class Bound(Struct, frozen=True):
    """How much a figure may grow in the time that counts and still be called flat: noise, not growth."""

    absolute: float
    share: float = 0.0
    """Of its level."""

    def of(self, level: float) -> float:
        """Return the bound at this level."""
        return max(self.absolute, self.share * level)


class Growth(Struct, frozen=True):
    """What one figure did in the time that counts."""

    first: float
    """What the first window comes to."""
    last: float
    per_hour: float
    """The median of the slopes between any two windows (Theil and Sen): a few odd windows do not matter."""
    grown: float
    """What that slope makes in the time that counts."""
    bound: float

    @property
    def is_flat(self) -> bool:
        """Tell whether it has not grown more than its bound."""
        return self.grown <= self.bound


def growth(
    samples: Sequence[tuple[float, float]], bound: Bound, of_window: Callable[[Sequence[float]], float] = min
) -> Growth:
    """Judge (seconds, value) samples in the order of time; raises ValueError if they fill fewer than two windows."""
    if not samples:
        raise ValueError("no samples")
    begin, end = samples[0][0], samples[-1][0]
    begin += (end - begin) * WARM_UP
    width = (end - begin) / WINDOWS
    windows: dict[int, list[float]] = {}
    for moment, value in samples:
        if moment >= begin and width > 0:
            number = min(int((moment - begin) / width), WINDOWS - 1)
            windows.setdefault(number, []).append(value)
    points = [((number + 0.5) * width, of_window(values)) for number, values in sorted(windows.items())]
    if len(points) < 2:
        raise ValueError(f"{len(samples)} samples fill fewer than two windows of time")
    slope = median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
    )
    level = median(value for _, value in points)
    return Growth(points[0][1], points[-1][1], slope * 3600, slope * (end - begin), bound.of(level))
