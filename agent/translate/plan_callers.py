"""Puts together what plans for the several callers of one host make: one set of resources for one Envoy. Pure.

Every caller has clusters, endpoints and route tables of its own (its certificate, the rules and policies that are for
it); listeners are shared, because Envoy finds them by the address that a connection was going to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from agent.flow.table import Table, changed_keys
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, of_caller
from agent.mesh.snapshot import Resource, Resources
from agent.translate.caller_names import SHARED, parsed, under_own_name
from agent.translate.clusters import BLACK_HOLE
from agent.translate.joined_listener import Sources, join
from agent.translate.listeners import VIRTUAL_OUTBOUND
from agent.translate.netfilter import CallerSource
from agent.translate.resolve import Target
from agent.translate.resource import resource
from agent.translate.tcp import tcp_to

_OWN_NAMED = (CLUSTER_TYPE, ENDPOINT_TYPE, ROUTE_TYPE)


class CallerTables:
    """The resources of a host with these callers beside its default one; remembers, so that a change costs itself."""

    def __init__(self, uids: tuple[int, ...]) -> None:
        self.uids = uids
        self._seen: dict[int | None, Resources] = dict.fromkeys((None, *uids), Resources())
        self._tables: dict[str, Table[str, Resource]] = {}

    def resources(self, default: Resources, callers: Mapping[int, Resources]) -> Resources:
        """Return everything together."""
        now: dict[int | None, Resources] = {None: default}
        now.update(callers.items())
        tables = dict(default.by_type)
        for type_url in _OWN_NAMED:
            changes: dict[str, Resource | None] = {}
            for uid, found in now.items():
                for name in self._changed(uid, found, type_url):
                    made = found.of(type_url).get(name)
                    if uid is None:
                        changes[name] = made
                    elif name not in SHARED:
                        own = under_own_name(made, uid) if made is not None else None
                        changes[own.name if own else of_caller(name, uid)] = own
            tables[type_url] = self._changed_table(type_url, changes)
        changed = {name for uid, found in now.items() for name in self._changed(uid, found, LISTENER_TYPE)}
        tables[LISTENER_TYPE] = self._changed_table(
            LISTENER_TYPE, {name: self._listener(name, default, callers) for name in changed}
        )
        self._seen = now
        return Resources(tables)

    def _changed(self, uid: int | None, now: Resources, type_url: str) -> tuple[str, ...]:
        return tuple(changed_keys(self._seen[uid].of(type_url), now.of(type_url)))

    def _changed_table(self, type_url: str, changes: dict[str, Resource | None]) -> Table[str, Resource]:
        self._tables[type_url] = self._tables.get(type_url, Table()).with_changes(changes)
        return self._tables[type_url]

    def _listener(self, name: str, default: Resources, callers: Mapping[int, Resources]) -> Resource | None:
        """Return a listener for everybody; one that the default caller has not got is nobody's."""
        own = default.of(LISTENER_TYPE).get(name)
        if own is None or name == VIRTUAL_OUTBOUND:
            return own
        message, references = parsed(own), set(own.references)
        joined: dict[Sources, Any] = {}
        for uid, found in callers.items():
            made, source = found.of(LISTENER_TYPE).get(name), CallerSource(uid)
            renamed = under_own_name(made, uid) if made is not None else _NOWHERE
            joined[source.v4, source.v6] = parsed(renamed)
            references |= set(renamed.references)
        join(message, joined, _closed())
        references.add((CLUSTER_TYPE, BLACK_HOLE))
        return resource(LISTENER_TYPE, name, message, references)


def _nowhere() -> Resource:
    """Return the listener of a caller who can't have what others have: it would be the default caller's else."""
    message = listener_pb2.Listener(filter_chains=[_closed()])
    return resource(LISTENER_TYPE, BLACK_HOLE, message, [(CLUSTER_TYPE, BLACK_HOLE)])


def _closed() -> Any:
    filters = [tcp_to(BLACK_HOLE, (Target(BLACK_HOLE, 100),))]
    return listener_components_pb2.FilterChain(name=BLACK_HOLE, filters=filters)


_NOWHERE = _nowhere()
