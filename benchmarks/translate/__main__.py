"""The command line: first plans and single changes at several sizes of the mesh, and `hostmesh validate`.

Everything is computed in this process but for the command; needs neither root nor Consul.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.testlab import machine, note
from benchmarks.translate.measure import STAGES, Result, measure
from benchmarks.translate.mesh import Mesh

VALIDATED = 1000


def main() -> None:
    """Measure translating; print the figures. --json FILE writes them as well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translate", description=main.__doc__)
    parser.add_argument("--services", type=int, nargs="+", default=[100, 1000, 5000], help="sizes; three rules each")
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--changes", type=int, default=100, help="changes of each kind")
    parser.add_argument("--json", default="", metavar="FILE")
    arguments = parser.parse_args()
    console = Console(width=130)
    console.print(machine())
    results = []
    for shared_port in (True, False):
        for services in arguments.services:
            note(f"{services} services, {'one port' if shared_port else 'ports in proportion'}")
            results.append(measure(Mesh(services, arguments.instances, shared_port), arguments.changes))
    validate_seconds = validate(VALIDATED)
    print_tables(console, results)
    console.print(f"hostmesh validate of {VALIDATED} documents: {validate_seconds:.2f} s")
    if arguments.json:
        figures = {"results": results, "validate_seconds": validate_seconds}
        Path(arguments.json).write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def validate(count: int) -> float:
    """Return how long the whole command takes for so many documents, in files of one each; seconds."""
    rules = list(Mesh(count // 3 + 1).rules())[:count]
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, value) in enumerate(rules):
            (Path(folder) / f"{number:04d}.yaml").write_bytes(as_yaml(value))
        started = time.perf_counter()
        command = Path(sys.executable).with_name("hostmesh")
        subprocess.run([command, "validate", "-f", folder], check=True, capture_output=True)
        return time.perf_counter() - started


def as_yaml(value: bytes) -> bytes:
    """Return the document as operators write it."""
    return msgspec.yaml.encode(msgspec.json.decode(value))


def print_tables(console: Console, results: list[Result]) -> None:
    """Print the figures, all in milliseconds."""
    cold = Table("services", "rules", "resources", "HTTP ports", "lower + plan", *STAGES, title="The first plan, ms")
    for result in results:
        times = [f"{result.cold_ms[stage]:.0f}" for stage in STAGES]
        cold.add_row(*_size(result), f"{result.cold_plan_ms:.0f}", *times)
    console.print(cold)
    table = Table("services", "HTTP ports", "one change", "p50", "p99", *STAGES, title="One change, ms; by stage p50")
    for result in results:
        for change in result.changes:
            times = [f"{change.stages_ms[stage]:.2f}" for stage in STAGES]
            ports = _size(result)[-1]
            table.add_row(
                str(result.services), ports, change.kind, f"{change.p50_ms:.2f}", f"{change.p99_ms:.2f}", *times
            )
    console.print(table)


def _size(result: Result) -> tuple[str, ...]:
    ports = "one" if result.shared_port else "1 per 50"
    return str(result.services), str(result.rules), str(result.resources), ports


if __name__ == "__main__":
    main()
