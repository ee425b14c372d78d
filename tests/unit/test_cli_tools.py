"""What the operator's tools make of what they read: progress of a rollout, tables of Envoy's configuration, schemas."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.adapters.proxy.redaction import REDACTED
from agent.api.document import read_documents
from agent.api.json_schema import document_schema
from agent.api.kinds import KINDS
from agent.api.validate import find_problems
from agent.cli import envoy_view
from agent.cli.main import cli
from agent.cli.rollout import progress
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus, ProxyStatus
from tests.unit.api_samples import ROUTE_RULE, SAMPLES, VIRTUAL_SERVICE

OLD, NEW = Fault("cluster a", "bad"), Fault("cluster b", "worse")
PARTLY = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{redirect: {uri: /x, redirectCode: 305}}, {route: [{destination: {host: a}}]}]}
"""


def node(name: str, sent: int, acked: int, *nacks: Fault, connected: bool = True) -> NodeStatus:
    return NodeStatus(name, proxy=ProxyStatus(connected, "1", sent, acked, nacks))


def test_progress_of_a_rollout() -> None:
    statuses = [
        node("done", 7, 7),
        node("behind", 6, 6),
        node("away", 0, 0, connected=False),
        node("old-trouble", 7, 7, OLD),
        node("refuses", 7, 6, OLD, NEW),
        node("not-there-yet", 6, 6, NEW),
    ]
    before = {(name, OLD) for name in ("old-trouble", "refuses")}
    state = progress(statuses, 7, before)
    assert state.acknowledged == ("done", "old-trouble")
    assert state.pending == ("behind", "refuses", "not-there-yet")
    assert state.away == ("away",)
    assert state.refused == ("refuses: cluster b: worse",)


def test_no_key_leaves_a_view() -> None:
    record = {
        "name": "x",
        "tls_certificate": {"private_key": {"inline_bytes": "c2VjcmV0"}, "list": [{"password": "p"}]},
    }
    shown = json.dumps(envoy_view.redact(record))
    assert "c2VjcmV0" not in shown
    assert '"p"' not in shown
    assert shown.count(REDACTED) == 2


DUMP: dict[str, Any] = {
    "configs": [
        {
            "@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
            "dynamic_route_configs": [
                {
                    "route_config": {
                        "name": "9080",
                        "virtual_hosts": [
                            {
                                "name": "reviews",
                                "routes": [
                                    {
                                        "match": {"prefix": "/a", "headers": [{"name": "cookie"}]},
                                        "route": {"cluster": "one"},
                                    },
                                    {
                                        "match": {"safe_regex": {"regex": "/b.*"}},
                                        "route": {
                                            "weighted_clusters": {
                                                "clusters": [{"name": "v1", "weight": 9}, {"name": "v2", "weight": 1}]
                                            }
                                        },
                                    },
                                    {"match": {"path": "/c"}, "direct_response": {"status": 404}},
                                ],
                            }
                        ],
                    }
                }
            ],
        }
    ]
}


def test_routes_as_rows() -> None:
    assert envoy_view.route_rows(envoy_view.routes(DUMP)) == [
        ("9080", "reviews", "/a* [cookie]", "one"),
        ("9080", "reviews", "~/b.*", "v1 (9), v2 (1)"),
        ("9080", "reviews", "/c", "answer 404"),
    ]


def test_endpoints_as_rows() -> None:
    host = {"address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}}}
    failed = {**host, "health_status": {"failed_outlier_check": True, "eds_health_status": "HEALTHY"}}
    answer = {"cluster_statuses": [{"name": "c", "host_statuses": [host, failed]}]}
    assert envoy_view.endpoint_rows(answer) == [
        ("10.0.0.1:80", "healthy", "c"),
        ("10.0.0.1:80", "unhealthy (outlier_check)", "c"),
    ]


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_every_kind_has_a_schema(kind: str) -> None:
    result = CliRunner().invoke(cli, ["schema", kind.lower()])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["properties"]["kind"] == {"const": kind}


def fits(shape: Any, value: Any) -> bool:
    """The part of JSON Schema that our schemas use."""
    if "anyOf" in shape:
        return any(fits(one, value) for one in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        return value in shape.get("enum", [shape.get("const")])
    types: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    if "type" in shape and not isinstance(value, types[shape["type"]]):
        return False
    if isinstance(value, dict):
        properties, others = shape.get("properties", {}), shape.get("additionalProperties", {})
        if others is False and not set(value) <= set(properties):
            return False
        return all(name in value for name in shape.get("required", ())) and all(
            fits(properties.get(key, others or {}), item) for key, item in value.items()
        )
    return all(fits(shape.get("items", {}), item) for item in value) if isinstance(value, list) else True


@pytest.mark.parametrize("text", SAMPLES)
def test_valid_documents_fit_their_schema(text: str) -> None:
    (document,), _ = read_documents(text, "rules.yaml", "default")
    kind = next(kind for kind in KINDS if kind.name == document.kind)
    schema = document_schema(kind)["properties"]["spec"]
    assert fits(schema, document.spec)
    assert not fits(schema, {**document.spec, "unknownField": 1})


def test_the_third_verdict_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(PARTLY)
    result = CliRunner().invoke(cli, ["validate", "-f", str(file)])
    assert result.exit_code == 0
    assert f"Warning: {file}:4: VirtualService/a: spec.http[0].redirect: redirectCode 305 cannot be" in result.stderr
    assert result.stdout == "1 object valid, not all of it enforceable here (see the warnings)\n"


def test_analyze_ends_as_istioctl_does(tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(PARTLY)
    run = CliRunner().invoke
    assert run(cli, ["analyze", "-f", str(file)]).exit_code == 0
    for threshold in ("Warning", "warning", "WARNING"):
        assert run(cli, ["analyze", "-f", str(file), "--failure-threshold", threshold]).exit_code == 79
    file.write_text("kind: [\n")
    broken = run(cli, ["analyze", "-f", str(file), "-o", "json"])
    assert broken.exit_code == 79
    assert json.loads(broken.stdout)[0]["code"] == "IST0106"


def test_a_thousand_documents_are_validated_in_two_seconds() -> None:
    samples = (
        ROUTE_RULE.replace("reviews-test-v2", "NAME"),
        VIRTUAL_SERVICE.replace("{name: reviews}", "{name: NAME}"),
    )
    text = "\n---\n".join(sample.replace("NAME", f"n{number}") for number in range(500) for sample in samples)
    started = time.process_time()
    documents, problems = read_documents(text, "rules.yaml", "default")
    found = [problem for document in documents for problem in find_problems(document)]
    assert time.process_time() - started < 2.0
    assert (len(documents), problems, found) == (1000, [], [])
