"""What of a document can be enforced here: the document without the fields that cannot, and a reason for each. Pure.

A condition that cannot be checked never holds: leaving out only the condition would make its rule match more than the
operator meant. So a match with such a condition goes whole, a route with no other match goes with it, and a document
that is about such a service or caller has no effect at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, structs

from agent.api.envelope import Document
from agent.api.problem import Problem
from agent.api.validate import describe, find_problems, is_invalid

_Step = str | int
_Place = tuple[_Step, ...]
_WHOLE: _Place = ()
"""Stands for the document as a whole."""
_ABOUT = (
    "host",
    "destination",
    "source",
    "workloadSelector",
    "ingressClassName",
    "tlsSecret",
    "targetRef",
    "targetRefs",
)
"""What a document is for or about: without it the document would be about something else."""
_ANNOTATIONS = "metadata.annotations."
_ANSWERS = ("redirect", "directResponse")


class Enforceable(Struct, frozen=True):
    """A document's part that can be enforced."""

    document: Document | None
    """None: nothing of it."""
    reasons: tuple[str, ...]
    """A line for each field that is left out; of an invalid document its problems."""


def enforceable(document: Document) -> Enforceable:
    """Return what of a document can be enforced: all of it, a part, or nothing if it is invalid."""
    problems = find_problems(document)
    if not problems:
        return Enforceable(document, ())
    lines = [describe(document, problem) for problem in problems]
    if is_invalid(problems):
        return Enforceable(None, tuple(lines))
    kept = _kept(document, problems)
    effect = "the rest of it is in force" if kept else "it has no effect"
    return Enforceable(kept, tuple(f"{line}; {effect}" for line in lines))


def _kept(document: Document, problems: Iterable[Problem]) -> Document | None:
    removed = set()
    document, problems = _without_annotations(document, problems)
    for problem in problems:
        steps = _steps(document.spec, problem.path)
        removed.add(_unit(steps) if steps else _WHOLE)
    removed |= {_around(place) for place in removed if place and _all_gone(document.spec, place, removed)}
    if _WHOLE in removed:
        return None
    if not removed:
        return document
    spec = _prune(dict(document.spec), (), removed)
    if not spec:
        return None
    kept = structs.replace(document, spec=spec, lines={})  # its indexes are others now
    return None if find_problems(kept) else kept


def _without_annotations(document: Document, problems: Iterable[Problem]) -> tuple[Document, list[Problem]]:
    """Return the document without the annotations that problems name, and the other problems."""
    named = {problem.path for problem in problems}
    kept = {key: value for key, value in document.annotations.items() if f"{_ANNOTATIONS}{key}" not in named}
    others = [problem for problem in problems if not problem.path.startswith(_ANNOTATIONS)]
    return structs.replace(document, annotations=kept), others


def _steps(spec: Mapping[str, Any], path: str) -> list[_Step]:
    """Return the keys and indexes that a problem's path is made of; empty if there is nothing at that path."""
    rest, steps = path.removeprefix("spec"), list[_Step]()
    value: Any = spec
    if rest == path:
        return []
    while rest:
        step, rest = _next_step(value, rest)
        if step is None:
            return []
        steps.append(step)
        value = value[step]
    return steps


def _next_step(value: Any, rest: str) -> tuple[_Step | None, str]:
    if rest.startswith("["):
        index, _, rest = rest[1:].partition("]")
        return (int(index), rest) if isinstance(value, list) and int(index) < len(value) else (None, "")
    names = [key for key in value if rest[1:] == key or rest[1:].startswith((f"{key}.", f"{key}["))]
    name = max(names, key=len, default=None) if isinstance(value, dict) else None
    return (None, "") if name is None else (name, rest[1 + len(name) :])


def _unit(steps: list[_Step]) -> _Place:
    """Return the smallest part around a field that can be left out without making the rest mean something else."""
    if steps[0] in _ABOUT or steps[0] == "match":
        return _WHOLE
    if steps[0] in ("servers", "jwtRules"):  # half a server would listen for something else, half a rule believe more
        return tuple(steps[:2])
    for position, step in enumerate(steps):
        if step == "match":
            return tuple(steps[: position + 2])
        if step == "route" and "destination" in steps[position:]:
            return tuple(steps[:position])
    return tuple(steps[:-1] if steps[-1] in _ANSWERS and len(steps) > 1 else steps)


def _all_gone(spec: Mapping[str, Any], place: _Place, removed: set[_Place]) -> bool:
    """Tell whether a place is one of a list of alternatives of which none is left."""
    *above, index = place
    if not isinstance(index, int) or above[-1] not in ("match", "hosts", "gateways"):
        return False
    return all((*above, other) in removed for other in range(len(_at(spec, above))))


def _around(place: _Place) -> _Place:
    """Return what has no meaning without any of its alternatives: a route, or the whole document."""
    return place[:-2]


def _at(value: Any, steps: Iterable[_Step]) -> Any:
    for step in steps:
        value = value[step]
    return value


def _prune(value: Any, place: _Place, removed: set[_Place]) -> Any:
    """Return the data without what is removed, and without what that leaves empty."""
    if isinstance(value, dict):
        items = {key: (item, _below(item, (*place, key), removed)) for key, item in value.items()}
        return {key: new for key, (old, new) in items.items() if new is not None or old is None}
    if isinstance(value, list):
        items_of_list = [_below(item, (*place, index), removed) for index, item in enumerate(value)]
        return [item for item in items_of_list if item is not None]
    return value


def _below(item: Any, place: _Place, removed: set[_Place]) -> Any:
    """Return an item pruned, or None if it is removed or has become empty."""
    if place in removed:
        return None
    pruned = _prune(item, place, removed)
    return None if isinstance(pruned, dict | list) and not pruned and item else pruned
