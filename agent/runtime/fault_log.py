"""Tells the log what became wrong and what is right again, each once."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from agent.mesh.routes import Fault
from agent.runtime.log_setup import FIELDS

log = logging.getLogger(__name__)

MAX_LINES = 20
"""A thousand bad keys at once are shown by their first ones; `hostmesh proxy-status` has more."""


class FaultLog:
    """Remembers which faults the log has been told."""

    def __init__(self) -> None:
        self._told: dict[Fault, None] = {}

    def note(self, faults: Iterable[Fault]) -> None:
        """Log what is new and what is over since the last call."""
        present = dict.fromkeys(faults)
        if present.keys() == self._told.keys():
            return
        _tell(logging.WARNING, "fault: %s: %s", [fault for fault in present if fault not in self._told])
        subjects = {fault.subject for fault in present}
        _tell(logging.INFO, "in order again: %s (%s)", [f for f in self._told if f.subject not in subjects])
        self._told = present


def _tell(level: int, text: str, faults: list[Fault]) -> None:
    for fault in faults[:MAX_LINES]:
        fields = {"HOSTMESH_SUBJECT": fault.subject, "HOSTMESH_REASON": fault.reason}
        log.log(level, text, fault.subject, fault.reason, extra={FIELDS: fields})
    if len(faults) > MAX_LINES:
        log.log(level, "… and %d more of the same kind", len(faults) - MAX_LINES)
