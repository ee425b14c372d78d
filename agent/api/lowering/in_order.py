"""Documents in order of namespace and name, and nodes that have all of a kind as one value. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TypeVar

from agent.flow.stage import Flow, Gathered, Node, Stage

T = TypeVar("T")
ALL = ""
"""The one key of what is one value."""


def united(flow: Flow, *nodes: Node[str, T]) -> Stage[str, tuple[T, ...]]:
    """Return the node of one value: all of these nodes', in order of namespace and name."""
    gathered: Gathered[str, str, T] = Gathered(flow, nodes, lambda _, value: {ALL: value})
    return Stage(flow, gathered, lambda key: tuple(in_order(gathered[key])))


def in_order(by_document: Mapping[str, T]) -> Iterator[T]:
    """Return what documents say in order of namespace and name, then kind."""
    return (value for _, value in sorted(by_document.items(), key=lambda pair: _order(pair[0])))


@lru_cache(maxsize=65_536)  # asked for every document of a kind whenever one changes
def _order(key: str) -> tuple[str, str, str]:
    *_, namespace, kind, name = key.split("/")
    return namespace, name, kind
