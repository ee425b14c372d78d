"""The resources that the nodes of a plan make, as one table per type, and what in them refers to nothing. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any

from agent.flow.stage import Node
from agent.flow.table import Table
from agent.mesh.names import XDS_ORDER
from agent.mesh.snapshot import GroupedReferences, Resource, Resources

_Owner = tuple[int, Any]
"""Which node, and which of its keys."""


_Name = tuple[str, str]
"""Type URL and name of a resource."""


class ResourceTables:
    """Collects what nodes make; a resource that is made anew and is equal stays the same object."""

    def __init__(self) -> None:
        self._made: dict[_Name, dict[_Owner, Resource]] = {}
        """What is made under this name: of several the last owner's counts."""
        self._due: set[_Name] = set()
        self._tables: dict[str, Table[str, Resource]] = {type_url: Table() for type_url in XDS_ORDER}
        self._nodes = 0
        self._references = _References()

    def collect(self, node: Node[Any, Any], of: Callable[[Any], Iterable[Resource]]) -> None:
        """Collect what that node's values hold, too."""
        self._nodes += 1
        number = self._nodes

        def take(key: Hashable, old: Any, value: Any) -> None:
            owner = (number, key)
            now = {(made.type_url, made.name): made for made in of(value)} if value is not None else {}
            before = {(made.type_url, made.name) for made in of(old)} if old is not None else set()
            for name in before - now.keys():
                self._drop(name, owner)
            for name, made in now.items():
                self._add(name, owner, made)

        node.tell(take)

    def resources(self) -> Resources:
        """Return the tables as they are now."""
        changes: dict[str, dict[str, Resource | None]] = {}
        for type_url, name in self._due:
            owners = self._made.get((type_url, name))
            made, known = owners[max(owners)] if owners else None, self._tables[type_url].get(name)
            made = known if made == known else made
            self._references.change((type_url, name), known, made)
            changes.setdefault(type_url, {})[name] = made
        self._due = set()
        for type_url, of_type in changes.items():
            self._tables[type_url] = self._tables[type_url].with_changes(of_type)
        return Resources(dict(self._tables))

    def dangling(self) -> tuple[str, ...]:
        """Return what `dangling()` says of the tables that were returned last, in order."""
        return self._references.dangling()

    def _add(self, name: _Name, owner: _Owner, made: Resource) -> None:
        owners = self._made.setdefault(name, {})
        if owners.get(owner) != made:
            owners[owner] = made
            self._due.add(name)

    def _drop(self, name: _Name, owner: _Owner) -> None:
        owners = self._made[name]
        del owners[owner]
        if not owners:
            del self._made[name]
        self._due.add(name)


class _References:
    """Who refers to what, so that a change costs what it changes."""

    def __init__(self) -> None:
        self._referring: dict[_Name, dict[_Name, int]] = {}
        """Name → the resources that refer to it, with how many of their groups."""
        self._existing: set[_Name] = set()
        self._missing: set[_Name] = set()

    def change(self, name: _Name, old: Resource | None, new: Resource | None) -> None:
        """Take a resource in the place of another one; None: there is none."""
        before, after = (GroupedReferences.of(each.references if each else ()).groups for each in (old, new))
        for group in after - before:
            for other in group:
                self._count(other, name, 1)
        for group in before - after:
            for other in group:
                self._count(other, name, -1)
        if new is not None:
            self._existing.add(name)
            self._missing.discard(name)
        else:
            self._existing.discard(name)
            if name in self._referring:
                self._missing.add(name)

    def _count(self, name: _Name, referring: _Name, number: int) -> None:
        groups = self._referring.setdefault(name, {})
        groups[referring] = groups.get(referring, 0) + number
        if groups[referring] == 0:
            del groups[referring]
        if groups and name not in self._existing:
            self._missing.add(name)
        elif not groups:
            del self._referring[name]
            self._missing.discard(name)

    def dangling(self) -> tuple[str, ...]:
        if not self._missing:
            self._missing = set()  # one that once held thousands would be walked through like that for ever
        lines = (
            f"{referring}: refers to {name}, which does not exist"
            for type_url, name in self._missing
            for _, referring in self._referring[type_url, name]
        )
        return tuple(sorted(lines))
