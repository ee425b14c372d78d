"""The command line: Bookinfo with certificates of seconds, and agents around which everything changes all the time.

Needs root. The exit code is 1 if anything grows, a request fails, or a host is not in order after a restart.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from agent.adapters.agent_socket import AgentSocket
from agent.lab.lab import Lab
from agent.lab.plan import LabPlan, bookinfo_plan
from benchmarks.scale.catalog_load import Size
from benchmarks.soak.churn import CRASHING, LOADED, Churn
from benchmarks.soak.growth import Growth
from benchmarks.soak.samples import Samples
from benchmarks.testlab import machine, note, running
from tests.integration.meshlab import agents, forget_rules, load, node_status, wait_settled
from tests.waiting import wait_for

SUBNET = "10.78.93.0/24"
SAMPLE_SECONDS = 1.0
PROGRESS_SECONDS = 30.0


class Result(Struct, frozen=True):
    """All figures of a run."""

    machine: str
    seconds: float
    done: Mapping[str, int]
    certificates: Mapping[str, int]
    """How many each agent that is looked at has had."""
    growths: Mapping[str, Mapping[str, Growth]]
    requests: int
    failures: list[tuple[float, str]]
    unsettled: list[str]

    @property
    def is_good(self) -> bool:
        """Tell whether nothing grew, failed or stayed out of order."""
        flat = all(growth.is_flat for figures in self.growths.values() for growth in figures.values())
        return flat and not self.failures and not self.unsettled


def main() -> None:
    """Change rules, instances, certificates and programs all the time; print whether agents and Envoy grow."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0, help="how long (default: 1200)")
    parser.add_argument("--rate", type=float, default=5.0, help="changes of instances a second, half as many of rules")
    parser.add_argument("--restarts", type=float, default=15.0, help="seconds between two restarts (default: 15)")
    parser.add_argument("--lifetime", type=int, default=10, help="of a certificate, seconds (default: 10)")
    parser.add_argument("--services", type=int, default=100, help="beside Bookinfo, 5 instances each (default: 100)")
    parser.add_argument("--requests", type=float, default=10.0, help="requests a second (default: 10)")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()

    def plan(name: str, page_port: int, consul_port: int) -> LabPlan:
        settings = {"lifetime": f"{options.lifetime}s"}
        return msgspec.structs.replace(bookinfo_plan(page_port, consul_port, name), subnet=SUBNET, ca_settings=settings)

    with running(plan) as lab:
        churn = Churn(lab, Size(options.services, 5, 50), options.rate, options.restarts)
        result = asyncio.run(soak(lab, churn, options.seconds, options.requests))
    print_tables(result)
    if options.json:
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    sys.exit(0 if result.is_good else 1)


async def soak(lab: Lab, churn: Churn, seconds: float, rate: float) -> Result:
    """Let everything change for so long under load, and look at the processes that go through all of it."""
    await asyncio.to_thread(wait_settled, lab)
    looked_at = {f"agent of {name}": (name, "agent") for name in (LOADED, CRASHING)}
    looked_at[f"Envoy of {LOADED}"] = (LOADED, "envoy")
    samples = Samples({name: lab[host].pid(part) or 0 for name, (host, part) in looked_at.items()})
    serials: dict[str, set[str]] = {name: set() for name in (LOADED, CRASHING)}
    with load(lab[LOADED], rate=rate, seconds=seconds + 600) as requests:
        changing = asyncio.create_task(churn.run(seconds))
        began = told = time.monotonic()
        while not changing.done():
            await asyncio.wait([changing], timeout=SAMPLE_SECONDS)
            await asyncio.to_thread(_look, lab, samples, serials)
            if time.monotonic() > told + PROGRESS_SECONDS:
                told = time.monotonic()
                note(f"{began + seconds - told:.0f} s left: {samples.line()}; {dict(churn.done)}")
        await changing
    left = await asyncio.to_thread(_out_of_order, lab)
    numbers = {name: len(seen) for name, seen in serials.items()}
    return Result(
        machine(),
        seconds,
        churn.done,
        numbers,
        samples.growths(),
        requests.total,
        requests.failures,
        [*churn.unsettled, *left],
    )


def _look(lab: Lab, samples: Samples, serials: dict[str, set[str]]) -> None:
    """Take a sample, and do what Prometheus and an operator do all the time."""
    samples.take()
    for name, seen in serials.items():
        AgentSocket(lab[name].path("run/admin.sock")).ask("/metrics")
        seen.update(each.serial for each in node_status(lab[name]).certificates)


def _out_of_order(lab: Lab) -> list[str]:
    """Take all rules away (some contradict each other) and return what hosts complain of a minute later; [] if of
    nothing."""
    forget_rules(lab)

    def faults() -> list[str]:
        told = {host.name: node_status(host).faults for host in agents(lab)}
        return [f"{name}: {fault.subject}: {fault.reason}" for name, found in told.items() for fault in found]

    try:
        wait_settled(lab, timeout=60)
        wait_for(lambda: not faults(), timeout=60)
    except AssertionError as error:
        return [f"the end: {line}" for line in faults() or (str(error),)]
    return []


def print_tables(result: Result) -> None:
    """Print the figures with their units and the verdict."""
    console = Console(width=120)
    console.print(result.machine)
    console.print(", ".join(f"{count} {what}" for what, count in result.done.items()))
    console.print("certificates: " + ", ".join(f"{name} {count}" for name, count in result.certificates.items()))
    table = Table("process", "figure", "first", "last", "slope per hour", "grown", "bound", "", title="What it holds")
    for process, figures in result.growths.items():
        for figure, each in figures.items():
            numbers = (each.first, each.last, each.per_hour, each.grown, each.bound)
            table.add_row(process, figure, *(f"{number:.1f}" for number in numbers), _verdict(each))
    console.print(table)
    console.print(f"{result.requests} requests, {len(result.failures)} failed {result.failures[:3] or ''}")
    for line in result.unsettled:
        console.print(f"not in order within a minute after: {line}")
    console.print(f"{result.seconds:.0f} s: {'flat' if result.is_good else 'NOT in order'}")


def _verdict(growth: Growth) -> str:
    return "flat" if growth.is_flat else "GROWS"


if __name__ == "__main__":
    main()
