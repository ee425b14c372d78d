"""The resources that the nodes of a plan make, as one table per type, and what in them refers to nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from agent.flow.stage import Node
from agent.flow.table import Table
from agent.mesh.names import XDS_ORDER
from agent.mesh.snapshot import Resource, Resources

_Owner = tuple[int, Any]
"""Which node, and which of its keys."""


class ResourceTables:
    """Collects what nodes make; a resource that is made anew and is equal stays the same object."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], dict[_Owner, Resource]] = {}
        """(Type URL, name) → what is made under this name: of several the last owner's counts."""
        self._due: set[tuple[str, str]] = set()
        self._tables: dict[str, Table[str, Resource]] = {type_url: Table() for type_url in XDS_ORDER}
        self._nodes = 0

    def collect(self, node: Node[Any, Any], of: Callable[[Any], Iterable[Resource]]) -> None:
        """Collect what that node's values hold, too."""
        self._nodes += 1
        number = self._nodes

        def take(key: Hashable, old: Any, value: Any) -> None:
            owner = (number, key)
            now = {(made.type_url, made.name): made for made in of(value)} if value is not None else {}
            for made in of(old) if old is not None else ():
                if (made.type_url, made.name) not in now:
                    self._drop((made.type_url, made.name), owner)
            for name, made in now.items():
                self._add(name, owner, made)

        node.tell(take)

    def resources(self) -> Resources:
        """Return the tables as they are now."""
        changes: dict[str, dict[str, Resource | None]] = {}
        for type_url, name in self._due:
            made = self._made.get((type_url, name))
            changes.setdefault(type_url, {})[name] = made[max(made)] if made else None
        self._due = set()
        for type_url, of_type in changes.items():
            self._tables[type_url] = self._tables[type_url].with_changes(of_type)
        return Resources(dict(self._tables))

    def _add(self, name: tuple[str, str], owner: _Owner, made: Resource) -> None:
        owners = self._made.setdefault(name, {})
        if owners.get(owner) != made:
            owners[owner] = made
            self._due.add(name)

    def _drop(self, name: tuple[str, str], owner: _Owner) -> None:
        owners = self._made[name]
        del owners[owner]
        if not owners:
            del self._made[name]
        self._due.add(name)
