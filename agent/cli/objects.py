"""Rule documents between the command line and the store; what was done comes back as istioctl's lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.adapters.consul.store import RuleStore, Written
from agent.api.document import Document, from_json, to_json
from agent.api.kinds import Kind, kind_named
from agent.cli.connection import Connection
from agent.cli.kinds import dashed
from agent.errors import PartialWrite, ValidationError
from agent.mesh.names import KV_CONFIG, config_key
from agent.mesh.routes import ObjectRef

_VERBS = {"created": "Created", "replaced": "Updated", "unchanged": "Unchanged", "deleted": "Deleted"}


def list_objects(
    connection: Connection, kinds: Iterable[Kind], namespace: str | None
) -> tuple[list[Document], list[str]]:
    """Return the stored objects of these kinds (namespace None: of all), and a line for each key that holds none."""
    wanted = {kind.name for kind in kinds}
    prefix = f"{KV_CONFIG}{namespace}/" if namespace else KV_CONFIG
    documents: list[Document] = []
    problems: list[str] = []
    for stored in RuleStore(connection.consul()).list(prefix):
        try:
            document = from_json(stored.key, stored.value)
        except ValidationError as error:
            problems += error.problems
            continue
        if document.kind in wanted:
            documents.append(document)
    return sorted(documents, key=lambda document: (document.namespace, document.kind, document.name)), problems


def write_objects(connection: Connection, verb: str, documents: Sequence[Document]) -> list[str]:
    """Write with the store's method of that name (create, replace, apply) and return a line for each object."""
    store = RuleStore(connection.consul())
    write = {"create": store.create, "replace": store.replace, "apply": store.apply}[verb]
    return [_line(written) for written in write({document.key: to_json(document) for document in documents})]


def delete_objects(connection: Connection, refs: Iterable[ObjectRef]) -> list[str]:
    """Delete the objects and return a line for each."""
    keys = [config_key(ref.namespace, ref.kind, ref.name) for ref in refs]
    return [_line(written) for written in RuleStore(connection.consul()).delete(keys)]


def partial_lines(error: PartialWrite) -> list[str]:
    """Return a line for each object that was written before the rest failed."""
    return [f"Done: config {_config_name(key)}" for key in error.written]


def _line(written: Written) -> str:
    name = _config_name(written.key)
    if written.action == "deleted":
        return f"Deleted config: {name}"
    if written.action == "unchanged":
        return f"Unchanged config {name} at revision {written.revision}"
    joint = "at" if written.action == "created" else "to"
    return f"{_VERBS[written.action]} config {name} {joint} revision {written.revision}"


def _config_name(key: str) -> str:
    """Return `route-rule/default/reviews-default`, as istioctl's messages have it."""
    namespace, kind, name = key.removeprefix(KV_CONFIG).split("/", 2)
    known = kind_named(kind)
    return f"{dashed(known.name) if known else kind}/{namespace}/{name}"
