"""Verdicts, dry runs, differences and waiting, against a real Consul (no agent runs here)."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec
import pytest

from agent.adapters.consul.store import KvConnection
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus, ProxyStatus
from tests.integration.cli_consul import CommandLine, route_rule

PARTLY = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: partly}
spec: {hosts: [a], http: [{redirect: {uri: /x, redirectCode: 305}}, {route: [{destination: {host: a}}]}]}
"""
KNOWN_ONLY = """apiVersion: networking.istio.io/v1
kind: EnvoyFilter
metadata: {name: filter}
spec: {}
"""


def put_status(hostmesh: CommandLine, node: str, sent: int, acked: int, *nacks: Fault) -> None:
    status = NodeStatus(node, proxy=ProxyStatus(True, "1", sent, acked, nacks), updated_at=1.0)
    KvConnection(hostmesh.address).send("put", f"/v1/kv/hostmesh/status/{node}", data=msgspec.json.encode(status))


@pytest.mark.parametrize("verb", ["create", "apply"])
@pytest.mark.parametrize(
    ("text", "reason"), [(PARTLY, "cannot be honoured"), (KNOWN_ONLY, "known, but not supported (")]
)
def test_what_cannot_be_enforced_is_written_on_demand_only(
    hostmesh: CommandLine, verb: str, text: str, reason: str
) -> None:
    refusal = hostmesh.refused(verb, stdin=text)
    assert reason in refusal
    assert "--allow-unsupported" in refusal
    assert hostmesh.ok("get", "all", "-o", "json").count('"kind": "List"') == 1
    result = hostmesh.run(verb, "--allow-unsupported", stdin=text)
    assert result.exit_code == 0
    assert "Warning: standard input" in result.stderr
    assert "Created config" in result.stdout
    kind = "envoyfilter" if text == KNOWN_ONLY else "vs"
    assert len(json.loads(hostmesh.ok("get", kind, "-o", "json"))["items"]) == 1


def test_a_dry_run_writes_nothing(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=route_rule("same") + "---\n" + route_rule("other"))
    both = "---\n".join((route_rule("same"), route_rule("other", "v2"), route_rule("new")))
    assert hostmesh.ok("apply", "--dry-run", stdin=both).splitlines() == [
        "Would leave unchanged config route-rule/default/same (dry run)",
        "Would update config route-rule/default/other (dry run)",
        "Would create config route-rule/default/new (dry run)",
    ]
    assert "exists already" in hostmesh.refused("create", "--dry-run", stdin=route_rule("same"))
    assert "does not exist" in hostmesh.refused("replace", "--dry-run", stdin=route_rule("new"))
    assert "version: v2" not in hostmesh.ok("get", "routerules", "-o", "yaml")


def test_differences(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=route_rule("a"))
    assert hostmesh.ok("diff", stdin=route_rule("a")) == ""
    result = hostmesh.run("diff", stdin=route_rule("a", "v2") + "---\n" + route_rule("b"))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "-      version: v1" in lines
    assert "+      version: v2" in lines
    assert "+++ RouteRule/b.default (standard input)" in lines


def test_waiting_without_agents_and_for_one_that_does_not_answer(hostmesh: CommandLine) -> None:
    assert "No agent is connected" in hostmesh.ok("apply", "--wait", stdin=route_rule("a"))
    put_status(hostmesh, "slow", 1, 1)
    said = hostmesh.refused("apply", "--wait", "--timeout", "0.5", stdin=route_rule("b"))
    assert "is written, but after 0.5 s 1 of 1 connected nodes have not acknowledged it: slow" in said
    assert "b" in hostmesh.ok("get", "routerules")


def test_waiting_ends_with_the_last_acknowledgement_or_the_first_refusal(hostmesh: CommandLine) -> None:
    trouble = Fault("cluster x", "old trouble")
    put_status(hostmesh, "vm-1", 1, 1, trouble)
    later = threading.Timer(0.5, put_status, (hostmesh, "vm-1", 10**9, 10**9, trouble))
    later.start()
    printed = hostmesh.ok("apply", "--wait", "--timeout", "10", stdin=route_rule("a"))
    later.join()
    assert "Acknowledged by 1 node, the slowest vm-1 after 0." in printed
    put_status(hostmesh, "vm-1", 1, 1)
    later = threading.Timer(0.5, put_status, (hostmesh, "vm-1", 10**9, 1, Fault("route 9080", "no such cluster")))
    later.start()
    said = hostmesh.refused("apply", "--wait", "--timeout", "10", stdin=route_rule("b"))
    later.join()
    assert "refused by Envoy, which keeps what it had: vm-1: route 9080: no such cluster" in said


def test_old_rules_are_converted_and_compared(hostmesh: CommandLine, tmp_path: Path) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(hostmesh.ok("convert", stdin=route_rule("reviews")))
    hostmesh.ok("create", "-f", str(new))
    assert hostmesh.ok("diff", "-f", str(new)) == ""
    assert "reviews" in hostmesh.ok("get", "vs,dr")


def test_what_is_stored_is_analysed(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=route_rule("reviews"))
    result = hostmesh.run("analyze")
    assert result.exit_code == 79
    assert "Error [IST0101] (RouteRule reviews.default hostmesh/config/default/routerule/reviews)" in result.stdout
    files = hostmesh.run("analyze", "--live", "-f", "-", stdin=route_rule("reviews", "v2"))
    assert "(RouteRule reviews.default standard input:6)" in files.stdout
