"""The rule objects as they stand in KV: each parsed once per change, each with its last good form."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.api.document import Document, from_json
from agent.api.problem import Verdict
from agent.api.validate import describe, find_problems
from agent.errors import ValidationError
from agent.flow.table import Table, changed_keys
from agent.mesh.routes import Fault


class _Entry(Struct, frozen=True):
    modify_index: int
    document: Document | None
    """The last good form; None if there never was one since this agent started."""
    problem: str | None


class RuleBook:
    """Turns KV values into documents; one bad value costs only itself."""

    def __init__(self) -> None:
        self._values: Mapping[str, tuple[int, bytes]] = {}
        self._entries: dict[str, _Entry] = {}
        self._faults: dict[str, Fault] = {}
        self.documents: Table[str, Document] = Table()
        """The usable documents by KV key."""

    def update(self, values: Mapping[str, tuple[int, bytes]]) -> None:
        """Take over the whole content of hostmesh/config/: KV key → (modify index, value).

        A Table made from that of the last call is not even walked through.
        """
        before, self._values = self._values, values
        known, fresh, gone = self._entries, dict[str, _Entry](), list[str]()
        for key in changed_keys(before, values):
            found, entry = values.get(key), known.get(key)
            if found is None:
                gone.append(key)
            elif entry is None or entry.modify_index != found[0]:
                fresh[key] = self._entry(key, *found)
        for key in (*fresh, *gone):
            self._faults.pop(key, None)
        for key in gone:
            del known[key]
        for key, entry in fresh.items():
            known[key] = entry
            if entry.problem is not None:
                self._faults[key] = _fault(key, entry.problem, entry.document is not None)
        self.documents = self.documents.with_changes(
            {**{key: entry.document for key, entry in fresh.items()}, **dict.fromkeys(gone)}
        )

    def _entry(self, key: str, modify_index: int, value: bytes) -> _Entry:
        known = self._entries.get(key)
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
    def faults(self) -> tuple[Fault, ...]:
        """Return one fault for each key that cannot be used."""
        return tuple(fault for _, fault in sorted(self._faults.items()))


def _fault(key: str, problem: str, has_good_form: bool) -> Fault:
    serving = "its last good form serves on" if has_good_form else "it has no effect"
    return Fault(key, f"{problem.removeprefix(f'{key}: ')}; {serving}"[:500])
