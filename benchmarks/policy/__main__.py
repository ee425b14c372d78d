"""The command line: a service with fifty rules beside one without, interleaved; then how exactly a quota counts.

Needs root (network namespaces) and wrk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.dataplane.measure import Load, Sample, middle
from benchmarks.policy.measure import Comparison, compare, count_quota
from benchmarks.policy.rules import fifty_rules, quota_rule
from benchmarks.policy.testbed import testbed
from benchmarks.testlab import machine

MOST_LOSS, MOST_ADDED_P99_MS, QUOTA_TOLERANCE = 0.20, 0.3, 0.05
QUOTA_AMOUNT, QUOTA_SECONDS, QUOTA_WORKERS = 1000, 5, 2


def main() -> None:
    """Compare default metrics with 50 of Mixer's rules (deny, list, quota, metrics); count a quota under load."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="0: only the quota")
    parser.add_argument("--seconds", type=int, default=3, help="of load per way, rate and round")
    parser.add_argument("--warm-up", type=int, default=1, help="seconds before each")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--quota-seconds", type=int, default=30, help="of counting; 0: none")
    parser.add_argument("--json", default="", metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    console = Console(width=110)
    console.print(f"{machine()}; wrk 1 thread, {arguments.connections} connections; Envoys of 1 worker")
    if arguments.rounds:
        load = Load(arguments.connections, arguments.seconds, arguments.warm_up)
        with testbed(concurrency=1) as bed:
            bed.take(fifty_rules())
            found = compare(bed, load, arguments.rounds)
        print_comparison(console, found, arguments.rounds)
        if arguments.json:
            Path(arguments.json).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    if arguments.quota_seconds:
        with testbed(concurrency=QUOTA_WORKERS) as bed:
            bed.take(quota_rule(QUOTA_AMOUNT, QUOTA_SECONDS))
            count = count_quota(bed, QUOTA_AMOUNT, QUOTA_SECONDS, arguments.quota_seconds)
        off = count.passed / count.allowed - 1
        bound = f"(bound ±{QUOTA_TOLERANCE:.0%})"
        console.print(
            f"quota of {QUOTA_AMOUNT} in {QUOTA_SECONDS} s, {QUOTA_WORKERS} workers, 4 clients: {count.first} passed in"
            f" the first {QUOTA_SECONDS} s, then {count.passed} in {arguments.quota_seconds} s, {count.allowed:g} "
            f"allowed: {off:+.1%} {bound}"
        )


def print_comparison(console: Console, found: Comparison, rounds: int) -> None:
    """Print the figures with their units, and the bounds."""
    heads = ("way", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "at half: requests/s", "p50 ms", "p99 ms")
    table = Table(*heads, title=f"medians of {rounds} rounds; CPU of both Envoys")
    for name in found.saturated:
        fast, calm = middle(found.saturated[name]), middle(found.paced[name])
        times = map(str, (fast.p50_ms, fast.p99_ms, fast.proxy_cpu_us))
        table.add_row(name, f"{fast.requests_per_second:.0f}", *times, f"{calm.requests_per_second:.0f}", *_times(calm))
    console.print(table)
    low, high = found.throughput_loss_interval
    console.print(f"throughput lost: {found.throughput_loss:.1%} ({low:.1%} to {high:.1%}; bound {MOST_LOSS:.0%})")
    low, high = found.added_p99_interval
    console.print(f"p99 added at half: {found.added_p99_ms} ms ({low:.2f} to {high:.2f}; bound {MOST_ADDED_P99_MS} ms)")
    console.print(f"CPU added: {found.added_cpu_us} µs per request")


def _times(sample: Sample) -> tuple[str, str]:
    return str(sample.p50_ms), str(sample.p99_ms)


if __name__ == "__main__":
    main()
