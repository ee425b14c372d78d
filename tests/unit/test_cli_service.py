"""`hostmesh service`: files of services.d are written whole and right, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.main import cli
from agent.config import load_workloads
from agent.mesh.service import Protocol


def run(folder: Path, *arguments: str) -> Result:
    env = {"HOSTMESH_CONFIG": str(folder / "contexts.yaml"), "HOSTMESH_CONFIG_DIR": str(folder)}
    return CliRunner().invoke(cli, list(arguments), env=env)


def test_a_service_is_added_once_and_says_what_was_asked_for(tmp_path: Path) -> None:
    words = ("service", "add", "reviews", "9080", "grpc-api:7000", "-l", "version=v1,app=reviews")
    options = ("-s", "bookinfo", "--user", "reviews", "--check-http", "/health", "--not-proxied")
    added = run(tmp_path, "-n", "shop", *words, *options)
    assert added.exit_code == 0, added.output
    assert "reviews.shop.yaml: written" in added.stdout
    (found,), faults = load_workloads(tmp_path, "10.0.0.1")
    assert faults == ()
    assert (str(found.service), found.service_account, found.user) == ("reviews.shop", "bookinfo", "reviews")
    assert {port.number: port.protocol for port in found.ports} == {9080: Protocol.HTTP, 7000: Protocol.GRPC}
    assert dict(found.labels) == {"version": "v1", "app": "reviews"}
    assert (found.proxied, found.check.http_path) == (False, "/health")
    assert "unchanged" in run(tmp_path, "-n", "shop", *words, *options).stdout
    other = run(tmp_path, "-n", "shop", *words)
    assert other.exit_code == 1
    assert "--force" in other.stderr
    assert "replaced" in run(tmp_path, "-n", "shop", *words, "--force").stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("Reviews", "9080"), "name"),
        (("reviews", "0"), "port '0'"),
        (("reviews", "15001"), "Envoy's own"),
        (("reviews", "22"), "never captured"),
        (("reviews", "9080", "--user", "no good"), "Unix user"),
        (("reviews", "9080", "-l", "a b=c"), "label"),
        (("other", "8080", "-s", "own"), "port 8080 is that of web.default"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_written(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    assert run(tmp_path, "service", "add", "web", "8080").exit_code == 0
    refused = run(tmp_path, "service", "add", *words)
    assert refused.exit_code == 1
    assert reason in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "services.d").iterdir()] == ["web.yaml"]


def test_services_are_listed_with_what_is_wrong_and_removed(tmp_path: Path) -> None:
    run(tmp_path, "service", "add", "web", "8080")
    (tmp_path / "services.d/two.yaml").write_text("- {name: a, port: 81}\n- {name: b, port: 82}\n")
    (tmp_path / "services.d/bad.yaml").write_text("name: c\n")
    listed = run(tmp_path, "service", "list")
    assert listed.exit_code == 1
    assert "bad.yaml:1: service c: port: is missing" in listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["SERVICE", "a", "b", "web"]
    assert json.loads(run(tmp_path, "service", "list", "-o", "json").stdout)[2]["ports"][0]["number"] == 8080
    assert "declares other services too" in run(tmp_path, "service", "remove", "a").stderr
    assert run(tmp_path, "service", "remove", "web").exit_code == 0
    assert not (tmp_path / "services.d/web.yaml").exists()
    assert "no service web" in run(tmp_path, "service", "remove", "web").stderr
