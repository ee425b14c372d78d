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
from benchmarks.translate.mesh import Layout, Mesh

VALIDATED = 1000


def main() -> None:
    """Measure translating; print the figures. --json FILE writes them as well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.translate", description=main.__doc__)
    parser.add_argument("--services", type=int, nargs="+", default=[100, 1000, 5000], help="sizes; three rules each")
    parser.add_argument("--instances", type=int, default=10)
    parser.add_argument("--changes", type=int, default=100, help="changes of each kind")
    parser.add_argument("--json", default="", metavar="FILE")
    arguments = parser.parse_args()
    console = Console(width=170)
    console.print(machine())
    results: list[Result] = []
    for layout in Layout:
        note(layout)
        sizes = [Mesh(services, arguments.instances, layout) for services in arguments.services]
        results += measure(sizes, arguments.changes)
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
    cold = Table("layout", "services", "rules", "resources", "lower + plan", *STAGES, title="The first plan, ms")
    for result in results:
        times = [f"{result.cold_ms[stage]:.0f}" for stage in STAGES]
        size = (str(result.services), str(result.rules), str(result.resources))
        cold.add_row(result.layout, *size, f"{result.cold_plan_ms:.0f}", *times)
    console.print(cold)
    for layout in Layout:
        console.print(_changes([result for result in results if result.layout is layout], layout))


def _changes(results: list[Result], title: str) -> Table:
    """Return the times of changes, sizes side by side; the ratio is that of the last two, the stages are the last's."""
    sizes = [str(result.services) for result in results]
    heads = (*sizes, "ratio", *(f"all: {size}" for size in sizes), "ratio", "p99", *STAGES)
    table = Table("one change, ms; lower + plan:", *heads, title=title)
    for of_kind in zip(*(result.changes for result in results), strict=True):
        last, stages = of_kind[-1], [f"{of_kind[-1].stages_ms[stage]:.2f}" for stage in STAGES]
        translating = _with_ratio([change.translating_ms for change in of_kind])
        whole = _with_ratio([change.p50_ms for change in of_kind])
        table.add_row(last.kind, *translating, *whole, f"{last.p99_ms:.1f}", *stages)
    return table


def _with_ratio(times: list[float]) -> list[str]:
    ratio = f"{times[-1] / times[-2]:.1f}" if len(times) > 1 else ""
    return [*(f"{time:.2f}" for time in times), ratio]


if __name__ == "__main__":
    main()
