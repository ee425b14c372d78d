"""Lists that Mixer's rules look values up on, as their sources write them: one entry a line. Pure."""

from __future__ import annotations

from agent.api.checks import addresses
from agent.api.checks.regex import re2_problem
from agent.mesh.mixer import ListKind
from agent.mesh.mixer_vocabulary import SCHEME

MAX_ENTRIES = 10_000
"""Of what is fetched: each of a workload's filter chains has it, and Envoy looks through it at each request."""


def read_list(text: str, kind: ListKind) -> tuple[str, ...]:
    """Return the entries; raises ValueError, with the line, for one that is no entry of such a list."""
    entries = dict[str, None]()
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.strip()
        if not entry:
            continue
        wrong = _problem(entry, kind)
        if wrong:
            raise ValueError(f"line {number}: {wrong}")
        entries[entry.removeprefix(SCHEME) if kind is ListKind.STRINGS else entry] = None
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"has more than {MAX_ENTRIES} entries")
    return tuple(entries)


def _problem(entry: str, kind: ListKind) -> str | None:
    match kind:
        case ListKind.IP_ADDRESSES:
            return addresses.subnet(entry)
        case ListKind.REGEX:
            return re2_problem(entry)
    return "has a character that is not printed" if not entry.isprintable() else None
