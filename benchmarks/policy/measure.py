"""The rounds: each way in turn under the same load, at saturation and at half of it; and how exactly quotas count."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median

from msgspec import Struct
from msgspec.structs import replace

from agent.errors import HostError
from agent.lab.hostfiles import APP_UID
from benchmarks.dataplane.measure import Load, Sample, measure, middle
from benchmarks.figures import median_interval
from benchmarks.policy.testbed import Testbed
from benchmarks.testlab import note

PACE = """
local pause = 0
function init(args) pause = tonumber(args[1]) end
function delay() return math.random(0, 2 * pause) end
"""
"""Each connection waits before each request, so many milliseconds on average."""
PACED_CONNECTIONS = 64


class Comparison(Struct, frozen=True):
    """All rounds."""

    saturated: Mapping[str, tuple[Sample, ...]]
    paced: Mapping[str, tuple[Sample, ...]]
    throughput_loss: float
    """Of the medians: 0.1 is a tenth."""
    throughput_loss_interval: tuple[float, float]
    """Where the median of the rounds' own is with 95 % confidence."""
    added_p99_ms: float
    """At half the saturation rate, of the medians."""
    added_p99_interval: tuple[float, float]
    added_cpu_us: float
    """Of both Envoys, per request, at saturation."""


def compare(bed: Testbed, load: Load, rounds: int) -> Comparison:
    """Measure both ways in every round, each round beginning with the other one."""
    ways = [bed.free, bed.ruled]
    saturated: dict[str, list[Sample]] = {way.name: [] for way in ways}
    paced: dict[str, list[Sample]] = {way.name: [] for way in ways}
    script = bed.client.path("pace.lua")
    script.write_text(PACE)
    script.chmod(0o644)
    for number in range(rounds):
        ways.reverse()
        for way in ways:
            saturated[way.name].append(measure(bed.client, way, load))
        half = median(one.requests_per_second for one in saturated[bed.free.name]) / 2
        pause = max(1, round(PACED_CONNECTIONS / half * 1000))
        slow = replace(load, connections=PACED_CONNECTIONS, script=(str(script), str(pause)))
        for way in ways:
            paced[way.name].append(measure(bed.client, way, slow))
        latest = (
            f"{name} {each[-1].requests_per_second:.0f}/s, p99 {paced[name][-1].p99_ms:g} ms at half"
            for name, each in saturated.items()
        )
        note(f"round {number + 1} of {rounds}: {'; '.join(latest)}")
    free, ruled = saturated[bed.free.name], saturated[bed.ruled.name]
    losses = [1 - mine.requests_per_second / its.requests_per_second for its, mine in zip(free, ruled, strict=True)]
    pairs = zip(paced[bed.free.name], paced[bed.ruled.name], strict=True)
    added = [mine.p99_ms - its.p99_ms for its, mine in pairs]
    medians = {name: (middle(saturated[name]), middle(paced[name])) for name in saturated}
    (fast, calm), (fast_ruled, calm_ruled) = medians[bed.free.name], medians[bed.ruled.name]
    return Comparison(
        {name: tuple(each) for name, each in saturated.items()},
        {name: tuple(each) for name, each in paced.items()},
        round(1 - fast_ruled.requests_per_second / fast.requests_per_second, 4),
        median_interval(losses),
        round(calm_ruled.p99_ms - calm.p99_ms, 3),
        median_interval(added),
        round(fast_ruled.proxy_cpu_us - fast.proxy_cpu_us, 2),
    )


class QuotaCount(Struct, frozen=True):
    """How many requests a quota let pass."""

    first: int
    """In the first validDuration, which begins with a full bucket."""
    passed: int
    """In the time after it."""
    allowed: float
    """By maxAmount and that time."""


def count_quota(bed: Testbed, amount: int, window: int, seconds: int, clients: int = 4) -> QuotaCount:
    """Count for so many seconds, after the first validDuration, what passes of more than is allowed, from 4 clients."""
    first = _passed(bed, window, clients)
    return QuotaCount(first, _passed(bed, seconds, clients), amount / window * seconds)


def _passed(bed: Testbed, seconds: int, clients: int) -> int:
    argv = ("wrk", f"--threads={clients}", f"--connections={clients}", f"--duration={seconds}s", bed.ruled.url)
    text = bed.client.exec(*argv, uid=APP_UID, timeout=seconds + 30.0).stdout
    found, refused = re.search(r"(\d+) requests in", text), re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if found is None or refused is None:
        raise HostError(f"wrk: the quota refuses nothing: {' '.join(text.split())}")
    return int(found[1]) - int(refused[1])
