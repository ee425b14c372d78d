"""How long the agent takes for a scrape of a host that calls 200 services with three instances each, and its size.

`python -m benchmarks.metrics [--rounds 20]`. What Envoy would say is made here (its own time is not in the figures);
between two scrapes every statistic has grown.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from pathlib import Path
from statistics import median
from typing import Any

import click

from agent.adapters.proxy.admin import AdminClient
from agent.mesh.raw_stats import PREFIX, Measure, Side, stat_name
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey, Workload
from agent.mesh.settings import MeshSettings
from agent.mesh.snapshot import MeshSnapshot
from agent.mesh.trust import TrustBundle
from agent.runtime.telemetry.collector import MetricsCollector
from agent.runtime.telemetry.readings import Readings

SERVICES, INSTANCES, BINS = 200, 3, 15
_PORTS = (Port(9080, "http", Protocol.HTTP),)
_LABELS = (("version", "v1"),)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=20)
    rounds = arguments.parse_args().rounds
    collector = MetricsCollector(AdminClient(Path("/nowhere")))
    collector.publish(_mesh())
    times: dict[str, list[float]] = {"read": [], "add": [], "write": []}
    answer = page = b""
    for at in range(1, rounds + 1):
        answer = json.dumps(_answer(at)).encode()
        started = time.perf_counter()
        readings = Readings.from_json(answer)
        read = time.perf_counter()
        collector.take(readings)
        added = time.perf_counter()
        page = "".join(f"{line}\n" for line in collector.lines()).encode()
        for name, seconds in zip(times, (read - started, added - read, time.perf_counter() - added), strict=True):
            times[name].append(seconds)
    click.echo(f"{SERVICES} services, {INSTANCES} instances each; Envoy's answer {len(answer) / 1e6:.2f} MB")
    click.echo(f"page {len(page) / 1e6:.2f} MB, gzip {len(zlib.compress(page)) / 1e3:.0f} KB")
    whole = [sum(each) for each in zip(*times.values(), strict=True)]
    for name, taken in {**times, "all": whole}.items():
        click.echo(f"{name:6} first {taken[0] * 1e3:6.1f} ms, median {median(taken) * 1e3:6.1f} ms")


def _key(number: int) -> ServiceKey:
    return ServiceKey("default", f"service-{number}")


def _address(number: int, at: int) -> str:
    return f"10.1.{number}.{at + 1}"


def _mesh() -> MeshSnapshot:
    services = {}
    for number in range(SERVICES):
        key = _key(number)
        instances = [
            Instance(f"{key}-{at}", key, "node", _address(number, at), _PORTS, _LABELS, proxied=True)
            for at in range(INSTANCES)
        ]
        services[key] = Service.from_instances(key, instances)
    own = Workload(ServiceKey("default", "productpage"), "10.0.0.1", _PORTS, _LABELS)
    return MeshSnapshot("node", services, {}, MeshSettings(), (own,), {}, {}, TrustBundle(b""))


def _answer(times: int) -> dict[str, Any]:
    """Return what Envoy says when each bin has been added to so many times."""
    bins = [{"lower_bound": at, "width": 0.1 if at < 10 else 1, "count": 7 * times} for at in range(1, BINS + 1)]
    percentiles = [{"cumulative": 1.05, "interval": 1.05}] * 10
    details = []
    for number in range(SERVICES):
        for at in range(INSTANCES):
            atoms = f".=k.outbound|9080||service-{number}.service.consul.=h.{_address(number, at)}:9080"
            atoms += ".=s.spiffe://cluster.local/ns/default/sa/default.=c.200.=f.-"
            for measure in (Measure.DURATION, Measure.REQUEST_BYTES, Measure.RESPONSE_BYTES):
                name = f"{PREFIX}.{stat_name(Side.OUT, 0, measure)}{atoms}"
                details.append({"name": name, "totals": bins, "intervals": bins, "percentiles": percentiles})
    return {"stats": [{"histograms": {"details": details}}]}


if __name__ == "__main__":
    main()
