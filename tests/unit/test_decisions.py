"""What AUDIT policies and dry runs tell: Envoy's lines as an operator reads them, with fields."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from agent.runtime.decision_log import decision_log
from agent.runtime.log_setup import entry
from agent.translate.decisions import Decision, rule_name

REQUEST = {
    "policy": rule_name("default", "watch]-rule[9]", 1),
    "event": "audit",
    "time": "2026-11-20T15:00:00.000Z",
    "principal": "spiffe://cluster.local/ns/shop/sa/cart",
    "source": "10.0.0.2:4711",
    "destination": "10.0.0.1:9080",
    "method": "GET",
    "host": "reviews",
    "path": "/audited",
    "code": 200,
}


def test_a_request_that_an_audit_is_about() -> None:
    told = Decision.from_line(json.dumps(REQUEST))
    assert told is not None
    assert told.text == (
        "audit: AuthorizationPolicy/watch]-rule[9].default rule 1 holds for GET reviews/audited (200)"
        " of spiffe://cluster.local/ns/shop/sa/cart at 10.0.0.2:4711 to 10.0.0.1:9080"
    )
    assert told.fields["HOSTMESH_SUBJECT"] == "AuthorizationPolicy/watch]-rule[9].default"
    assert told.fields["HOSTMESH_RULE"] == "1"
    assert told.fields["HOSTMESH_CODE"] == "200"
    assert all(name.replace("_", "").isalnum() and name.isupper() for name in told.fields)


def test_a_connection_that_no_tried_policy_allows() -> None:
    told = Decision.from_line('{"policy":null,"event":"dry_run_allow","principal":null,"source":"a:1"}')
    assert told is not None
    assert "no rule of an ALLOW policy would let pass a connection of a caller without a certificate" in told.text
    assert "HOSTMESH_SUBJECT" not in told.fields


@pytest.mark.parametrize("line", ["", "{", "[]", "3", '{"level":"info"}', "[2026-11-20 13:00:00.0][1][info][main] x"])
def test_other_lines_are_none_of_these(line: str) -> None:
    assert Decision.from_line(line) is None


def test_lines_become_entries_of_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    file = tmp_path / "decisions.log"
    log = decision_log(file, tmp_path / "read")
    file.write_text(json.dumps(REQUEST) + "\nnot of these\n")
    assert log.pass_on()
    first, other = (entry(record) for record in caplog.records)
    assert first["MESSAGE"].startswith("audit: AuthorizationPolicy/")
    assert (first["LOGGER"], first["PRIORITY"], first["HOSTMESH_EVENT"]) == ("policy", "6", "audit")
    assert (other["MESSAGE"], other["SYSLOG_IDENTIFIER"]) == ("not of these", "envoy")
