"""Envoy's statistics as the agent reads them, and what has been added since the last time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import msgspec
from msgspec import Struct

from agent.errors import HostError
from agent.mesh.raw_stats import PREFIX, RawStat, read_stat

OWN_COUNTERS = (
    "server.stats_overflow.counter",
    "server.stats_overflow.histogram",
    "listener_manager.listener_create_failure",
    "tracing.zipkin.reports_dropped",
    "tracing.zipkin.reports_sent",
    "tracing.zipkin.spans_sent",
    "tracing.opentelemetry.spans_dropped",
    "tracing.opentelemetry.spans_sent",
)
OWN_GAUGES = (
    "server.uptime",
    "server.concurrency",
    "server.hot_restart_epoch",
    "server.memory_allocated",
    "server.memory_heap_size",
    "server.total_connections",
    "cluster_manager.active_clusters",
    "listener_manager.total_listeners_active",
)
"""Envoy's own, of which there may be tens of thousands, in a bounded choice; all are on port 15090."""

_WANTED = "|".join((rf"^{PREFIX}\.", *(f"^{re.escape(name)}$" for name in (*OWN_COUNTERS, *OWN_GAUGES))))
PATH = f"/stats?format=json&usedonly&histogram_buckets=detailed&filter={quote(_WANTED, safe='')}"
"""Of Envoy's admin interface."""

Bins = Mapping[tuple[float, float], int]
"""(lower bound, width) of each of a histogram's bins that holds anything → how many values it holds."""


class _Bin(Struct, frozen=True):
    lower_bound: float
    width: float
    count: int


class _Histogram(Struct, frozen=True):
    name: str = ""
    totals: tuple[_Bin, ...] = ()


class _Histograms(Struct, frozen=True):
    details: tuple[_Histogram, ...] = ()


class _Stat(Struct, frozen=True):
    name: str = ""
    value: int | str = 0
    histograms: _Histograms = _Histograms()


class _Answer(Struct, frozen=True):
    stats: tuple[_Stat, ...] = ()


class Readings(Struct, frozen=True):
    """All that Envoy said at one time, by name."""

    values: Mapping[str, int]
    histograms: Mapping[str, Bins]

    @classmethod
    def from_json(cls, text: bytes | str) -> Readings:
        """Return the readings of an answer to PATH; raises HostError."""
        try:
            stats = msgspec.json.decode(text, type=_Answer).stats
        except msgspec.DecodeError as error:
            raise HostError(f"Envoy's statistics cannot be read: {error}") from error
        values = {stat.name: stat.value for stat in stats if stat.name and isinstance(stat.value, int)}
        details = (one for stat in stats for one in stat.histograms.details)
        return cls(values, {one.name: {(it.lower_bound, it.width): it.count for it in one.totals} for one in details})


class Added(Struct, frozen=True):
    """What has been added to one statistic."""

    name: str
    stat: RawStat
    amount: int
    """To a counter; of a histogram the number of values."""
    bins: Bins = {}


class Progress:
    """Compares readings with the last ones.

    A statistic that is less than before has begun anew (Envoy has, or nobody had added to it for long): all that it has
    now is new.
    """

    def __init__(self) -> None:
        self._last = Readings({}, {})
        self._stats: dict[str, RawStat | None] = {}
        """What the names mean."""

    def advance(self, readings: Readings) -> Iterator[Added]:
        """Yield what has been added since the last readings."""
        last, self._last = self._last, readings
        known, self._stats = self._stats, {}
        for name in (*readings.values, *readings.histograms):
            self._stats[name] = known[name] if name in known else read_stat(name)
        for name, value in readings.values.items():
            before = last.values.get(name, 0)
            amount = value - before if value >= before else value
            if amount and (stat := self._stats[name]):
                yield Added(name, stat, amount)
        for name, bins in readings.histograms.items():
            more = _more(bins, last.histograms.get(name, {}))
            if more and (stat := self._stats[name]):
                yield Added(name, stat, sum(more.values()), more)


def _more(now: Bins, before: Bins) -> Bins:
    if any(now.get(place, 0) < count for place, count in before.items()):
        before = {}
    return {place: count - before.get(place, 0) for place, count in now.items() if count > before.get(place, 0)}
