"""The command line: direct, a hand-written Envoy pair and the mesh's pair, interleaved; without and with more services.

Needs root (network namespaces) and wrk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.dataplane.measure import Comparison, Load, Ratios, Sample, compare
from benchmarks.dataplane.testbed import testbed
from benchmarks.testlab import machine

_FIELDS = Sample.__struct_fields__
OWN_SERVICES = 3
"""Of the bare lab: consul, echo, load."""


def main() -> None:
    """Compare the mesh with direct traffic and with a hand-written Envoy pair; print requests/s and latencies."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataplane", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of each way, at each number of services")
    parser.add_argument("--seconds", type=int, default=3, help="of load per way and round")
    parser.add_argument("--warm-up", type=int, default=1, help="seconds before each")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=1, help="worker threads of each Envoy")
    parser.add_argument("--services", type=int, default=60, help="more services for the second half; 0: no second half")
    parser.add_argument("--json", default="", metavar="FILE", help="write all samples there")
    arguments = parser.parse_args()
    load = Load(arguments.connections, arguments.seconds, arguments.warm_up)
    console = Console(width=110)
    console.print(
        f"{machine()}; wrk 1 thread, {load.connections} connections; Envoys of {arguments.concurrency} worker"
    )
    results = []
    with testbed(arguments.concurrency) as bed:
        results.append(compare(bed, load, arguments.rounds, OWN_SERVICES))
        if arguments.services:
            bed.add_services(arguments.services)
            results.append(compare(bed, load, arguments.rounds, OWN_SERVICES + arguments.services))
    for result in results:
        print_table(console, result, arguments.rounds)
    if arguments.json:
        Path(arguments.json).write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


def print_table(console: Console, result: Comparison, rounds: int) -> None:
    """Print the figures with their units; in brackets the 95 % confidence interval of the median."""
    title = f"{result.services} services in the catalog, medians of {rounds} rounds"
    table = Table("way", "requests/s", "p50 ms", "p99 ms", "both Envoys' CPU µs/request", title=title)
    for name, each in result.medians.items():
        table.add_row(name, f"{each.requests_per_second:.0f}", *map(str, (each.p50_ms, each.p99_ms, each.proxy_cpu_us)))
    table.add_section()
    table.add_row("mesh ÷ hand-written", *(f"{getattr(result.ratio, field):.3f}" for field in _FIELDS))
    table.add_row("the same, round by round", *_ratios(result.by_round))
    table.add_row("the same, both at once", *_ratios(result.together))
    console.print(table)


def _ratios(ratios: Ratios) -> list[str]:
    return [
        f"{getattr(ratios.median, field):.3f} ({getattr(ratios.low, field):.2f}–{getattr(ratios.high, field):.2f})"
        for field in _FIELDS
    ]


if __name__ == "__main__":
    main()
