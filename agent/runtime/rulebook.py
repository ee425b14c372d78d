"""The rule objects as they stand in KV: each parsed once per change, each with its last good form."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.api.document import Document, from_json
from agent.api.problem import Verdict
from agent.api.validate import describe, find_problems
from agent.errors import ValidationError
from agent.mesh.routes import Fault


class _Entry(Struct, frozen=True):
    modify_index: int
    document: Document | None
    """The last good form; None if there never was one since this agent started."""
    problem: str | None


class RuleBook:
    """Turns KV values into documents; one bad value costs only itself."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def update(self, values: Mapping[str, tuple[int, bytes]]) -> None:
        """Take over the whole content of hostmesh/config/: KV key → (modify index, value)."""
        self._entries = {key: self._entry(key, index, value) for key, (index, value) in values.items()}

    def _entry(self, key: str, modify_index: int, value: bytes) -> _Entry:
        known = self._entries.get(key)
        if known is not None and known.modify_index == modify_index:
            return known
        try:
            document = from_json(key, value)
        except ValidationError as error:
            return _Entry(modify_index, known.document if known else None, error.problems[0])
        # What is correct but not enforceable here is the lowering's business: the rest of the document is in force.
        problems = find_problems(document)
        wrong = next((problem for problem in problems if problem.verdict is Verdict.INVALID), None)
        if wrong is not None:
            return _Entry(modify_index, known.document if known else None, describe(document, wrong))
        return _Entry(modify_index, document, None)

    @property
    def documents(self) -> list[Document]:
        """Return the usable documents, ordered by KV key."""
        return [entry.document for _, entry in sorted(self._entries.items()) if entry.document is not None]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return one fault for each key that cannot be used."""
        return tuple(_fault(key, entry) for key, entry in sorted(self._entries.items()) if entry.problem is not None)


def _fault(key: str, entry: _Entry) -> Fault:
    serving = "its last good form serves on" if entry.document else "it has no effect"
    assert entry.problem is not None
    return Fault(key, f"{entry.problem.removeprefix(f'{key}: ')}; {serving}"[:500])
