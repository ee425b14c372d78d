"""The agent's log: lines on stderr, or entries with fields of their own in systemd's journal where that is stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
FIELDS = "journal"
"""`log.info(…, extra={FIELDS: {"HOSTMESH_SUBJECT": …}})` adds fields to the entry (systemd.journal-fields(7))."""


def set_up_log(level: str) -> None:
    """Log from this level on."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes to stderr past every setting of ours
    handler: logging.Handler
    if _stderr_is_the_journal():
        from systemd import journal

        handler = JournalHandler(journal.send)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("grpc").setLevel(logging.WARNING)
    logging.getLogger("envoy").setLevel(logging.DEBUG)  # what Envoy says is Envoy's log level's to decide
    for name in ("entries", "access"):  # and what rules want to be logged is theirs
        logging.getLogger(name).setLevel(logging.DEBUG)
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Log from another level on; may be called at any time."""
    logging.getLogger().setLevel(level.upper())


class JournalHandler(logging.Handler):
    """Gives each record to the journal, with its fields."""

    def __init__(self, send: Callable[..., object]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record; what goes wrong with the journal is no reason to fail."""
        try:
            self._send(**entry(record))
        except Exception:  # noqa: BLE001 (as every handler of logging)
            self.handleError(record)


def entry(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the fields of a record's entry."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    fields: dict[str, Any] = {
        "MESSAGE": text,
        "PRIORITY": str(_PRIORITIES.get(record.levelno, 6)),
        "SYSLOG_IDENTIFIER": "hostmesh-agent",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
    }
    return fields | getattr(record, FIELDS, {})


def _stderr_is_the_journal() -> bool:
    """Tell whether systemd connected stderr to the journal, and nobody has led it elsewhere since (systemd.exec(5))."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
