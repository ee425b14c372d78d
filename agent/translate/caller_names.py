"""Resources of one caller beside those of others in one Envoy: the same messages under names of their own. Pure.

What a plan makes is about one caller; where a host has several, clusters, endpoints and route tables of all but the
default one get names of their own. Secrets, and where connections to the unknown go, are everybody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, of_caller
from agent.mesh.snapshot import Reference, Resource
from agent.translate.clusters import BLACK_HOLE, PASSTHROUGH
from agent.translate.resource import resource, serialized

SHARED = frozenset({PASSTHROUGH, BLACK_HOLE})
_NAMED_BY_CLUSTER = (CLUSTER_TYPE, ENDPOINT_TYPE)
_MESSAGES = {
    type_url: message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName(type_url.removeprefix("type.googleapis.com/"))
    )
    for type_url in (CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE)
}


def parsed(made: Resource) -> Any:
    """Return the resource's message."""
    return _MESSAGES[made.type_url].FromString(made.value)


def under_own_name(made: Resource, uid: int) -> Resource:
    """Return the resource with the caller's names in place of the default caller's; a listener keeps its own name."""
    message = parsed(made)
    mine = (made.type_url, made.name)
    clusters = {
        name: of_caller(name, uid)
        for type_url, name in {*made.references, mine}
        if type_url in _NAMED_BY_CLUSTER and name not in SHARED
    }
    tables = {name: of_caller(name, uid) for type_url, name in {*made.references, mine} if type_url == ROUTE_TYPE}
    _Renaming(clusters, tables).apply(message)
    if made.type_url == ROUTE_TYPE:
        message.name = tables[made.name]
    name = {CLUSTER_TYPE: clusters, ENDPOINT_TYPE: clusters, ROUTE_TYPE: tables}.get(made.type_url, {})
    references = {_reference(it, uid) for it in made.references}
    return resource(made.type_url, name.get(made.name, made.name), message, references)


def _reference(reference: Reference, uid: int) -> Reference:
    type_url, name = reference
    is_own = type_url in (CLUSTER_TYPE, ENDPOINT_TYPE, ROUTE_TYPE) and name not in SHARED
    return (type_url, of_caller(name, uid)) if is_own else reference


class _Renaming:
    """Renames wherever messages name clusters (no other text looks like `outbound|…`) and route tables."""

    def __init__(self, clusters: Mapping[str, str], tables: Mapping[str, str]) -> None:
        self._clusters = clusters
        self._tables = tables

    def apply(self, message: Message) -> None:
        """Rename in a message and all that it holds."""
        if isinstance(message, AnyMessage):
            self._apply_packed(message)
            return
        for field, value in message.ListFields():
            names = self._tables if field.name == "route_config_name" else self._clusters
            if isinstance(value, str):
                if value in names:
                    setattr(message, field.name, names[value])
            elif isinstance(value, Message):
                self.apply(value)
            elif field.message_type is not None and field.message_type.GetOptions().map_entry:
                self._apply_each(value.values())
            elif field.message_type is not None:
                self._apply_each(value)
            elif field.type == field.TYPE_STRING:
                value[:] = [names.get(text, text) for text in value]

    def _apply_each(self, values: Any) -> None:
        for value in values:
            if isinstance(value, Message):
                self.apply(value)

    def _apply_packed(self, packed: Any) -> None:
        try:
            found = descriptor_pool.Default().FindMessageTypeByName(packed.TypeName())
        except KeyError:
            return  # a type of another file than those that the plan is made with: it names nothing of ours
        inner = message_factory.GetMessageClass(found).FromString(packed.value)
        self.apply(inner)
        packed.value = serialized(inner)
