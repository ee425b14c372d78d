"""Puts what AUDIT policies and dry runs tell into the agent's log, with fields of its own in systemd's journal."""

from __future__ import annotations

import logging
from pathlib import Path

from agent.adapters.proxy.log_follow import EnvoyLog, tell_as_envoy
from agent.runtime.log_setup import FIELDS
from agent.translate.decisions import Decision

_log = logging.getLogger("policy")


def decision_log(path: Path, place: Path) -> EnvoyLog:
    """Return the follower of the file that Envoy writes them to."""
    return EnvoyLog(path, place, tell)


def tell(line: str) -> None:
    """Log one line."""
    decision = Decision.from_line(line)
    if decision is None:
        tell_as_envoy(line)
    else:
        _log.info("%s", decision.text, extra={FIELDS: decision.fields})
