"""The planner's memory: results of pure functions by key, forgotten when a plan no longer asks for them. Pure.

May never change a result: dropping the whole memo only makes the next plan slower.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from agent.mesh.snapshot import Resource

T = TypeVar("T")


class Memo:
    """Keeps each key's newest inputs and result; a generation is one plan."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[tuple[Any, ...], Any]] = {}
        self._now: dict[Hashable, tuple[tuple[Any, ...], Any]] = {}

    def begin(self) -> None:
        """Start a plan; what an unfinished one left behind is dropped."""
        self._now = {}

    def finish(self) -> None:
        """End a plan: keep what it asked for, forget the rest."""
        self._last, self._now = self._now, {}

    def get(self, key: Hashable, inputs: tuple[Any, ...], build: Callable[..., T]) -> T:
        """Return build(*inputs), or the last plan's result if the inputs are equal.

        A new result that equals the last one is given up for it, so that what is made from it can be reused in turn.
        (Comparing tuples looks at identity first: unchanged immutable inputs cost nothing.)
        """
        last = self._last.get(key)
        if last is not None and last[0] == inputs:
            self._now[key] = last
            return last[1]  # type: ignore[no-any-return]  # stored by this method for this key
        result = build(*inputs)
        if last is not None:
            result = _reuse(last[1], result)
        self._now[key] = (inputs, result)
        return result


def _reuse(last: Any, result: Any) -> Any:
    """Return the old object where it equals the new one; of a tuple of resources, each that is unchanged."""
    if last == result:
        return last
    if isinstance(result, tuple) and result and isinstance(result[0], Resource):
        known = {resource.name: resource for resource in last}
        return tuple(known[new.name] if known.get(new.name) == new else new for new in result)
    return result
