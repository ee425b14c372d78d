"""Bookinfo under load for minutes with certificates that last seconds: how many were renewed, how many requests failed.

`python -m benchmarks.rotation --seconds 300`; prints JSON. Any failure is a fault: the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import msgspec

from agent.lab.plan import bookinfo_plan
from benchmarks.testlab import machine, note, running
from tests.integration.meshlab import agents, load, node_status, wait_settled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (default: 300)")
    parser.add_argument("--lifetime", type=int, default=10, help="of a certificate, seconds (default: 10)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second (default: 50)")
    options = parser.parse_args()
    figures = _measure(options.seconds, options.lifetime, options.rate)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if figures["failed requests"] else 0)


def _measure(seconds: float, lifetime: int, rate: float) -> dict[str, object]:
    settings = {"lifetime": f"{lifetime}s"}
    with running(
        lambda name, page, consul: msgspec.structs.replace(
            bookinfo_plan(page, consul, name), subnet="10.78.31.0/24", ca_settings=settings
        )
    ) as lab:
        wait_settled(lab)
        serials: dict[str, set[str]] = {host.name: set() for host in agents(lab)}
        with load(lab["productpage"], rate=rate) as requests:
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                for host in agents(lab):
                    serials[host.name].update(each.serial for each in node_status(host).certificates)
                note(f"{left:.0f} s left")
                time.sleep(min(left, 2.0))
    return {
        "machine": machine(),
        "seconds": seconds,
        "certificate lifetime, seconds": lifetime,
        "certificates by host": {name: len(found) for name, found in serials.items()},
        "requests": requests.total,
        "failed requests": len(requests.failures),
        "failures": requests.failures[:5],
    }


if __name__ == "__main__":
    main()
