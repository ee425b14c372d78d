"""Immutable mappings that remember by which keys they differ from the one that they were made from. Pure.

Who looks at one version after the other so finds a change without comparing everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Table(Mapping[K, V], Generic[K, V]):
    """A mapping that is never changed; `with_changes` makes the next one."""

    __slots__ = ("_mark", "_step", "_values")

    def __init__(self, values: Mapping[K, V] | None = None) -> None:
        self._values: dict[K, V] = dict(values or {})
        self._mark = object()
        self._step: tuple[object, Set[K]] | None = None
        """The table before (its mark: it may be forgotten) and the keys that are new, changed or gone since."""

    def with_changes(self, changes: Mapping[K, V | None]) -> Table[K, V]:
        """Return the table with these values, None for a key that goes; itself if nothing is another object."""
        real = {key: value for key, value in changes.items() if self._values.get(key) is not value}
        if not real:
            return self
        result = Table(self._values)
        for key, value in real.items():
            if value is None:
                del result._values[key]
            else:
                result._values[key] = value
        result._step = (self._mark, real.keys())
        return result

    def updated_to(self, values: Mapping[K, V]) -> Table[K, V]:
        """Return the table with just these values; itself if all of them are the same objects."""
        return self.with_changes({key: values.get(key) for key in changed_keys(self, values)})

    def changed_since(self, before: object) -> Set[K] | None:
        """Return the keys by which it differs from a table; None if it wasn't made from that one."""
        if before is self:
            return frozenset()
        if self._step is not None and isinstance(before, Table) and before._mark is self._step[0]:
            return self._step[1]
        return None

    def __getitem__(self, key: K) -> V:
        return self._values[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __eq__(self, other: object) -> bool:
        return other is self or self._values == (other._values if isinstance(other, Table) else other)

    def __repr__(self) -> str:
        return f"Table({self._values!r})"

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of a key."""
        return self._values.get(key, default)

    def keys(self) -> Any:
        """Return a view of the keys."""
        return self._values.keys()

    def values(self) -> Any:
        """Return a view of the values."""
        return self._values.values()

    def items(self) -> Any:
        """Return a view of the pairs."""
        return self._values.items()


def changed_keys(before: Mapping[K, V], after: Mapping[K, V]) -> Collection[K]:
    """Return the keys whose value is another object, or which only one of both has.

    It takes no time in proportion to the mappings if the second is a Table made from the first.
    """
    if isinstance(after, Table):
        known: Set[K] | None = after.changed_since(before)
        if known is not None:
            return known
    changed = [key for key, value in after.items() if before.get(key) is not value]
    changed += [key for key in before if key not in after]
    return changed
