"""Every sample is valid and does what it says against the lab's services; what it needs stands in its head."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.cli.main import cli
from agent.lab.full_plan import lab_plan

SAMPLES = Path(__file__).parents[2] / "vagrant" / "samples"
FILES = sorted(SAMPLES.rglob("*.yaml"))
NOT_ALL_ENFORCED = ("policy", "telemetry")
"""Folders with samples that are valid only, so far."""
NEEDS = re.compile(r"^# Needs: (.+)$", re.MULTILINE)


def hostmesh(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def title(path: Path) -> str:
    return str(path.relative_to(SAMPLES))


def with_needs(path: Path) -> list[Path]:
    """Return the file and all that it needs; what it says of the same object itself counts."""
    needed = [path.parent / name for line in NEEDS.findall(path.read_text()) for name in line.split()]
    return [path, *(each for one in needed for each in with_needs(one))]


def together(path: Path, folder: Path) -> Path:
    """Write the file's objects and those that it needs as applying the files one after the other leaves them."""
    objects = {}
    for file in reversed(with_needs(path)):
        for document in yaml.safe_load_all(file.read_text()):
            meta = document["metadata"]
            objects[document["kind"], meta.get("namespace"), meta["name"]] = document
    written = folder / "together.yaml"
    written.write_text(yaml.safe_dump_all(objects.values()))
    return written


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The lab's services as `hostmesh render` reads them."""
    plan = lab_plan()
    services: dict[str, dict[str, object]] = {}
    for host in plan.hosts:
        for app in host.apps if host.agent else ():
            entry = services.setdefault(
                app.service, {"name": app.service, "namespace": app.namespace, "ports": [], "instances": []}
            )
            ports, instances = entry["ports"], entry["instances"]
            assert isinstance(ports, list)
            assert isinstance(instances, list)
            if (port := {"port": app.port, "protocol": app.protocol}) not in ports:
                ports.append(port)
            if (instance := {"node": host.name, "labels": dict(app.labels)}) not in instances:
                instances.append(instance)
    nodes = [{"name": host.name, "address": str(plan.address(host.name))} for host in plan.hosts]
    path = tmp_path_factory.mktemp("samples") / "catalog.yaml"
    path.write_text(yaml.safe_dump({"nodes": nodes, "services": list(services.values())}))
    return path


def test_the_samples_were_found() -> None:
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=title)
def test_a_sample_says_what_it_does_and_is_valid(path: Path) -> None:
    assert re.match(r"# \S.{20,}", path.read_text())
    done = hostmesh("validate", "-f", path)
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output or path.relative_to(SAMPLES).parts[0] in NOT_ALL_ENFORCED, done.output


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.relative_to(SAMPLES).parts[0] not in NOT_ALL_ENFORCED], ids=title
)
def test_a_sample_and_what_it_needs_have_no_findings(path: Path, catalog: Path, tmp_path: Path) -> None:
    done = hostmesh("analyze", "-f", together(path, tmp_path), "--catalog", catalog)
    assert done.exit_code == 0, done.output
    assert done.output.strip() in ("", "No issues found."), done.output
