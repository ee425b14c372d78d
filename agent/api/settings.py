"""The mesh-wide settings as text: read, written, one field changed; MeshSettings itself is the mesh's."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec

from agent.api.problem import nearest, one_line
from agent.api.yaml_text import YamlValue, read_yaml
from agent.errors import ValidationError
from agent.mesh.settings import MeshSettings

MAX_SIZE = 64 * 1024
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
"""SPIFFE-ID section 2.1."""
_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(MeshSettings)}


def parse_settings(value: bytes | str, source: str) -> MeshSettings:
    """Return the settings that a YAML or JSON text holds; raises ValidationError, one `SOURCE: field: reason` each."""
    plain, problems = _read(value, source)
    if problems:
        raise ValidationError(problems)
    return settings_from(plain, source)


def settings_from(plain: object, source: str) -> MeshSettings:
    """Return the settings that plain data (camelCase) holds; raises ValidationError with every problem."""
    if plain is None:
        return MeshSettings()
    if not isinstance(plain, dict):
        raise ValidationError([f"{source}: must be a mapping of settings (known: {', '.join(_FIELDS)})"])
    problems = [problem for name, value in plain.items() for problem in _problems(name, value)]
    if problems:
        raise ValidationError([f"{source}: {problem}" for problem in problems])
    return msgspec.convert({name: value for name, value in plain.items() if value is not None}, MeshSettings)


def set_field(settings: MeshSettings, name: str, value: str) -> MeshSettings:
    """Return the settings with one field set from the command line (lists: with commas); raises ValidationError."""
    field = _FIELDS.get(name)
    plain: object = value
    if field is not None and not _is_text(field.type):
        plain = [item.strip() for item in value.split(",") if item.strip()]
    return settings_from({**settings_fields(settings), name: plain}, "mesh settings")


def settings_fields(settings: MeshSettings) -> dict[str, Any]:
    """Return the settings as plain data, defaults included."""
    fields = msgspec.to_builtins(settings)
    assert isinstance(fields, dict)
    return fields


def dump_settings(settings: MeshSettings) -> bytes:
    """Return what stands in KV."""
    return msgspec.json.encode(settings)


def _read(value: bytes | str, source: str) -> tuple[object, list[str]]:
    if len(value) > MAX_SIZE:
        return None, [f"{source}: {len(value)} characters are too many (at most {MAX_SIZE})"]
    try:
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        return None, [f"{source}: not UTF-8 text (byte {error.start})"]
    values, problems = read_yaml(text, source)
    if len(values) > 1:
        problems.append(f"{source}: holds {len(values)} documents (one is allowed)")
    return (values or [YamlValue(None)])[0].value, problems


def _problems(name: str, value: object) -> list[str]:
    field = _FIELDS.get(name)
    if field is None:
        return [f"{one_line(name, 60)}: unknown setting{nearest(name, _FIELDS)} (known: {', '.join(_FIELDS)})"]
    if value is None:
        return []
    if not _is_text(field.type):
        return _list_problems(name, value)
    if isinstance(field.type, type) and issubclass(field.type, StrEnum):
        allowed = list(field.type)
        return [] if value in allowed else [f'{name}: "{one_line(value, 40)}" is not one of {", ".join(allowed)}']
    if not isinstance(value, str) or not _TRUST_DOMAIN.fullmatch(value):
        return [f'{name}: "{one_line(value, 60)}" is not a trust domain (lower case letters, digits, ".", "-" and "_")']
    return []


def _list_problems(name: str, value: object) -> list[str]:
    if isinstance(value, list | tuple) and all(isinstance(item, str) and item for item in value):
        return []
    return [f"{name}: must be a list of names"]


def _is_text(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, str)
