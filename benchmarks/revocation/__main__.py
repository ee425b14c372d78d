"""Certificates are revoked one after the other; how long each Envoy, new connections and open ones take to follow.

`python -m benchmarks.revocation --rounds 10`; prints JSON, times in seconds from the command's start. The issue's bound
is 5 s. A process of another identity asks the same server all the time: none of its requests may fail.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from agent.lab.lab import Lab
from agent.lab.plan import LabPlan, bookinfo_plan
from benchmarks.figures import quantile
from benchmarks.testlab import machine, note, running
from tests.integration.meshlab import agents, hostmesh, load, node_status, wait_settled
from tests.waiting import wait_for

IDLER = Path(__file__).parents[2] / "tests" / "integration" / "tls_idler.py"
IDENTITY = "ns/default/sa/intruder"
PATIENCE = 30.0
HELD = {"busy connection": ("busy",), "idle connection": ()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="certificates revoked (default: 10)")
    options = parser.parse_args()
    plan = partial(_plan, subnet="10.78.32.0/24")
    times: dict[str, list[float]] = {}
    with running(plan) as lab, TemporaryDirectory() as folder:
        hostmesh(lab, "mesh", "set", "mtls=strict")
        wait_settled(lab)
        envoys = len(agents(lab))
        with load(lab["productpage"], "http://details:9080/details/0", rate=20.0) as others:
            for number in range(options.rounds):
                taken = _round(lab, Path(folder) / str(number))
                for name, seconds in taken.items():
                    times.setdefault(name, []).append(seconds)
                note(
                    f"round {number + 1} of {options.rounds}: " + ", ".join(f"{k} {v:.2f} s" for k, v in taken.items())
                )
    figures = {
        "machine": machine(),
        "rounds": options.rounds,
        "Envoys": envoys,
        "seconds": {name: {"p50": quantile(each, 0.5), "max": max(each)} for name, each in times.items()},
        "requests of others": others.total,
        "failed requests of others": len(others.failures),
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if others.failures else 0)


def _plan(name: str, page: int, consul: int, subnet: str) -> LabPlan:
    return msgspec.structs.replace(bookinfo_plan(page, consul, name), subnet=subnet)


def _round(lab: Lab, folder: Path) -> dict[str, float]:
    """Return the seconds of one revocation: all Envoys know, a handshake is refused, open connections end."""
    socket = ("--socket", lab.state.ca_socket)
    hostmesh(lab, "ca", "cert", "issue", "--identity", IDENTITY, "--out", str(folder), *socket)
    held = {name: _hold(lab, folder, *words) for name, words in HELD.items()}
    known = {host.name: node_status(host).trust_bundle for host in agents(lab)}
    try:
        began = time.time()
        hostmesh(lab, "ca", "cert", "revoke", _serial(folder), *socket)
        with ThreadPoolExecutor() as threads:
            follow = [
                ("last Envoy's acknowledgement", lambda: all(_changed(lab, name, was) for name, was in known.items())),
                ("new connection refused", lambda: not _comes_in(lab, folder)),
            ]
            waiting = {name: threads.submit(_when, condition, name) for name, condition in follow}
            ended = {name: threads.submit(_end_of, process) for name, process in held.items()}
            return {name: round(each.result() - began, 3) for name, each in (waiting | ended).items()}
    finally:
        for process in held.values():
            process.kill()
            process.wait()


def _when(condition: Callable[[], bool], name: str) -> float:
    wait_for(condition, name, PATIENCE)
    return time.time()


def _changed(lab: Lab, host: str, was: str) -> bool:
    return node_status(lab[host]).trust_bundle != was


def _hold(lab: Lab, certificates: Path, *words: str) -> subprocess.Popen[str]:
    """Hold a connection to the server of details, straight to its Envoy, with these certificates."""
    argv = (sys.executable, str(IDLER), str(lab["details"].address), "9080", str(certificates), *words)
    process = subprocess.Popen(lab["ratings"].argv(argv), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "started\n":
        process.kill()
        process.wait()
        raise ConnectionRefusedError(f"the server does not take {certificates}")
    return process


def _comes_in(lab: Lab, certificates: Path) -> bool:
    try:
        process = _hold(lab, certificates)
    except ConnectionRefusedError:
        return False
    process.kill()
    process.wait()
    return True


def _end_of(process: subprocess.Popen[str]) -> float:
    output, _ = process.communicate(timeout=PATIENCE)
    return float(output)


def _serial(folder: Path) -> str:
    argv = ("openssl", "x509", "-noout", "-serial", "-in", str(folder / "cert-chain.pem"))
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip().removeprefix("serial=")


if __name__ == "__main__":
    main()
