"""Order statistics of measured figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` (0 to 1) of the values do not exceed; raises ValueError if none.

    The nearest-rank definition: the p99 of 200 values is the 198th, never one that was not measured.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, whatever the distribution (order statistics, binomial).

    Of fewer than six values it is all of them: they cannot tell more. Raises ValueError if there are none.
    """
    if not values:
        raise ValueError("no values")
    ordered, count = sorted(values), len(values)
    outside, tail = 0, 0.0
    while tail + math.comb(count, outside) / 2**count <= 0.025:
        tail += math.comb(count, outside) / 2**count
        outside += 1
    cut = max(0, outside - 1)
    return ordered[cut], ordered[count - 1 - cut]
