"""What Debian's own checker says of the packages: no error, no warning but those that are explained."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.e2e.machine import TOP
from tests.integration.netns import environment


def test_lintian_finds_nothing(packages: Path) -> None:
    done = subprocess.run(
        [
            "lintian",
            "--allow-root",
            "--fail-on=error,warning",
            "--tag-display-limit=0",
            "--suppress-tags=malformed-deb-archive",  # only the tests' packages are compressed by zstd
            *sorted(map(str, packages.glob("hostmesh-*.deb"))),
        ],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mismatched-override" not in done.stdout, "an override is about nothing"


def test_each_override_says_why() -> None:
    for file in (TOP / "packaging/debian").glob("*.lintian-overrides"):
        explained = False
        for line in file.read_text().splitlines():
            assert line.startswith("#") or explained, f"{file.name}: no comment above: {line}"
            explained = True
