"""What a check says: how bad it is, what was found, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from agent.config import Config
from agent.mesh.status import NodeStatus


class Level(StrEnum):
    """How bad it is; the worst decides the exit code."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(Struct, frozen=True):
    """One line of the table."""

    check: str
    level: Level
    found: str
    mend: str = ""


class Patient(Struct, frozen=True):
    """The host that is looked at."""

    config: Config
    status: NodeStatus | None
    """What its agent says of itself; None: no agent answers."""


Findings = Iterator[Finding]


def ok(check: str, found: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, mend: str) -> Finding:
    """Return a finding that something may be wrong, or is less than it could be."""
    return Finding(check, Level.WARNING, found, mend)


def error(check: str, found: str, mend: str) -> Finding:
    """Return a finding that something does not work."""
    return Finding(check, Level.ERROR, found, mend)
