"""JSON Schema (2020-12) as far as `hostmesh schema` uses it, read by the book: what fits, and values that do.

A keyword that is not known here is a mistake, so none is passed over.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

_WORDS = ("title", "description", "$schema")
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_KEYWORDS = {
    *_WORDS,
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "enum", "const"),
    *("minimum", "maximum", "minLength", "maxLength", "pattern", "anyOf", "allOf"),
}


def misfits(shape: Any, value: Any, path: str = "") -> list[str]:
    """Return where the value breaks the schema, and by which keyword."""
    assert set(shape) <= _KEYWORDS, set(shape) - _KEYWORDS
    found = []
    found += [one for each in shape.get("allOf", ()) for one in misfits(each, value, path)]
    if "anyOf" in shape and all(misfits(one, value) for one in shape["anyOf"]):
        found.append(f"{path}: anyOf")
    if "type" in shape and not _is(value, shape["type"]):
        return [*found, f"{path}: type"]
    if "enum" in shape and value not in shape["enum"]:
        found.append(f"{path}: enum")
    if "const" in shape and value != shape["const"]:
        found.append(f"{path}: const")
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += [f"{path}: minimum"] * (value < shape.get("minimum", value))
        found += [f"{path}: maximum"] * (value > shape.get("maximum", value))
    if isinstance(value, str):
        found += [f"{path}: minLength"] * (len(value) < shape.get("minLength", 0))
        found += [f"{path}: maxLength"] * (len(value) > shape.get("maxLength", len(value)))
        found += [f"{path}: pattern"] * (not re.search(shape.get("pattern", ""), value))
    if isinstance(value, list):
        items = shape.get("items", {})
        found += [f"{path}: minItems"] * (len(value) < shape.get("minItems", 0))
        found += [one for index, item in enumerate(value) for one in misfits(items, item, f"{path}[{index}]")]
    if isinstance(value, dict):
        found += _members(shape, value, path)
    return found


def _members(shape: Any, value: dict[str, Any], path: str) -> list[str]:
    known, others = shape.get("properties", {}), shape.get("additionalProperties", {})
    found = [f"{path}.{key}: required" for key in shape.get("required", ()) if key not in value]
    for key, item in value.items():
        if key not in known and others is False:
            found.append(f"{path}.{key}: additionalProperties")
        else:
            found += misfits(known.get(key, others), item, f"{path}.{key}")
    return found


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


_ODD = ("", "a", "a.b", "*.foo.com", "*", "/a", "10.0.0.0/8", "1s", "0s", "80", "{*}", "%", "(", "unix:///a", "ns/a")
_TEXT = st.sampled_from((*_ODD, "x" * 300)) | st.text(max_size=8)
_FLAT: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-5, 10**10) | _TEXT | st.just([]) | st.just({})


@st.composite
def fitting(draw: st.DrawFn, shape: Any) -> Any:
    """Draw a value that fits the schema."""
    if "anyOf" in shape:
        return draw(fitting(draw(st.sampled_from(shape["anyOf"]))))
    if "enum" in shape or "const" in shape:
        return draw(st.sampled_from(shape.get("enum", [shape.get("const")])))
    match shape.get("type"):
        case "object":
            return _object(draw, shape)
        case "array":
            least = shape.get("minItems", 0)
            return [draw(fitting(shape.get("items", {}))) for _ in range(draw(st.integers(least, least + 2)))]
        case "string":
            return draw(_TEXT.filter(lambda text: not misfits(shape, text)))
        case "boolean":
            return draw(st.booleans())
        case "integer":
            edges = st.sampled_from([shape.get("minimum", -(2**63)), shape.get("maximum", 2**63 - 1)])
            return draw(edges | st.integers(shape.get("minimum"), shape.get("maximum")))
        case "number":
            low, high = shape.get("minimum"), shape.get("maximum")
            return draw(st.floats(low, high, allow_nan=False, allow_infinity=False))
    return draw(_FLAT)


def _object(draw: st.DrawFn, shape: Any) -> dict[str, Any]:
    known, others = shape.get("properties", {}), shape.get("additionalProperties", {})
    wanted = [
        *shape.get("required", ()),
        *(draw(st.sampled_from(one["anyOf"]))["required"][0] for one in shape.get("allOf", ())),
    ]
    optional = sorted(set(known) - set(wanted))
    chosen = draw(st.lists(st.sampled_from(optional), max_size=4, unique=True)) if optional else []
    found = {key: draw(fitting(known.get(key, {}))) for key in (*wanted, *chosen)}
    if others is not False and not known:
        found |= {draw(_TEXT): draw(fitting(others)) for _ in range(draw(st.integers(0, 2)))}
    return found
