"""The dashboards and alert rules as files: what Grafana would stumble over. Whether queries have data needs a mesh."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def test_there_are_five() -> None:
    assert [path.stem.removeprefix("hostmesh-") for path in DASHBOARDS] == [
        "agent",
        "ca",
        "mesh",
        "service",
        "workload",
    ]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    board = json.loads(path.read_text())
    assert board["uid"] == path.stem
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel.get("targets", ()):
            assert panel["datasource"] == target["datasource"] == DATASOURCE
    for one, other in itertools.combinations((panel["gridPos"] for panel in panels), 2):
        assert not _overlap(one, other), (one, other)
    known = {variable["name"] for variable in board["templating"]["list"]}
    text = json.dumps(panels)
    assert all(f"${name}" in text or f"${{{name}}}" in text for name in known), "a variable that nothing uses"


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_every_alert_is_tested_and_says_how_bad_it_is() -> None:
    rules = yaml.safe_load((MONITORING / "prometheus" / "hostmesh.rules.yml").read_text())
    tests = yaml.safe_load((MONITORING / "prometheus" / "hostmesh.rules.test.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    raised = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert {rule["alert"] for rule in alerts} == raised
    assert {rule["labels"]["severity"] for rule in alerts} <= {"critical", "warning", "info"}
    assert all(rule["annotations"]["summary"] for rule in alerts)
