"""`python -m benchmarks.ca`: a real hostmesh-ca with its durable inventory, and callers in other processes.

Prints throughput, latency at a pace, the first contact of many agents at once, and memory over many issues. Everything
on this machine: callers and CA share its cores.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import psutil

from agent.adapters.identity import new_key
from agent.mesh.service import Identity
from benchmarks.ca.load import Doors, Outcome, arrive, keep_pace, run, saturate
from benchmarks.figures import quantile
from tests.integration.ca_process import CaProcess

_IDENTITY = Identity("default", "reviews")
_UNLIMITED = {"perSecond": 1e6, "burst": 1_000_000}
"""For one address: all callers here have the same."""
_PATIENCE = 300.0
"""Seconds after which an agent that was not served counts as lost."""


@click.command()
@click.option("--calls", default=10_000, show_default=True, help="Of the throughput run.")
@click.option("--pace", default=200.0, show_default=True, help="Calls a second of the latency run.")
@click.option("--seconds", default=30.0, show_default=True, help="Of the latency run.")
@click.option("--agents", default=10_000, show_default=True, help="That come for the first time at once.")
@click.option("--issues", default=100_000, show_default=True, help="Of the memory run.")
@click.option("--folder", type=click.Path(path_type=Path), help="For the CA's state: the disk that is measured.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write the figures, too.")
def main(
    calls: int, pace: float, seconds: float, agents: int, issues: int, folder: Path | None, target: Path | None
) -> None:
    """Measure the CA."""
    click.echo(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as state:
        limits = {"perCaller": _UNLIMITED}
        with CaProcess(Path(state) / "ca", lifetime="24h", limits=limits | {"total": _UNLIMITED}) as ca:
            doors = _doors(ca)
            figures["throughput"] = _show("throughput, 64 under way", *_run(saturate, (doors, calls, 64)))
            figures["pace"] = _show(f"pace of {pace:.0f}/s", *_run(keep_pace, (doors, pace, seconds)))
            figures["memory"] = _memory(ca, doors, issues)
        with CaProcess(Path(state) / "fresh", lifetime="24h", limits=limits) as ca:
            figures["first contact"] = _first_contact(ca, agents)
    if target is not None:
        target.write_text(json.dumps(figures, indent=2) + "\n")


def _doors(ca: CaProcess) -> Doors:
    issued = asyncio.run(ca.client().enrol(_IDENTITY, new_key(), ca.token()))
    own = issued.certificate
    host = "127.0.0.1"
    return Doors(
        f"{host}:{ca.enrolment_port}", f"{host}:{ca.renewal_port}", issued.trust_bundle_pem, own.key_pem, own.chain_pem
    )


def _run(work: Callable[..., Coroutine[Any, Any, Outcome]], *calls: tuple[Any, ...]) -> list[Outcome]:
    """Do the work in processes of its own, one for each list of arguments, at the same time."""
    with ProcessPoolExecutor(len(calls), multiprocessing.get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(run, work, *arguments) for arguments in calls]]


def _memory(ca: CaProcess, doors: Doors, issues: int) -> list[tuple[int, float]]:
    """Return resident memory, in MiB, after so many issues."""
    steps, sizes = 5, []
    for step in range(1, steps + 1):
        (outcome,) = _run(saturate, (doors, issues // steps, 64))
        sizes.append((step * (issues // steps), _resident(ca)))
        click.echo(f"memory: {sizes[-1][1]:.1f} MiB after {sizes[-1][0]} more issues ({_rate(outcome):.0f}/s)")
    return sizes


def _first_contact(ca: CaProcess, agents: int) -> dict[str, Any]:
    doors, token = _doors(ca), ca.token(uses=2 * agents)
    parts = (agents // 2, agents - agents // 2)
    figures = _show(
        f"first contact of {agents} agents at once", *_run(arrive, *((doors, token, part, _PATIENCE) for part in parts))
    )
    click.echo(f"memory: {_resident(ca):.1f} MiB after it")
    return figures | {"memory": _resident(ca)}


def _resident(ca: CaProcess) -> float:
    return float(psutil.Process(ca.pid).memory_info().rss / 2**20)


def _rate(outcome: Outcome) -> float:
    return len(outcome.times) / outcome.seconds


def _show(name: str, *outcomes: Outcome) -> dict[str, Any]:
    times = [seconds for outcome in outcomes for seconds in outcome.times]
    errors = dict(sum((Counter(outcome.errors) for outcome in outcomes), Counter[str]()))
    seconds, lost = max(outcome.seconds for outcome in outcomes), sum(outcome.lost for outcome in outcomes)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    latency = {label: 1000 * quantile(times, share) for label, share in shares.items()}
    figures = " ".join(f"{label} {value:.1f}" for label, value in latency.items())
    click.echo(f"{name}: {len(times)} in {seconds:.1f} s = {len(times) / seconds:.0f}/s; ms: {figures}")
    click.echo(f"  calls that failed: {errors or 'none'}; never served: {lost}")
    return {"served": len(times), "seconds": seconds, "ms": latency, "failed": errors, "lost": lost}


if __name__ == "__main__":
    main()
