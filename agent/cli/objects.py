"""Rule documents between the command line and the store; what was done comes back as istioctl's lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.adapters.consul.store import RuleStore, Written, object_name
from agent.api.document import Document, from_json, to_json
from agent.api.kinds import Kind, kind_named
from agent.api.mixer_references import missing_parts
from agent.cli.connection import Connection
from agent.cli.kinds import dashed
from agent.errors import ConflictError, ConsulRefused, PartialWrite, ValidationError
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


def write_objects(connection: Connection, verb: str, documents: Sequence[Document]) -> tuple[list[str], int]:
    """Write with the store's method of that name (create, replace, apply).

    Returns a line for each object, and the newest revision of them.
    """
    store = RuleStore(connection.consul())
    write = {"create": store.create, "replace": store.replace, "apply": store.apply}[verb]
    done = write({document.key: to_json(document) for document in documents})
    return [_line(written) for written in done], max(written.revision for written in done)


def plan_objects(connection: Connection, verb: str, documents: Sequence[Document]) -> list[str]:
    """Return a line for each object that says what writing it would do; raises ConflictError as writing would."""
    store = RuleStore(connection.consul())
    lines = []
    for document in documents:
        stored = store.get(document.key)
        if stored is not None and verb == "create":
            raise ConflictError(f"{object_name(document.key)} exists already; use replace or apply")
        if stored is None and verb == "replace":
            raise ConflictError(f"{object_name(document.key)} does not exist; use create or apply")
        action = "create" if stored is None else "leave unchanged" if stored.value == to_json(document) else "update"
        lines.append(f"Would {action} config {_config_name(document.key)} (dry run)")
    return lines


def dangling_lines(connection: Connection, documents: Sequence[Document]) -> list[str]:
    """Return a line for each thing that a rule of Mixer names and that is neither among the documents nor stored."""
    rules = [document for document in documents if document.kind == "rule"]
    if not rules:
        return []
    store, given = RuleStore(connection.consul()), {document.ref for document in documents}

    def is_there(ref: ObjectRef) -> bool:
        try:
            return ref in given or store.get(config_key(ref.namespace, ref.kind, ref.name)) is not None
        except ConsulRefused:
            return True  # another namespace's, which is not ours to look into: the rule's status tells

    return [
        f"{rule.place(path)}: {path}: there is no {name} yet: the rule is inactive until there is (create it, too)"
        for rule in rules
        for path, name in missing_parts(rule, is_there)
    ]


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
