"""The command line: a real Consul server and client agent on default limits, 1,000 services of 10 instances each.

Followed by a real hostmesh-agent with Envoy on a lab host (needs root), or by the catalog watch alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST
from benchmarks.scale.agent_probe import HOST, AgentProbe, lab_plan
from benchmarks.scale.catalog_load import CatalogWriter, Size
from benchmarks.scale.measure import Plan, Result, measure
from benchmarks.scale.probes import WatcherProbe
from benchmarks.scale.rules import write_rules
from benchmarks.testlab import machine, note, running
from tests.integration.consul_process import ConsulProcess


def main() -> None:
    """Run the benchmark and print its figures; --json FILE writes them as well (`-`: to standard output only)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=main.__doc__)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--slow", type=int, default=120, help="changes at 1 a second (all kinds in turn)")
    parser.add_argument("--fast", type=int, default=400, help="changes at 10 a second (all kinds in turn)")
    parser.add_argument("--alone", type=int, default=120, help="changes at 10 a second before, that nobody follows")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds of the idle measurement")
    parser.add_argument("--rules", type=int, default=0, help="services that have RouteRules (two each, to subsets)")
    parser.add_argument("--same-services", action="store_true", help="no service comes or goes among the changes")
    parser.add_argument("--watcher", action="store_true", help="the catalog watch alone: no agent, no Envoy, no root")
    parser.add_argument("--json", default="", metavar="FILE")
    arguments = parser.parse_args()
    size = Size(arguments.services, arguments.instances, arguments.nodes)
    rates = {rate: count for rate, count in {1.0: arguments.slow, 10.0: arguments.fast}.items() if count}
    plan = Plan(rates, arguments.idle, not arguments.same_services, arguments.alone)
    if arguments.watcher:
        result = asyncio.run(follow_with_watcher(size, plan))
    else:
        with running(lab_plan) as lab:
            result = asyncio.run(follow_with_agent(lab, size, plan, arguments.rules))
    text = msgspec.json.format(msgspec.json.encode(result), indent=2)
    if arguments.json == "-":
        sys.stdout.buffer.write(text + b"\n")
        return
    print_tables(size, result)
    if arguments.json:
        Path(arguments.json).write_bytes(text + b"\n")


async def follow_with_watcher(size: Size, plan: Plan) -> Result:
    """Measure the watch alone, on the machine's loopback; changes go to the server."""
    async with (
        ConsulProcess(node="server", durable=True) as server,
        ConsulProcess(node="client", join=server) as client,
        loaded(server.http_address, size) as writer,
    ):
        consuls = {"consul client": client.pid, "consul server": server.pid}
        return await measure(WatcherProbe(client.address), writer, consuls, size, plan)


async def follow_with_agent(lab: Lab, size: Size, plan: Plan, rules: int) -> Result:
    """Measure the agent of a lab; changes go to the lab's server."""
    async with loaded(f"http://127.0.0.1:{lab.plan.consul_port}", size) as writer:
        await write_rules(writer, rules)
        pids = {"consul client": lab[HOST].pid("consul"), "consul server": lab[CONSUL_HOST.name].pid("consul")}
        consuls = {name: pid for name, pid in pids.items() if pid is not None}
        return await measure(AgentProbe(lab, size.services), writer, consuls, size, plan)


@asynccontextmanager
async def loaded(url: str, size: Size) -> AsyncIterator[CatalogWriter]:
    """Fill the catalog of the Consul at this URL."""
    writer = CatalogWriter(url)
    try:
        seconds = await writer.load(size)
        note(f"loaded {size.services} x {size.instances} instances in {seconds:.1f} s")
        yield writer
    finally:
        await writer.close()


def print_tables(size: Size, result: Result) -> None:
    """Print the figures with their units."""
    console = Console(width=110)
    catalog = f"{size.services} services x {size.instances} instances on {size.nodes} nodes"
    console.print(f"{machine()}; load {result.load} when it began")
    console.print(f"{catalog}; {result.probe}: first sync {result.sync_seconds} s")
    if result.wrong_services is not None:
        console.print(f"services with other endpoints in Envoy than in the catalog at the end: {result.wrong_services}")
    latencies = Table(
        "changes/s",
        "change",
        "count",
        "lost",
        "p50 ms",
        "p99 ms",
        "max ms",
        "write p99 ms",
        title="From the write to seen",
    )
    for rate in result.rates:
        for kind, each in rate.latency.items():
            figures = (each.count, each.lost, each.p50_ms, each.p99_ms, each.max_ms, each.write_p99_ms)
            latencies.add_row(f"{rate.changes_per_second:g}", kind, *map(str, figures))
    console.print(latencies)
    titles = [f"CPU ms per change at {rate.changes_per_second:g}/s" for rate in result.rates]
    titles.append("the same without the probe")
    costs = Table("process", "idle CPU % of a core", "RSS MiB", "RSS before MiB", *titles, title="What it costs")
    for name, percent in result.idle_cpu_percent.items():
        before = result.rss_before_mib.get(name, "")
        per_change = [str(rate.cpu_ms_per_change[name]) for rate in result.rates]
        per_change.append(str(result.alone_cpu_ms_per_change.get(name, "")))
        costs.add_row(name, str(percent), str(result.rss_mib[name]), str(before), *per_change)
    console.print(costs)


if __name__ == "__main__":
    main()
