"""The rounds: each way in turn under the same load, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import psutil
from msgspec import Struct
from msgspec.structs import replace

from agent.errors import HostError
from agent.lab.host import Host
from agent.lab.hostfiles import APP_UID
from benchmarks.dataplane.testbed import Testbed, Way
from benchmarks.figures import median_interval
from benchmarks.testlab import note

_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_TIME = r"([\d.]+)(us|ms|s|m)\b"


class Load(Struct, frozen=True):
    """What wrk does at a time: one thread, connections kept open, each sending the next request after an answer."""

    connections: int = 32
    seconds: int = 3
    warm_up: int = 1
    """Seconds before each measurement: connections of the pools, branch predictors, CPU clock."""
    script: tuple[str, ...] = ()
    """A script of wrk's, and its arguments."""


class Sample(Struct, frozen=True):
    """One way in one round."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    proxy_cpu_us: float
    """CPU microseconds that the Envoys on the way spent per request, user and system; barely noisy."""


class Ratios(Struct, frozen=True):
    """Mesh to hand-written in many rounds: the median, and where it is with 95 % confidence."""

    rounds: tuple[Sample, ...]
    median: Sample
    low: Sample
    high: Sample

    @classmethod
    def of(cls, rounds: Sequence[Sample]) -> Ratios:
        """Return the statistics of these rounds."""
        intervals = {field: median_interval([getattr(each, field) for each in rounds]) for field in _FIELDS}
        low, high = (Sample(**{field: interval[end] for field, interval in intervals.items()}) for end in (0, 1))
        return cls(tuple(rounds), middle(rounds), low, high)


class Comparison(Struct, frozen=True):
    """All rounds at one size of the route table."""

    services: int
    """Services in the client's route table."""
    samples: Mapping[str, tuple[Sample, ...]]
    medians: Mapping[str, Sample]
    ratio: Sample
    """Mesh to hand-written, of the medians; 1.0 is equal."""
    by_round: Ratios
    """Mesh to hand-written in each round."""
    together: Ratios
    """Mesh to hand-written with both under load at once, half of the connections each."""


def compare(bed: Testbed, load: Load, rounds: int, services: int) -> Comparison:
    """Measure every way in every round, each round beginning with another one."""
    samples: dict[str, list[Sample]] = {way.name: [] for way in bed.ways}
    for number in range(rounds):
        first = number % len(bed.ways)
        for way in bed.ways[first:] + bed.ways[:first]:
            samples[way.name].append(measure(bed.client, way, load))
        latest = ", ".join(f"{name} {each[-1].requests_per_second:.0f}/s" for name, each in samples.items())
        note(f"{services} services, round {number + 1} of {rounds}: {latest}")
    medians = {name: middle(each) for name, each in samples.items()}
    pairs = zip(samples["mesh"], samples["hand-written"], strict=True)
    return Comparison(
        services,
        {name: tuple(each) for name, each in samples.items()},
        medians,
        ratio(medians["mesh"], medians["hand-written"]),
        Ratios.of([ratio(mesh, static) for mesh, static in pairs]),
        Ratios.of(_together(bed, load, rounds)),
    )


def _together(bed: Testbed, load: Load, rounds: int) -> list[Sample]:
    """Return mesh to hand-written with both under load at the same time.

    Each round on a machine that others use, too, differs from the next by far more than 5 %; here that meets both pairs
    at the same moment, so that this tells them apart where the rounds one after the other don't.
    """
    ways = [way for way in bed.ways if way.proxies]
    half = replace(load, connections=max(1, load.connections // 2))
    ratios = []
    with ThreadPoolExecutor(len(ways)) as threads:
        for number in range(rounds):
            ways.reverse()  # neither is always the one that begins
            running = {way.name: threads.submit(measure, bed.client, way, half) for way in ways}
            ratios.append(ratio(running["mesh"].result(), running["hand-written"].result()))
            note(f"both at once, round {number + 1} of {rounds}: {ratios[-1].requests_per_second:.2f}")
    return ratios


def measure(client: Host, way: Way, load: Load) -> Sample:
    """Warm up and measure one way; raises HostError if a request fails."""
    if load.warm_up:
        _wrk(client, way, load, load.warm_up)
    before = _cpu_seconds(way)
    text = _wrk(client, way, load, load.seconds)
    spent = _cpu_seconds(way) - before
    found = re.search(r"(\d+) requests in", text)
    requests = int(found[1]) if found else 0
    if not requests or "Socket errors" in text or "Non-2xx" in text:
        raise HostError(f"{way.name}: requests failed: {' '.join(text.split())}")
    rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
    return Sample(
        requests_per_second=float(rate[1]) if rate else 0.0,
        p50_ms=_latency(text, 50),
        p99_ms=_latency(text, 99),
        proxy_cpu_us=round(spent * 1e6 / requests, 2),
    )


def middle(samples: Sequence[Sample]) -> Sample:
    """Return the median of each figure."""
    return Sample(**{field: round(median(getattr(each, field) for each in samples), 4) for field in _FIELDS})


def ratio(of: Sample, to: Sample) -> Sample:
    """Return each figure of one as a multiple of the other's; NaN where that is 0 (CPU time has ticks of 10 ms)."""
    pairs = {field: (getattr(of, field), getattr(to, field)) for field in _FIELDS}
    return Sample(**{field: round(one / other, 4) if other else math.nan for field, (one, other) in pairs.items()})


_FIELDS = Sample.__struct_fields__


def _wrk(client: Host, way: Way, load: Load, seconds: int) -> str:
    script = ("--script", load.script[0]) if load.script else ()
    options = ("--threads=1", f"--connections={load.connections}", f"--duration={seconds}s", "--latency", *script)
    more = ("--", *load.script[1:]) if load.script else ()
    return client.exec("wrk", *options, way.url, *more, uid=APP_UID, timeout=seconds + 30.0).stdout


def _latency(text: str, percent: int) -> float:
    found = re.search(rf"^\s*{percent}%\s+{_TIME}", text, re.MULTILINE)
    if found is None:
        raise HostError(f"wrk: no {percent}% line in: {' '.join(text.split())}")
    return round(float(found[1]) * _UNITS[found[2]], 4)


def _cpu_seconds(way: Way) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in way.proxies]
    return sum(each.user + each.system for each in times)
