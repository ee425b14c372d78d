"""docs/tests.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tests.md").read_text()


def test_every_test_named_is_there() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 35
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not any(
            re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE)
            for path in (ROOT / "tests").glob(f"*/{file}")
        )
    ]
    assert missing == []


def test_every_file_named_is_there() -> None:
    assert all((ROOT / path).is_file() for path in re.findall(r"tests/[\w/]+\.py", PAGE))
