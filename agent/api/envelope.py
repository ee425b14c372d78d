"""The envelope of a rule object: apiVersion, kind and metadata, checked; the spec only put into camelCase.

Everything read here is untrusted. What a spec may hold is validate.py's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field, structs

from agent.api.kinds import KINDS_BY_NAME
from agent.api.problem import nearest, one_line
from agent.api.spelling import to_camel_case
from agent.api.yaml_text import YamlValue, child
from agent.mesh.names import config_key
from agent.mesh.routes import ObjectRef

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_METADATA = ("name", "namespace", "labels", "annotations")
_NOISE = (
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
"""What Kubernetes adds to metadata; means nothing here."""
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Document(Struct, frozen=True):
    """One rule object as the operator wrote it."""

    api_version: str
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    spec: Mapping[str, Any]
    """Plain data, field names in camelCase; unknown and wrong things included until validated."""
    source: str
    """The file, or the KV key, it was read from."""
    line: int = 1
    lines: Mapping[str, int] = field(default_factory=dict)
    """Spec path → line (`spec.http[0].route`)."""

    @property
    def ref(self) -> ObjectRef:
        """Return its name, for messages and status."""
        return ObjectRef(self.kind, self.namespace, self.name)

    @property
    def key(self) -> str:
        """Return its KV key."""
        return config_key(self.namespace, self.kind, self.name)

    def same_content(self, other: Document) -> bool:
        """Tell whether both say the same, wherever they were read from."""
        return to_plain(self) == to_plain(other)

    def place(self, path: str) -> str:
        """Return `FILE:LINE: Kind/name` for a message about that path (or the nearest one above it with a line)."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        line = self.lines.get(path, self.line)
        return f"{self.source}:{line}: {one_line(self.kind)}/{one_line(self.name)}"


def to_plain(document: Document) -> dict[str, Any]:
    """Return the document in Istio's shape (apiVersion, kind, metadata, spec), without empty metadata."""
    metadata: dict[str, Any] = {"name": document.name, "namespace": document.namespace}
    if document.labels:
        metadata["labels"] = dict(document.labels)
    if document.annotations:
        metadata["annotations"] = dict(document.annotations)
    return {
        "apiVersion": document.api_version,
        "kind": document.kind,
        "metadata": metadata,
        "spec": document.spec,
    }


def read_envelope(value: YamlValue, source: str, default_namespace: str) -> tuple[Document | None, list[str]]:
    """Return the object that a value is, or None, and one `FILE:LINE: …` for each problem with its envelope.

    With problems the object is only good for finding more of them. An empty `default_namespace` means that the value
    must name its own.
    """
    return _Envelope(value, source).read(default_namespace)


class _Envelope:
    """Reads apiVersion, kind and metadata of one value; collects every problem before it gives up."""

    def __init__(self, value: YamlValue, source: str) -> None:
        self._value = value
        self._source = source
        self._problems: list[str] = []
        self._subject = ""

    def read(self, default_namespace: str) -> tuple[Document | None, list[str]]:
        top = self._value.value
        if not isinstance(top, dict):
            self._refuse("", "not an object (it needs apiVersion, kind, metadata and spec)")
            return None, self._problems
        metadata = self._mapping(top, "metadata", "")
        self._subject = f"{one_line(top.get('kind') or 'object')}/{one_line(metadata.get('name') or '?')}: "
        self._known(top, _TOP, "")
        self._known(metadata, _METADATA + _NOISE, "metadata")
        document = Document(
            api_version=self._text(top, "apiVersion", "(for example networking.istio.io/v1)"),
            kind=self._text(top, "kind", "(for example VirtualService)"),
            namespace=self._namespace(metadata, default_namespace),
            name=self._name(metadata),
            labels=self._strings(metadata, "labels"),
            annotations=self._strings(metadata, "annotations"),
            spec={},
            source=self._source,
            line=self._value.line,
        )
        spec, lines = self._spec(top, document.kind)
        return structs.replace(document, spec=spec, lines=lines), self._problems

    def _spec(self, top: dict[str, Any], kind_name: str) -> tuple[dict[str, Any], Mapping[str, int]]:
        spec = self._mapping(top, "spec", "")
        kind = KINDS_BY_NAME.get(kind_name)
        if kind is None or kind.verbatim:
            return spec, self._value.lines
        spelled = to_camel_case(spec, self._value.lines)
        for path, reason in spelled.problems:
            self._refuse(path, reason)
        return spelled.spec, spelled.lines

    def _name(self, metadata: dict[str, Any]) -> str:
        name = self._text(metadata, "name", "", "metadata")
        if name and (len(name) > 253 or not _SUBDOMAIN.fullmatch(name)):
            self._refuse("metadata.name", f'"{one_line(name)}" is not a name (lower case letters, digits, "-" and ".")')
        return name

    def _namespace(self, metadata: dict[str, Any], default: str) -> str:
        if metadata.get("namespace") in (None, "") and default:
            return default
        namespace = self._text(metadata, "namespace", "", "metadata")
        if namespace and not _LABEL.fullmatch(namespace):
            self._refuse(
                "metadata.namespace", f'"{one_line(namespace)}" is not a name (lower case letters, digits, "-")'
            )
        return namespace

    def _text(self, mapping: dict[str, Any], key: str, example: str, path: str = "") -> str:
        value = mapping.get(key)
        if isinstance(value, str) and value:
            return value
        reason = "is missing" if value in (None, "") else "must be text"
        self._refuse(child(path, key), f"{reason} {example}".rstrip())
        return ""

    def _mapping(self, mapping: dict[str, Any], key: str, path: str) -> dict[str, Any]:
        value = mapping.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._refuse(child(path, key), "must be a mapping")
            return {}
        return value

    def _strings(self, metadata: dict[str, Any], key: str) -> dict[str, str]:
        values = self._mapping(metadata, key, "metadata")
        for name, value in values.items():
            if not isinstance(value, str):
                self._refuse(f"metadata.{key}.{one_line(name)}", "must be text (put it in quotes)")
        return {name: value for name, value in values.items() if name != _LAST_APPLIED}

    def _known(self, mapping: dict[str, Any], known: tuple[str, ...], path: str) -> None:
        for key in mapping:
            if key not in known:
                self._refuse(child(path, one_line(key)), f"unknown field{nearest(key, known)}")

    def _refuse(self, path: str, reason: str) -> None:
        line = self._value.lines.get(path, self._value.line)
        place = f"{path}: " if path else ""
        self._problems.append(f"{self._source}:{line}: {self._subject}{place}{reason}")
