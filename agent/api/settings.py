"""The mesh-wide settings as text: read, written, one field changed; MeshSettings itself is the mesh's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from agent.api.checks.access_log import ACCESS_LOG, access_log_problems, file_problems, format_of_encoding
from agent.api.checks.words import dns_label
from agent.api.problem import nearest, one_line
from agent.api.yaml_text import YamlValue, read_yaml
from agent.errors import ValidationError
from agent.mesh.authorizer import ExtensionProvider
from agent.mesh.collector import MeshTracing
from agent.mesh.settings import MeshSettings, MtlsMode

MAX_SIZE = 64 * 1024
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
"""SPIFFE-ID section 2.1."""
_FIELDS = {field.encode_name: field for field in msgspec.structs.fields(MeshSettings)}
_OLDER = "mtls"
"""What authPolicy was called before; still understood, with these words."""
_AUTH_POLICY = "authPolicy"
_PROVIDERS = "extensionProviders"
_TRACING = "tracing"
_STRUCTURED = (_PROVIDERS, _TRACING)
"""Settings that are no text, and no list of names."""
_OLDER_WORDS = {"disabled": MtlsMode.DISABLED, "permissive": MtlsMode.PERMISSIVE, "strict": MtlsMode.STRICT}


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
    if _OLDER in plain and _AUTH_POLICY in plain:
        problems.append(f"{_OLDER}: is the older name of {_AUTH_POLICY}, which is there too (remove {_OLDER})")
    problems = problems or format_of_encoding(plain)
    if problems:
        raise ValidationError([f"{source}: {problem}" for problem in problems])
    present = {name: value for name, value in plain.items() if value is not None}
    if _OLDER in present:
        present[_AUTH_POLICY] = _OLDER_WORDS[present.pop(_OLDER)]
    return msgspec.convert(present, MeshSettings)


def set_field(settings: MeshSettings, name: str, value: str) -> MeshSettings:
    """Return the settings with one field set from the command line (lists: with commas); raises ValidationError."""
    if name == _OLDER:
        if wrong := _problems(name, value):
            raise ValidationError([f"mesh settings: {problem}" for problem in wrong])
        name, value = _AUTH_POLICY, _OLDER_WORDS[value]
    field = _FIELDS.get(name)
    plain: object = value
    if name in _STRUCTURED:
        plain, problems = _read(value, name)
        if problems:
            raise ValidationError(problems)
    elif field is not None and field.type is bool:
        plain = {"true": True, "false": False}.get(value.lower(), value)
    elif field is not None and not _is_text(field.type):
        plain = [item.strip() for item in value.split(",") if item.strip()]
    return settings_from({**settings_fields(settings), name: plain}, "mesh settings")


def settings_fields(settings: MeshSettings) -> dict[str, Any]:
    """Return the settings as plain data, defaults included."""
    fields = msgspec.to_builtins(settings)
    assert isinstance(fields, dict)
    return fields


def setting_named(fields: Mapping[str, Any], name: str) -> Any:
    """Return the value of one of `settings_fields`, by its older name in its older words; raises KeyError."""
    if name == _OLDER:
        return next(word for word, mode in _OLDER_WORDS.items() if mode == fields[_AUTH_POLICY])
    return fields[name]


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
    if name == _OLDER:
        if value is None or value in _OLDER_WORDS:
            return []
        return [f'{name}: "{one_line(value, 40)}" is not one of {", ".join(_OLDER_WORDS)}']
    if field is None:
        return [f"{one_line(name, 60)}: unknown setting{nearest(name, _FIELDS)} (known: {', '.join(_FIELDS)})"]
    if value is None:
        return []
    if name in _STRUCTURED:
        return _structured_problems(name, value)
    if field.type is bool:
        return [] if isinstance(value, bool) else [f'{name}: "{one_line(value, 40)}" is not true or false']
    if not _is_text(field.type):
        return _list_problems(name, value)
    if isinstance(field.type, type) and issubclass(field.type, StrEnum):
        allowed = list(field.type)
        return [] if value in allowed else [f'{name}: "{one_line(value, 40)}" is not one of {", ".join(allowed)}']
    if name == "rootNamespace":
        wrong = dns_label(value) if isinstance(value, str) else "must be text"
        return [f"{name}: {wrong}"] if wrong else []
    if name in ACCESS_LOG:
        return access_log_problems(name, value)
    return [] if _is_trust_domain(value) else [f'{name}: "{one_line(value, 60)}" {_NO_TRUST_DOMAIN}']


def _list_problems(name: str, value: object) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        return [f"{name}: must be a list of names"]
    wrong = [item for item in value if name == "trustDomainAliases" and not _is_trust_domain(item)]
    return [f'{name}: "{one_line(item, 60)}" {_NO_TRUST_DOMAIN}' for item in wrong]


def _structured_problems(name: str, value: object) -> list[str]:
    try:
        if name == _TRACING:
            return _tracing_problems(msgspec.convert(value, MeshTracing))
        return _provider_problems(msgspec.convert(value, tuple[ExtensionProvider, ...]))
    except msgspec.ValidationError as error:
        return [f"{name}: {one_line(error, 200)}"]


def _provider_problems(providers: tuple[ExtensionProvider, ...]) -> list[str]:
    known = [field.encode_name for field in msgspec.structs.fields(ExtensionProvider)[1:]]
    problems = []
    for place, provider in enumerate(providers):
        if len(provider.kinds) != 1:
            problems.append(f"{_PROVIDERS}[{place}]: needs {' or '.join(known)} (one of them)")
        if provider.envoy_file_access_log is not None:
            wrong = file_problems(provider.envoy_file_access_log)
            problems += [f"{_PROVIDERS}[{place}].envoyFileAccessLog.{reason}" for reason in wrong]
        if any(other.name == provider.name for other in providers[:place]):
            problems.append(f'{_PROVIDERS}[{place}]: the name "{one_line(provider.name, 60)}" is given twice')
    return problems


def _tracing_problems(tracing: MeshTracing) -> list[str]:
    problems = []
    if tracing.zipkin is not None and tracing.opentelemetry is not None:
        problems.append(
            f"{_TRACING}: zipkin and opentelemetry exclude each other (name one of them extensionProviders)"
        )
    for name, tag in tracing.custom_tags.items():
        if len(tag.tags) != 1:
            reason = "needs literal, environment or header (one of them)"
            problems.append(f"{_TRACING}.customTags.{one_line(name, 60)}: {reason}")
    return problems


_NO_TRUST_DOMAIN = 'is not a trust domain (lower case letters, digits, ".", "-" and "_")'


def _is_trust_domain(value: object) -> bool:
    return isinstance(value, str) and _TRUST_DOMAIN.fullmatch(value) is not None


def _is_text(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, str)
