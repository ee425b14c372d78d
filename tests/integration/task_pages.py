"""The pages of docs/tasks as data: blocks of commands, and what the page says they print. Runs nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "tasks"
INDEX = FOLDER / "README.md"
ANYTHING = "…"

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"^\| \[[^]]+\]\(([\w-]+\.md)\)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Commands of a page, with the number of their first line."""

    line: int
    commands: str
    printed: str | None = None
    """What the page shows after them; None: nothing is said."""

    def difference(self, output: str) -> str:
        """Return what differs, "" if the output is what the page shows."""
        lines = [line.rstrip() for line in output.strip("\n").splitlines()]
        if self.printed is None or re.fullmatch(_pattern(self.printed), "".join(f"{line}\n" for line in lines)):
            return ""
        return f"line {self.line}:\n{self.commands}the page shows:\n{self.printed}it printed:\n{output}"


def pages() -> list[Path]:
    """Return the pages in the order of the index."""
    return [FOLDER / name for name in _LINK.findall(INDEX.read_text())]


def blocks_of(page: Path) -> list[Block]:
    """Return a page's blocks of commands; an output block belongs to the commands just before it."""
    text = page.read_text()
    blocks: list[Block] = []
    end = 0
    for found in _FENCED.finditer(text):
        kind, body = found.groups()
        if kind == "bash":
            blocks.append(Block(text.count("\n", 0, found.start()) + 2, body))
        elif kind == "text":
            assert text[end : found.start()].strip() == "", f"{page.name}: output without commands: {body}"
            blocks[-1] = Block(blocks[-1].line, blocks[-1].commands, body)
        else:
            raise AssertionError(f"{page.name}: a block of {kind}: neither commands (bash) nor output (text)")
        end = found.end()
    return blocks


def _pattern(shown: str) -> str:
    """Return the expression: `…` in a line is any part of it, as a line of its own any lines."""
    return "".join(r"(?:.*\n)*" if line == ANYTHING else _line_pattern(line) for line in shown.splitlines())


def _line_pattern(line: str) -> str:
    return ".*".join(map(re.escape, line.rstrip().split(ANYTHING))) + r"\n"
