"""Bookinfo under load for minutes with certificates that last seconds: how many were renewed, how many requests failed.

`python -m benchmarks.rotation --seconds 300`; prints JSON. Any failure is a fault: the exit code is 1 then. With
`--lifetime 20 --ca-away 0.4` the CA is out of reach for 40 % of a lifetime, again and again; hosts renew at moments of
their own, so an outage begins at another age of each one's certificate, and these ages are part of the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter

import msgspec

from agent.lab.lab import Lab
from agent.lab.plan import bookinfo_plan
from benchmarks.testlab import machine, note, running
from tests.integration.ca_outage import unreachable_ca
from tests.integration.meshlab import agents, load, node_status, wait_settled

_RECOVERIES = (1.0, 1.35, 1.2, 1.05, 1.4, 1.25, 1.1, 1.45, 1.3, 1.15)
"""Lifetimes between two outages: all renew meanwhile (at half-life, so twice), and the next begins at another age."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (default: 300)")
    parser.add_argument("--lifetime", type=int, default=10, help="of a certificate, seconds (default: 10)")
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second (default: 50)")
    parser.add_argument("--ca-away", type=float, default=0.0, help="share of a lifetime (default: 0, never)")
    options = parser.parse_args()
    figures = _measure(options.seconds, options.lifetime, options.rate, options.ca_away)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if figures["failed requests"] else 0)


def _measure(seconds: float, lifetime: int, rate: float, away: float) -> dict[str, object]:
    settings = {"lifetime": f"{lifetime}s"}
    with running(
        lambda name, page, consul: msgspec.structs.replace(
            bookinfo_plan(page, consul, name), subnet="10.78.31.0/24", ca_settings=settings
        )
    ) as lab:
        wait_settled(lab)
        serials: dict[str, set[str]] = {host.name: set() for host in agents(lab)}
        ages: list[float] = []
        with load(lab["productpage"], rate=rate) as requests:
            until, recoveries = time.monotonic() + seconds, itertools.cycle(_RECOVERIES)
            while time.monotonic() < until:
                if away:
                    ages += _ages(lab, lifetime)
                    with unreachable_ca(lab):
                        _watch(lab, serials, away * lifetime)
                _watch(lab, serials, next(recoveries) * lifetime)
                note(f"{max(0.0, until - time.monotonic()):.0f} s left, {len(ages)} certificates met an outage")
    return {
        "machine": machine(),
        "seconds": seconds,
        "certificate lifetime, seconds": lifetime,
        "certificates by host": {name: len(found) for name, found in serials.items()},
        "CA away, share of a lifetime": away,
        "certificates by their age when it went": dict(
            sorted(Counter(f"{int(age * 10) / 10:.1f}" for age in ages).items())
        ),
        "requests": requests.total,
        "failed requests": len(requests.failures),
        "failures": requests.failures[:5],
    }


def _watch(lab: Lab, serials: dict[str, set[str]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        for host in agents(lab):
            serials[host.name].update(each.serial for each in node_status(host).certificates)
        time.sleep(min(left, 2.0))


def _ages(lab: Lab, lifetime: int) -> list[float]:
    """Return how old each host's certificate is, as a share of the lifetime."""
    now = time.time()
    return [1 - (each.not_after - now) / lifetime for host in agents(lab) for each in node_status(host).certificates]


if __name__ == "__main__":
    main()
