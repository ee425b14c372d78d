"""What of a flow's nodes is wanted as something else: in parts, as a table, as one list. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, TypeVar

from agent.flow.stage import Flow, Node
from agent.flow.table import Table

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
E = TypeVar("E")


class Parts(Generic[K, V]):
    """The keys of a node, apart by a property of their values."""

    def __init__(self, flow: Flow, node: Node[K, V], by: Callable[[V], Hashable]) -> None:
        self._flow = flow
        self._by = by
        self._parts: dict[Hashable, Node[K, V]] = {}
        node.tell(self._take)

    def __getitem__(self, name: Hashable) -> Node[K, V]:
        """Return the node of the values with that property."""
        return self._parts.setdefault(name, Node(self._flow))

    def _take(self, key: K, old: V | None, value: V | None) -> None:
        was, now = (None if each is None else self._by(each) for each in (old, value))
        if old is not None and was != now:
            self[was].put(key, None)
        if value is not None:
            self[now].put(key, value)


class Tabled(Generic[K, V]):
    """A node's values as a Table."""

    def __init__(self, node: Node[K, V]) -> None:
        self._table: Table[K, V] = Table()
        self._due: dict[K, V | None] = {}
        node.tell(self._take)

    def table(self) -> Table[K, V]:
        """Return the values as they are now; the same object as long as they are."""
        due, self._due = self._due, {}
        self._table = self._table.with_changes(due)
        return self._table

    def _take(self, key: K, _old: V | None, value: V | None) -> None:
        self._due[key] = value


class Tally(Generic[E]):
    """All elements of lists that values hold, each once."""

    def __init__(self) -> None:
        self._counts: dict[E, int] = {}
        self._sorted: tuple[E, ...] | None = ()

    def count(self, node: Node[Any, Any], of: Callable[[Any], Iterable[E]]) -> None:
        """Count the elements of that node's values, too."""

        def take(_key: Hashable, old: Any, value: Any) -> None:
            self._add(of(value) if value is not None else (), 1)
            self._add(of(old) if old is not None else (), -1)

        node.tell(take)

    def elements(self) -> tuple[E, ...]:
        """Return the elements in order; the same object as long as they are the same."""
        if self._sorted is None:
            self._sorted = tuple(sorted(self._counts))  # type: ignore[type-var]  # whoever counts gives what can be sorted
        return self._sorted

    def _add(self, elements: Iterable[E], number: int) -> None:
        for element in elements:
            count = self._counts.get(element, 0) + number
            if count == 0:
                del self._counts[element]
                self._sorted = None
            else:
                if count == number:
                    self._sorted = None
                self._counts[element] = count
