"""Series of metrics: kept by the agent, written in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct

from agent.runtime.telemetry.readings import Bins

MAX_SERIES, MAX_HISTOGRAMS = 5_000, 1_000
"""Series of one metric; what would be one too many is counted under the label values OTHERS."""
OTHERS = "(others)"


class Kind(StrEnum):
    """What a metric is, in Prometheus' words."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Series:
    """One metric's value for one set of label values."""

    __slots__ = ("buckets", "count", "labels", "total")

    def __init__(self, labels: str, bounds: int) -> None:
        self.labels = labels
        """As the text format has them."""
        self.total = 0.0
        self.count = 0
        self.buckets = [0] * (bounds + 1)


class Metric(Struct, frozen=True):
    """A metric as it is declared."""

    name: str
    """A counter's with its `_total`, if it has that."""
    help: str
    kind: Kind
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, less infinity."""


class Family:
    """All series of a metric."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._series: dict[tuple[str, ...], Series] = {}

    def __len__(self) -> int:
        return len(self._series)

    def add(self, labels: tuple[str, ...], amount: float) -> None:
        """Add to a counter."""
        self._at(labels).total += amount

    def set(self, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        self._at(labels).total = value

    def observe(self, labels: tuple[str, ...], values: Iterable[tuple[float, float]]) -> None:
        """Add values to a histogram, each as often as is said with it."""
        series, bounds = self._at(labels), self.metric.bounds
        for value, times in values:
            series.buckets[bisect_left(bounds, value)] += int(times)
            series.total += value * times
            series.count += int(times)

    def series(self) -> Iterator[tuple[Mapping[str, str], Series]]:
        """Yield each series with its labels."""
        for values, series in self._series.items():
            yield dict(zip(self.metric.labels, values, strict=True)), series

    def lines(self) -> Iterator[str]:
        """Yield the series in Prometheus' text format, less the metric's head."""
        metric = self.metric
        if metric.kind is not Kind.HISTOGRAM:
            yield from (f"{metric.name}{{{one.labels}}} {number(one.total)}" for one in self._series.values())
            return
        bounds = [*(number(bound) for bound in metric.bounds), "+Inf"]
        for one in self._series.values():
            comma, below = "," if one.labels else "", 0
            for bound, count in zip(bounds, one.buckets, strict=True):
                below += count
                yield f'{metric.name}_bucket{{{one.labels}{comma}le="{bound}"}} {below}'
            yield f"{metric.name}_sum{{{one.labels}}} {number(one.total)}"
            yield f"{metric.name}_count{{{one.labels}}} {one.count}"

    def _at(self, labels: tuple[str, ...]) -> Series:
        series = self._series.get(labels)
        if series is None:
            if len(self._series) >= (MAX_HISTOGRAMS if self.metric.kind is Kind.HISTOGRAM else MAX_SERIES):
                labels = (OTHERS,) * len(labels)
            text = labels_text(self.metric.labels, labels)
            series = self._series.setdefault(labels, Series(text, len(self.metric.bounds)))
        return series


def lines_of(families: Sequence[Family]) -> Iterator[str]:
    """Yield one metric, of which families may differ in their labels, in Prometheus' text format."""
    if not any(map(len, families)):
        return
    metric = families[0].metric
    yield f"# HELP {metric.name} {_escaped_help(metric.help)}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for family in families:
        yield from family.lines()


def values_of(bins: Bins) -> list[tuple[float, float]]:
    """Return the values of a histogram's bins, each with how often it is there."""
    return [(value_of(place), count) for place, count in bins.items()]


def value_of(place: tuple[float, float]) -> float:
    """Return what the values of a bin are worth: all are whole numbers, so bins up to a width of 1 hold one value."""
    lower, width = place
    return lower + max(0.0, (width - 1) / 2)


def labels_text(names: Sequence[str], values: Sequence[str]) -> str:
    """Return labels as the text format has them, less the brackets."""
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))


def number(value: float) -> str:
    """Return a number in short."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
