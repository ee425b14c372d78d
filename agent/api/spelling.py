"""Field names in snake_case to camelCase, as Istio reads both (protobuf's JSON); knows no kind's fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from agent.api.problem import one_line
from agent.api.yaml_text import child

_MAPS = frozenset(
    {
        *("labels", "sourceLabels", "matchLabels", "selector", "annotations", "properties", "environmentVariables"),
        *("headers", "withoutHeaders", "queryParams", "appendHeaders", "set", "add", "clause"),
        *("to", "ports", "customTags", "tagOverrides"),
        *("dimensions", "monitoredResourceDimensions", "variables", "severityLevels", "metrics", "attributes"),
    }
)
"""Fields whose keys are the operator's own words."""
_SNAKE = re.compile(r"_+([a-z0-9])")


class Spelled(Struct):
    """A spec with its field names in camelCase."""

    spec: dict[str, Any]
    lines: dict[str, int]
    """Path in the new spelling → line."""
    problems: list[tuple[str, str]]
    """(path, reason) of fields that were given in both spellings."""


def to_camel_case(spec: Mapping[str, Any], lines: Mapping[str, int]) -> Spelled:
    """Return the spec and its lines in camelCase; the keys of labels and headers stay as they are."""
    spelled = Spelled({}, {}, [])
    spelled.spec = _mapping(spec, "spec", "spec", False, lines, spelled)
    return spelled


def _value(value: Any, old: str, new: str, is_map: bool, lines: Mapping[str, int], out: Spelled) -> Any:
    if old in lines:
        out.lines[new] = lines[old]
    if isinstance(value, dict):
        return _mapping(value, old, new, is_map, lines, out)
    if isinstance(value, list):
        return [_value(item, f"{old}[{i}]", f"{new}[{i}]", False, lines, out) for i, item in enumerate(value)]
    return value


def _mapping(
    value: Mapping[str, Any], old: str, new: str, is_map: bool, lines: Mapping[str, int], out: Spelled
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = key if is_map else _SNAKE.sub(lambda match: match[1].upper(), key)
        if name in result:
            out.problems.append((child(old, key), f"is given twice (as {one_line(name)} too)"))
        inner_is_map = name in _MAPS and not _is_message(name, item)
        result[name] = _value(item, child(old, key), child(new, name), inner_is_map, lines, out)
    return result


def _is_message(name: str, value: Any) -> bool:
    """Tell a policy's `selector: {matchLabels: …}` from a Gateway's, which is the labels themselves."""
    return name == "selector" and isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values())
