"""Immutable mappings in order of their keys, in blocks that one version shares with the next. Pure.

So a change costs the block that it falls into, and so does what is made of all values, if it is put together from what
is made of each block.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
_MOST = 128
"""Pairs of a block: as many as there are blocks in a mapping of ten thousands."""


class Block(Generic[K, V]):
    """Some pairs that follow each other; at least one."""

    __slots__ = ("_made", "keys", "values")

    def __init__(self, keys: tuple[K, ...], values: tuple[V, ...]) -> None:
        self.keys = keys
        self.values = values
        self._made: tuple[Any, Any] = (None, None)

    def made(self, of: Callable[[tuple[V, ...]], T]) -> T:
        """Return a function of the values, computed once: it may depend on nothing else; always the same object."""
        if self._made[0] is not of:
            self._made = of, of(self.values)
        result: T = self._made[1]
        return result


class Ordered(Mapping[K, V], Generic[K, V]):
    """A mapping in order of its keys that is never changed; `with_changes` makes the next one."""

    __slots__ = ("_firsts", "_length", "blocks")

    def __init__(self, blocks: tuple[Block[K, V], ...] = ()) -> None:
        self.blocks = blocks
        self._firsts = [block.keys[0] for block in blocks]
        self._length = sum([len(block.keys) for block in blocks])

    def with_changes(self, changes: Mapping[K, V | None]) -> Ordered[K, V]:
        """Return the mapping with these values, None for a key that goes."""
        by_block: dict[int, dict[K, V | None]] = {}
        for key, value in changes.items():
            by_block.setdefault(self._block(key), {})[key] = value
        blocks = list(self.blocks)
        for number in sorted(by_block, reverse=True):
            blocks[number : number + 1] = _changed(blocks[number] if blocks else None, by_block[number])
        return Ordered(tuple(blocks))

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key."""
        if self.blocks:
            block = self.blocks[self._block(key)]
            place = bisect_left(block.keys, key)
            if place < len(block.keys) and block.keys[place] == key:
                return block.values[place]
        return default

    def __getitem__(self, key: K) -> V:
        value: V | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None

    def __iter__(self) -> Iterator[K]:
        return (key for block in self.blocks for key in block.keys)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Ordered({dict(self.items())!r})"

    def values(self) -> Any:
        """Return the values in order of their keys."""
        return tuple([value for block in self.blocks for value in block.values])

    def items(self) -> Any:
        """Return the pairs in order."""
        return tuple([pair for block in self.blocks for pair in zip(block.keys, block.values, strict=True)])

    def _block(self, key: Any) -> int:
        """Return the number of the block that has the key, or would have it."""
        return max(0, bisect_right(self._firsts, key) - 1)


def _changed(block: Block[K, V] | None, changes: Mapping[K, V | None]) -> list[Block[K, V]]:
    """Return what comes in the place of a block."""
    pairs: dict[Any, V | None] = dict(zip(block.keys, block.values, strict=True)) if block else {}
    count = len(pairs)
    pairs.update(changes)
    keys = list(pairs) if len(pairs) == count else sorted(pairs)
    keys = [key for key in keys if pairs[key] is not None]
    size = len(keys) if len(keys) <= _MOST else _MOST // 2
    return [_block(keys[start : start + size], pairs) for start in range(0, len(keys), size or 1)]


def _block(keys: list[K], pairs: Mapping[K, Any]) -> Block[K, V]:
    return Block(tuple(keys), tuple([pairs[key] for key in keys]))
