"""How the test of docs/tasks reads pages and compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.task_pages import Block, blocks_of

PAGE = """# A page
```bash
echo one
```
```text
one
```
Words.

```bash
cd x
```
"""


def test_blocks_and_what_they_print(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert blocks_of(tmp_path / "page.md") == [Block(3, "echo one\n", "one\n"), Block(11, "cd x\n")]


def test_output_without_commands_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE + "Words.\n```text\nlost\n```\n")
    with pytest.raises(AssertionError, match="lost"):
        blocks_of(tmp_path / "page.md")


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb\n", "\na\nb  \n\n", True),
        ("a\n", "a\nb\n", False),
        ("revision …\n", "revision 17\n", True),
        ("revision …\n", "revision 17\nmore\n", False),
        ("a\n…\nd\n", "a\nb\nc\nd\n", True),
        ("a\n…\nd\n", "a\nb\nc\n", False),
        ("1.… s\n", "1x0 s\n", False),
        (None, "whatever\n", True),
    ],
)
def test_an_ellipsis_stands_for_anything_and_the_rest_is_literal(shown: str | None, printed: str, same: bool) -> None:
    assert (Block(1, "c\n", shown).difference(printed) == "") is same
