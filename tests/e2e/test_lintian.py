"""What Debian's own checker says of the packages: no error, no warning but those that are explained."""

from __future__ import annotations

import subprocess

from tests.e2e.machine import TOP


def test_lintian_finds_nothing(lintian: subprocess.Popen[str]) -> None:
    said, _ = lintian.communicate(timeout=600)
    assert lintian.returncode == 0, said
    assert "mismatched-override" not in said, "an override is about nothing"


def test_each_override_says_why() -> None:
    for file in (TOP / "packaging/debian").glob("*.lintian-overrides"):
        explained = False
        for line in file.read_text().splitlines():
            assert line.startswith("#") or explained, f"{file.name}: no comment above: {line}"
            explained = True
