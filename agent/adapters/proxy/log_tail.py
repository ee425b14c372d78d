"""Why Envoy died, from the end of its log. Envoy's log format is the default one."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TAIL_BYTES = 65536
_LONGEST = 300
PREFIX = re.compile(
    r"^\[\d{4}-\d\d-\d\d [\d:.]+\]\[(?P<thread>\d+)\]\[(?P<level>\w+)\]\[(?P<component>\w+)\] (\[[^\]]*\] )?"
)
"""Of a line of Envoy's log, up to the message."""


def last_error(log_file: Path | None, since: int) -> str:
    """Return Envoy's own last error line, without time and source, or "" if there is none.

    since is the log's size when that Envoy started, bytes.
    """
    lines = _tail(log_file, since) if log_file else []
    if lines and not PREFIX.match(lines[-1]):
        return lines[-1][:_LONGEST]  # what Envoy prints on stderr when it gives up on its configuration
    for level in ("critical", "error"):
        for line in lines:
            if (match := PREFIX.match(line)) and match["level"] == level:
                return line[match.end() :][:_LONGEST]
    return ""


def _tail(log_file: Path, since: int) -> list[str]:
    try:
        with log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    # Protobuf's error texts have spaces doubled at random, on purpose; as they are, no two would be equal.
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]
