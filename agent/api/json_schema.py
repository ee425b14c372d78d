"""A whole document of a kind as JSON Schema: its envelope, and its spec as the kind's check describes it. Pure."""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks.schema import Shape, shape_of
from agent.api.kinds import CONFIG, Kind
from agent.api.validate import spec_check

_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_STRINGS: Shape = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA: Shape = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": _NAME, "maxLength": 253},
        "namespace": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "labels": _STRINGS,
        "annotations": _STRINGS,
    },
    "required": ["name"],
}


def document_schema(kind: Kind) -> Shape:
    """Return the JSON Schema (2020-12) of a kind's documents."""
    check = spec_check(kind.name)
    spec: Any = shape_of(check) if check else {"type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind.name,
        "type": "object",
        "properties": {
            "apiVersion": {"enum": list(kind.api_versions)},
            "kind": {"const": kind.name},
            "metadata": _METADATA,
            "spec": _both_spellings(spec) if kind.group == CONFIG else spec,
        },
        "required": ["apiVersion", "kind", "metadata"],
    }


def _both_spellings(shape: Any) -> Any:
    """Allow the fields of the first generation in snake_case too, which is seldom written of the second."""
    if isinstance(shape, list):
        return [_both_spellings(item) for item in shape]
    if not isinstance(shape, dict):
        return shape
    inner = {key: _both_spellings(value) for key, value in shape.items()}
    properties = inner.get("properties")
    if isinstance(properties, dict):
        inner["properties"] = {**{_snake(name): shape for name, shape in properties.items()}, **properties}
        wanted = inner.pop("required", [])
        either = [
            {"anyOf": [{"required": [name]}, {"required": [_snake(name)]}]} for name in wanted if name != _snake(name)
        ]
        same = [name for name in wanted if name == _snake(name)]
        inner |= {**({"required": same} if same else {}), **({"allOf": either} if either else {})}
    return inner


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: f"_{found[1].lower()}", name)
