"""The audit log: one JSON line for each issue, token and refusal. Never a secret, never unbounded input."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_LOG = logging.getLogger("hostmesh.ca.audit")


def audit(event: str, **fields: str | int) -> None:
    """Log an event with its fields."""
    _LOG.info(event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """Formats any record, audit or not, as one JSON line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time (UTC), level, logger, event or message, and the event's fields."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
