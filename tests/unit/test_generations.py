"""Numbers of registrations: what was to be deregistered is never registered again."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.consul.generations import Generations

BASE = "hostmesh-reviews-9080"


def test_a_spent_id_is_not_used_again_not_even_after_a_restart(tmp_path: Path) -> None:
    generations = Generations(tmp_path / "numbers")
    seen = []
    for _ in range(3):
        seen.append(generations.current(BASE))
        generations.spend(seen[-1])
        generations = Generations(tmp_path / "numbers")
    assert seen == [BASE, f"{BASE}.1", f"{BASE}.2"]
    assert all(generations.is_spent(name, BASE) for name in seen)
    assert not generations.is_spent(generations.current(BASE), BASE)
    assert not generations.is_spent(BASE, "hostmesh-reviews-90")
    assert generations.current("hostmesh-ratings-9080") == "hostmesh-ratings-9080"


def test_an_old_id_spent_again_changes_nothing(tmp_path: Path) -> None:
    generations = Generations(tmp_path / "numbers")
    generations.spend(f"{BASE}.4")
    generations.spend(BASE)
    assert generations.current(BASE) == f"{BASE}.5"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "b"}', b"\xff"])
def test_a_spoilt_file_counts_as_empty_and_is_said(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "numbers").write_bytes(content)
    assert Generations(tmp_path / "numbers").current(BASE) == BASE
    assert "can't be read" in caplog.text


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generations = Generations(tmp_path / "none" / "numbers")
    generations.spend(BASE)
    assert generations.current(BASE) == f"{BASE}.1"
    assert "could meet a newer registration" in caplog.text
