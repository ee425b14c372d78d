"""The benchmarks run and produce figures, in their smallest form. What the figures are is not judged: never timing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.lab import network
from agent.lab.network import NAMESPACES
from agent.lab.processes import in_network_namespaces
from benchmarks.figures import median_interval, quantile

ROOT = Path(__file__).parents[2]


def test_dataplane_produces_figures(tmp_path: Path) -> None:
    first, second = run(tmp_path, "dataplane", "--rounds=1", "--seconds=1", "--warm-up=0", "--services=50")
    assert (first["services"], second["services"]) == (3, 53)
    for result in (first, second):
        assert set(result["medians"]) == {"direct", "hand-written", "mesh"}
        for sample in result["medians"].values():
            assert sample["requests_per_second"] > 0
            assert 0 < sample["p50_ms"] <= sample["p99_ms"]
        for ratio in (result["ratio"], result["by_round"]["median"], result["together"]["median"]):
            assert ratio["requests_per_second"] > 0


def test_propagation_produces_figures(tmp_path: Path) -> None:
    in_process, by_command = run(tmp_path, "propagation", "--rounds=3", "--commands=2")
    for result, count in ((in_process, 3), (by_command, 2)):
        assert result["nodes"] == 6
        assert len(result["changes"]) == count
        figures = result["figures"]["all_ms"]
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"]


def test_scale_produces_figures(tmp_path: Path) -> None:
    sizes = ("--services=20", "--instances=3", "--nodes=12")
    (result,) = run(tmp_path, "scale", *sizes, "--rules=5", "--alone=10", "--slow=0", "--fast=60", "--idle=1")
    assert result["wrong_services"] == 0
    assert {"agent", "envoy", "consul server"} <= result["rss_mib"].keys()
    (rate,) = result["rates"]
    assert len(rate["latency"]) == 6
    for kind, latency in rate["latency"].items():
        assert (kind, latency["count"], latency["lost"]) == (kind, 10, 0)
        assert 0 < latency["p50_ms"] <= latency["p99_ms"]


def test_ca_produces_figures(tmp_path: Path) -> None:
    sizes = ("--calls=40", "--pace=20", "--seconds=1", "--agents=10", "--issues=50")
    (result,) = run(tmp_path, "ca", *sizes)
    for part, count in (("throughput", 40), ("pace", 20), ("first contact", 10)):
        figures = result[part]
        assert (figures["served"], figures["lost"]) == (count, 0)
        assert 0 < figures["ms"]["p50"] <= figures["ms"]["p99"] <= figures["ms"]["max"]
    assert [issues for issues, _ in result["memory"]] == [10, 20, 30, 40, 50]


def test_soak_produces_figures(tmp_path: Path) -> None:
    """And says so by its exit code if anything grew or failed: in so short a time either may be."""
    sizes = ("--services=5", "--seconds=6", "--restarts=2", "--lifetime=4")
    (result,) = run(tmp_path, "soak", *sizes, codes=(0, 1), unit="MiB")
    assert result["certificates"].keys() == {"productpage", "details"}
    assert {"changes of the catalog", "changes of rules", "agents restarted"} <= result["done"].keys()
    assert len(result["growths"]) == 3
    for figures in result["growths"].values():
        assert all(figure["first"] > 0 for figure in figures.values())
    assert result["requests"] > 20


def test_an_interrupted_benchmark_leaves_nothing() -> None:
    process = subprocess.Popen(
        command("dataplane"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    with process.stderr as lines:
        try:
            name = lines.readline().split()[-1]
            while "agents and their Envoys" not in lines.readline():
                assert process.poll() is None
            inodes = {inode for each in NAMESPACES.glob(f"{name}*") if (inode := network.inode_of(each.name))}
            assert inodes
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 128 + signal.SIGINT
        finally:
            process.kill()
            process.wait()
    assert not Path("/run", name).exists()
    assert not list(NAMESPACES.glob(f"{name}*"))
    assert not list(in_network_namespaces(inodes))


def test_a_quantile_is_a_measured_value() -> None:
    values = [float(number) for number in range(200, 0, -1)]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 100.0, 198.0, 200.0]


def test_an_interval_holds_the_median() -> None:
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)
    assert median_interval([float(number) for number in range(1, 31)]) == (10.0, 21.0)


def command(name: str) -> list[str]:
    """Return the command line of a benchmark."""
    return [sys.executable, "-m", f"benchmarks.{name}"]


def run(
    folder: Path, name: str, *arguments: str, codes: tuple[int, ...] = (0,), unit: str = "ms"
) -> list[dict[str, Any]]:
    """Run a benchmark and return what it writes as JSON, a result for each part."""
    file = folder / "figures.json"
    done = subprocess.run(
        [*command(name), *arguments, f"--json={file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in codes, done.stderr
    assert unit in done.stdout
    results = json.loads(file.read_text())
    return results if isinstance(results, list) else [results]
