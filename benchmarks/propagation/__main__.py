"""The command line: the Bookinfo lab, a rule written again and again, and when every Envoy has acknowledged it.

Needs root (network namespaces).
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from agent.lab.lab import Lab
from agent.lab.plan import LabPlan, bookinfo_plan
from benchmarks.propagation.changes import CommandWriter, StoreWriter
from benchmarks.propagation.measure import Result, Writer, measure, verify
from benchmarks.propagation.observers import ConsulWatch, Nodes
from benchmarks.testlab import machine, running

SUBNET = "10.78.91.0/24"
TARGET_MS = 250.0
VERIFIED = 6
"""Changes before the measured ones, looked up in every Envoy: all three subsets, kept and changed."""
_COLUMNS = {
    "write_ms": "the write itself",
    "woken_ms": "written → Consul tells its watchers",
    "reconcile_ms": "of which the slowest agent's reconcile",
    "first_ms": "written → first Envoy has acknowledged",
    "all_ms": "written → every Envoy has acknowledged",
}


def main() -> None:
    """Measure from a rule's write to the last Envoy's acknowledgement; print p50, p90, p99 and the largest."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.propagation", description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="changes written in process")
    parser.add_argument("--commands", type=int, default=50, help="further changes, by `hostmesh replace`")
    parser.add_argument("--pause", type=float, default=0.2, help="longest pause between changes, seconds")
    parser.add_argument("--json", default="", metavar="FILE", help="write every change's figures there")
    arguments = parser.parse_args()
    console = Console(width=110)
    console.print(machine())
    with running(_plan) as lab:
        results = asyncio.run(run(lab, arguments.rounds, arguments.commands, arguments.pause))
    for result in results:
        print_table(console, result)
    if arguments.json:
        Path(arguments.json).write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


async def run(lab: Lab, rounds: int, commands: int, pause: float) -> list[Result]:
    """Make the changes in this lab, first in process and then by the command."""
    store = StoreWriter(lab.plan.consul_port)
    command = CommandWriter(lab.plan.consul_port, lab.folder)
    plans: list[tuple[str, Writer, int]] = [
        ("written in process", store, rounds),
        ("written by `hostmesh replace`", command, commands),
    ]
    watch = ConsulWatch(lab.plan.consul_port)
    results, number = [], 1
    try:
        async with Nodes([host for host in lab if host.plan.agent]) as nodes:
            first = await store.create(0)
            await nodes.acked(first.revision)
            await watch.woken()
            await verify(store, nodes, watch, range(number, number + VERIFIED))
            number += VERIFIED
            for name, writer, count in plans:
                if count:
                    results.append(await measure(name, writer, nodes, watch, range(number, number + count), pause))
                    number += count
    finally:
        await watch.close()
    return results


def print_table(console: Console, result: Result) -> None:
    """Print the figures with their units."""
    title = f"{len(result.changes)} changes {result.writer}, {result.nodes} Envoys, milliseconds"
    table = Table("", "p50", "p90", "p99", "max", title=title)
    for name, each in result.figures.items():
        table.add_row(_COLUMNS[name], *(f"{figure:.1f}" for figure in (each.p50, each.p90, each.p99, each.max)))
    console.print(table)
    p99 = result.figures["all_ms"].p99
    console.print(f"p99 {p99:.1f} ms: {'within' if p99 <= TARGET_MS else 'above'} the target of {TARGET_MS:.0f} ms\n")


def _plan(name: str, page_port: int, consul_port: int) -> LabPlan:
    return msgspec.structs.replace(bookinfo_plan(page_port, consul_port, name), subnet=SUBNET)


if __name__ == "__main__":
    main()
