"""The mesh's settings about access logs, and the provider that Telemetry objects can name. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.api.checks.log_format import format_problem
from agent.api.problem import one_line
from agent.mesh.access_log import STDOUT, Encoding, FileAccessLog

_FILE, _FORMAT, _ENCODING = "accessLogFile", "accessLogFormat", "accessLogEncoding"
ACCESS_LOG = (_FILE, _FORMAT)
"""The settings that are texts."""


def access_log_problems(name: str, value: object) -> list[str]:
    """Return what is wrong with one of the settings."""
    if not isinstance(value, str):
        return [f"{name}: must be text"]
    if name == _FILE and value not in ("", STDOUT):
        return [f'{name}: "{one_line(value, 60)}" is not {STDOUT}: access logs go to the host\'s journal']
    return []


def format_of_encoding(settings: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the format, which depends on the encoding."""
    said = settings.get(_FORMAT) or ""
    if settings.get(_ENCODING) != Encoding.JSON:
        wrong = format_problem(said)
        return [f"{_FORMAT}: {wrong}"] if wrong else []
    fields = labels_of(said)
    if fields is None:
        return [
            f'{_FORMAT}: must be a JSON object of formats, such as {{"path": "%REQ(:PATH)%"}}, for {_ENCODING}: JSON'
        ]
    return [f"{_FORMAT}: {name}: {wrong}" for name, text in fields.items() if (wrong := format_problem(text))]


def labels_of(said: str) -> dict[str, str] | None:
    """Return the fields of a JSON format; None if it is none."""
    try:
        fields = json.loads(said) if said else {}
    except ValueError:
        return None
    is_right = isinstance(fields, dict) and all(isinstance(text, str) for text in fields.values())
    return fields if is_right else None


def file_problems(provider: FileAccessLog) -> list[str]:
    """Return what is wrong with a provider."""
    if provider.path != STDOUT:
        return [f'path: "{one_line(provider.path, 60)}" is not {STDOUT}: access logs go to the host\'s journal']
    said = provider.log_format
    if said is None:
        return []
    if said.text and said.labels:
        return ["logFormat: text and labels exclude each other"]
    formats = {"text": said.text, **{f"labels.{name}": text for name, text in said.labels.items()}}
    return [f"logFormat.{name}: {wrong}" for name, text in formats.items() if (wrong := format_problem(text))]
