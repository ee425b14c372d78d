"""Runs a probe against a loaded Consul and takes the figures: latencies by kind and rate, CPU, memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence

import psutil
from msgspec import Struct

from benchmarks.figures import quantile
from benchmarks.scale.catalog_load import Catalog, CatalogWriter, Change, Kind, Size, changes
from benchmarks.scale.probes import Probe

SEEN_SECONDS = 10.0
ALONE_RATE = 10.0
REST_SECONDS = 15.0
"""After the load, before Consul's idle CPU is taken: it tidies up after ten thousand writes."""
SYNC_SECONDS = 120.0


class Latency(Struct, frozen=True):
    """Milliseconds from sending the write to the probe's having seen it."""

    count: int
    lost: int
    """Not seen within 10 s."""
    p50_ms: float
    p99_ms: float
    max_ms: float
    write_p99_ms: float
    """The write's own round trip: how much of p99 Consul, or a busy machine, takes without any probe."""

    @classmethod
    def of(cls, outcomes: Sequence[tuple[float | None, float]]) -> Latency:
        """Return the figures of (seconds until seen, or None if never; seconds of the write)."""
        writes = [write * 1000 for _, write in outcomes]
        write_p99 = round(quantile(writes, 0.99), 1) if writes else 0.0
        seen = [each * 1000 for each, _ in outcomes if each is not None]
        p50, p99, longest = (round(quantile(seen, share), 1) if seen else 0.0 for share in (0.5, 0.99, 1.0))
        return cls(len(outcomes), len(outcomes) - len(seen), p50, p99, longest, write_p99)


class RateResult(Struct, frozen=True):
    """What happened at one rate of changes."""

    changes_per_second: float
    latency: Mapping[str, Latency]
    cpu_ms_per_change: Mapping[str, float]
    """CPU milliseconds each process spent per change, less what it spends idle."""


class Result(Struct, frozen=True):
    """All figures of a run."""

    probe: str
    load: float
    """The machine's load average over one minute when the run began."""
    sync_seconds: float
    idle_cpu_percent: Mapping[str, float]
    """Percent of one core, by process."""
    rss_mib: Mapping[str, float]
    rss_before_mib: Mapping[str, float]
    """Before the probe started, where the process existed."""
    alone_cpu_ms_per_change: Mapping[str, float]
    """What Consul spends on a change that nobody follows."""
    rates: tuple[RateResult, ...]
    wrong_services: int | None
    """Of how many services the probe knew other endpoints than the catalog at the end; None: not looked."""


class Plan(Struct, frozen=True):
    """How it is measured."""

    rates: Mapping[float, int]
    """Changes a second → how many."""
    idle_seconds: float
    new_names: bool = True
    """Whether services come and go too."""
    alone: int = 120
    """Changes before the probe's start, that nobody follows."""


async def measure(probe: Probe, writer: CatalogWriter, consuls: Mapping[str, int], size: Size, plan: Plan) -> Result:
    """Start the probe and return its figures; `consuls`: name → pid."""
    load = round(os.getloadavg()[0], 1)
    before = {name: _rss(pid) for name, pid in consuls.items()}
    made, catalog = changes(size, plan.new_names), Catalog(size)
    batch = [next(made) for _ in range(plan.alone)]
    alone = await _alone(writer, batch, consuls, plan.idle_seconds)
    catalog.apply(batch)
    started = await probe.start()
    try:
        async with asyncio.timeout(SYNC_SECONDS):
            synced = await probe.synced() - started
        processes = {**probe.processes, **consuls}
        await asyncio.sleep(2.0)  # what the sync itself left to do is not idle
        idle_cpu = await _idle(processes, plan.idle_seconds)
        rates = []
        for rate, count in plan.rates.items():
            batch = [next(made) for _ in range(count)]
            rates.append(await _at_rate(probe, writer, batch, rate, processes, idle_cpu))
            catalog.apply(batch)
        rss = {name: _rss(pid) for name, pid in processes.items()}
        wrong = await probe.differences(catalog.serving())
    finally:
        await probe.stop()
    percent = {name: round(share * 100, 2) for name, share in idle_cpu.items()}
    return Result(probe.name, load, round(synced, 2), percent, rss, before, alone, tuple(rates), wrong)


async def _alone(
    writer: CatalogWriter, batch: Sequence[Change], consuls: Mapping[str, int], idle_seconds: float
) -> dict[str, float]:
    await asyncio.sleep(min(REST_SECONDS, idle_seconds))
    idle = await _idle(consuls, idle_seconds)
    before, started = {name: _cpu(pid) for name, pid in consuls.items()}, time.monotonic()
    for number, change in enumerate(batch):
        await asyncio.sleep(max(0.0, started + number / ALONE_RATE - time.monotonic()))
        await writer.make(change)
    elapsed = time.monotonic() - started
    return _per_change(consuls, before, idle, elapsed, len(batch))


def _per_change(
    processes: Mapping[str, int], before: Mapping[str, float], idle: Mapping[str, float], elapsed: float, count: int
) -> dict[str, float]:
    spent = {name: _cpu(pid) - before[name] - idle[name] * elapsed for name, pid in processes.items()}
    return {name: round(seconds * 1000 / count, 2) for name, seconds in spent.items()}


async def _idle(processes: Mapping[str, int], seconds: float) -> dict[str, float]:
    before = {name: _cpu(pid) for name, pid in processes.items()}
    await asyncio.sleep(seconds)
    return {name: (_cpu(pid) - before[name]) / seconds for name, pid in processes.items()}


async def _at_rate(
    probe: Probe,
    writer: CatalogWriter,
    batch: Sequence[Change],
    rate: float,
    processes: Mapping[str, int],
    idle: Mapping[str, float],
) -> RateResult:
    before, started = {name: _cpu(pid) for name, pid in processes.items()}, time.monotonic()
    tasks: list[asyncio.Task[tuple[float | None, float]]] = []
    for number, change in enumerate(batch):
        # An open loop: a slow change doesn't hold the next one back.
        await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
        tasks.append(asyncio.create_task(_latency(probe, writer, change)))
    seconds = await asyncio.gather(*tasks)
    elapsed = time.monotonic() - started
    cpu = {
        name: (_cpu(pid) - before[name] - idle[name] * elapsed) * 1000 / len(batch) for name, pid in processes.items()
    }
    by_kind = {
        kind.value: [each for change, each in zip(batch, seconds, strict=True) if change.kind is kind]
        for kind in Kind
        if any(change.kind is kind for change in batch)
    }
    latency = {kind: Latency.of(each) for kind, each in by_kind.items()}
    return RateResult(rate, latency, {name: round(each, 2) for name, each in cpu.items()})


async def _latency(probe: Probe, writer: CatalogWriter, change: Change) -> tuple[float | None, float]:
    seeing = asyncio.create_task(probe.seen(change))
    await asyncio.sleep(0)
    sent = await writer.make(change)
    write = time.monotonic() - sent
    try:
        async with asyncio.timeout(SEEN_SECONDS):
            return await seeing - sent, write
    except TimeoutError:
        return None, write


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _rss(pid: int) -> float:
    return round(psutil.Process(pid).memory_info().rss / 2**20, 1)
