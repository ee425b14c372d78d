"""The units' sandboxes, as systemd itself judges them."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.fingerprint import differences, normalized
from tests.e2e.machine import TOP
from tests.integration.netns import environment


@pytest.mark.parametrize(("unit", "most"), [("hostmesh-agent", 2.5), ("hostmesh-ca", 1.5)])
def test_a_unit_is_sandboxed(unit: str, most: float) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(TOP / "systemd" / f"{unit}.service")],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout.partition("Overall exposure level")[2].split()
    assert float(words[2]) <= most, done.stdout + done.stderr


def test_rules_are_compared_without_what_says_nothing() -> None:
    empty = "# Generated\n*nat\n:PREROUTING ACCEPT [3:180]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n# Completed\n"
    assert normalized(empty) == []
    rules = "*filter\n:INPUT DROP [1:2]\n:MINE - [0:0]\n[5:6] -A INPUT -j MINE\nCOMMIT\n"
    assert normalized(empty + rules) == ["*filter", ":INPUT DROP", ":MINE -", "-A INPUT -j MINE", "COMMIT"]


def test_what_is_not_as_it_was_is_named() -> None:
    before = {"files": ["/etc/a", "/etc/b"], "users": ["root"]}
    assert differences(before, before) == ""
    assert "+/etc/c" in differences(before, before | {"files": ["/etc/a", "/etc/b", "/etc/c"]})
