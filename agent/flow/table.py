"""Immutable mappings that remember by which keys they differ from the one that they were made from. Pure.

Who looks at one version after the other so finds a change without comparing everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
_LATELY, _SHARE = 64, 16
"""So many changes, or so large a share of the table, are kept apart from the rest."""


class Table(Mapping[K, V], Generic[K, V]):
    """A mapping that is never changed; `with_changes` makes the next one.

    It shares with the one before what is the same in both, all but what has changed lately: making one costs no time in
    proportion to its size, but now and then.
    """

    __slots__ = ("_base", "_length", "_mark", "_over", "_step")

    def __init__(self, values: Mapping[K, V] | None = None) -> None:
        self._base: dict[K, V] = dict(values or {})
        """Shared with other tables."""
        self._over: dict[K, V | None] = {}
        """What is other than in the base; None: the key is gone."""
        self._length = len(self._base)
        self._mark = object()
        self._step: tuple[object, Set[K]] | None = None
        """The table before (its mark: it may be forgotten) and the keys that are new, changed or gone since."""

    def with_changes(self, changes: Mapping[K, V | None]) -> Table[K, V]:
        """Return the table with these values, None for a key that goes; itself if nothing is another object."""
        real = {key: value for key, value in changes.items() if self.get(key) is not value}
        if not real:
            return self
        result: Table[K, V] = Table()
        result._base, result._over = self._base, {**self._over, **real}
        came = sum(1 for key in real if key not in self)
        gone = sum(1 for value in real.values() if value is None)
        result._length = self._length + came - gone
        if len(result._over) > max(_LATELY, len(self._base) // _SHARE):
            result._united()
        result._step = (self._mark, real.keys())
        return result

    def changed_since(self, before: object) -> Set[K] | None:
        """Return the keys by which it differs from a table; None if it wasn't made from that one."""
        if self._step is not None and isinstance(before, Table) and before._mark is self._step[0]:
            return self._step[1]
        return None

    def __getitem__(self, key: K) -> V:
        value: V | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[K]:
        return iter(self._united())

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: object) -> bool:
        return self._over[key] is not None if key in self._over else key in self._base

    def __eq__(self, other: object) -> bool:
        return other is self or self._united() == (other._united() if isinstance(other, Table) else other)

    def __repr__(self) -> str:
        return f"Table({self._united()!r})"

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of a key."""
        value = self._over[key] if key in self._over else self._base.get(key)
        return default if value is None else value

    def keys(self) -> Any:
        """Return a view of the keys."""
        return self._united().keys()

    def values(self) -> Any:
        """Return a view of the values."""
        return self._united().values()

    def items(self) -> Any:
        """Return a view of the pairs."""
        return self._united().items()

    def _united(self) -> dict[K, V]:
        if self._over:
            united = {**self._base, **self._over}
            self._base = {key: value for key, value in united.items() if value is not None}
            self._over = {}
        return self._base


def changed_keys(before: Mapping[K, V], after: Mapping[K, V]) -> Collection[K]:
    """Return the keys whose value is another object, or which only one of both has.

    It takes no time in proportion to the mappings if the second is a Table made from the first.
    """
    if before is after:
        return ()
    if isinstance(after, Table):
        known: Set[K] | None = after.changed_since(before)
        if known is not None:
            return known
    changed = [key for key, value in after.items() if before.get(key) is not value]
    changed += [key for key in before if key not in after]
    return changed
