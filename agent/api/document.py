"""Rule documents: YAML or JSON text to Document, and back to the JSON in KV; the fields of kinds are validate.py's."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import yaml

from agent.api.envelope import Document, read_envelope, to_plain
from agent.api.problem import one_line
from agent.api.validate import in_usual_spelling, spec_faults
from agent.api.yaml_text import MAX_DEPTH, Node, YamlValue, read_yaml
from agent.errors import ValidationError

__all__ = ["Document", "from_json", "merge_documents", "read_documents", "to_json", "to_plain"]


def read_documents(text: str, source: str, default_namespace: str) -> tuple[list[Document], list[str]]:
    """Return the documents of a YAML or JSON text, and one `FILE:LINE: …` for each problem with what is not a document.

    Several documents, `kind: List` and empty documents are fine; equal duplicates are merged.
    """
    values, problems = read_yaml(text, source, _list_items)
    if text.lstrip().startswith("{") and any(": not YAML: " in problem for problem in problems):
        values, problems = _read_json_text(text, problems)
    documents: list[Document] = []
    for value in values:
        document, faults = read_envelope(value, source, default_namespace)
        problems += faults
        if document is None:
            continue
        if faults:
            problems += spec_faults(in_usual_spelling(document))
        else:
            documents.append(in_usual_spelling(document))
    merged, conflicts = merge_documents(documents)
    return merged, problems + conflicts


def merge_documents(documents: Iterable[Document]) -> tuple[list[Document], list[str]]:
    """Return the documents without equal duplicates, and one problem for each object that is given in two forms."""
    first: dict[str, Document] = {}
    problems = []
    for document in documents:
        other = first.setdefault(document.key, document)
        if not other.same_content(document):
            where = f"{other.source}:{other.line}"
            problems.append(f"{document.place('')}: given twice with different content (first at {where}): keep one")
    return list(first.values()), problems


def to_json(document: Document) -> bytes:
    """Return what stands in KV under `document.key`."""
    return msgspec.json.encode(to_plain(document))


def from_json(key: str, value: bytes) -> Document:
    """Return the document of a KV entry; raises ValidationError, one line that names the key.

    Size, depth and envelope are checked; the spec is validate.py's, so that `hostmesh get` and `delete` can handle what
    a newer hostmesh wrote.
    """
    try:
        plain = msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ValidationError(
            [f"{one_line(key)}: not JSON: {one_line(error)} (delete the key or replace the object)"]
        ) from None
    if _depth_exceeds(plain, MAX_DEPTH):
        raise ValidationError([f"{one_line(key)}: nested deeper than {MAX_DEPTH} levels"])
    document, problems = read_envelope(YamlValue(plain), key, "")
    if document is None or problems:
        raise ValidationError([_keyed(key, problems)])
    if document.key != key:
        raise ValidationError([f"{one_line(key)}: holds {document.ref}, whose key is {document.key} (delete this one)"])
    return in_usual_spelling(document)


def _keyed(key: str, problems: list[str]) -> str:
    """Return problems of one KV value as one line that begins with its key."""
    prefix = f"{key}:1: "
    return f"{one_line(key)}: " + "; ".join(problem.removeprefix(prefix) for problem in problems[:3])


def _read_json_text(text: str, problems: list[str]) -> tuple[list[YamlValue], list[str]]:
    """Read JSON that is no YAML (tabs, surrogate pairs); its lines are not known."""
    try:
        plain = json.loads(text, object_pairs_hook=_unique, parse_constant=_unique, parse_int=_int64)
    except (ValueError, RecursionError):
        return [], problems
    if _depth_exceeds(plain, MAX_DEPTH):
        return [], problems
    if isinstance(plain, dict) and plain.get("kind") == "List" and isinstance(plain.get("items"), list):
        return [YamlValue(item) for item in plain["items"]], []
    return [YamlValue(plain)], []


def _unique(pairs: list[tuple[str, object]] | str) -> dict[str, object]:
    """Refuse what YAML refuses as well: a key given twice, NaN and the infinities."""
    if isinstance(pairs, str) or len(dict(pairs)) < len(pairs):
        raise ValueError(pairs)
    return dict(pairs)


def _int64(digits: str) -> int:
    if len(digits) > 19 or abs(int(digits)) >= 2**63:
        raise ValueError(digits)
    return int(digits)


def _depth_exceeds(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _list_items(node: Node) -> Iterable[Node]:
    """Put the items in the place of a `kind: List`."""
    if not isinstance(node, yaml.MappingNode):
        return (node,)
    entries = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
    kind, items = entries.get("kind"), entries.get("items")
    if kind is not None and kind.value == "List" and isinstance(items, yaml.SequenceNode):
        return tuple(items.value)
    return (node,)
