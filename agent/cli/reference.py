"""Writes docs/configuration.md: every setting of every file, from the types that read it and the shipped examples.

`python -m agent.cli.reference EXAMPLES >docs/configuration.md`. What is allowed comes from the checks, defaults from
the types, what it means from the comment in the example file (which operators read first), else from the docstring.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct

from agent import config
from agent.api.checks.schema import Shape, shape_of
from agent.api.services import SERVICE
from agent.config_checks import AGENT
from agent.mesh.settings import MeshSettings

HEAD = """# Configuration

Every setting of every file. Made by `make reference` from the types that read the files; do not edit it.
`hostmesh-agent --check` and `hostmesh-ca --check` check the files and tell every fault, with file and line.
"""
_SETTING = re.compile(r"^(?:# ?)?( *)([A-Za-z]\w*):(?: (.*?))?(?:\s+# (.*))?$")
_MORE = re.compile(r"^#? +# (.*)$")
_CA_CONFIG = "node_ca.config"
"""By name: the agent's package may not import the CA's; this text is about both."""


class Row(Struct, frozen=True):
    """One setting."""

    path: str
    allowed: str
    default: str
    meaning: str


def reference(examples: Path) -> str:
    """Return the whole text."""
    parts = [
        HEAD,
        _section(
            "agent.yaml", "Read at start; services.d and log levels again by `systemctl reload`.", agent_rows(examples)
        ),
        _section(
            "services.d/*.yaml",
            "One service a file, a list, or several documents; `hostmesh service add` writes them. Changes are taken "
            "up within a second; a file that is spoilt serves on as it was, with a fault in `hostmesh proxy-status`.",
            service_rows(examples),
        ),
        _section("cluster.env and sidecar.env", _ENV, _variable_rows()),
        _section("Mesh settings", "`hostmesh mesh get | set`; every agent follows a change at once.", mesh_rows()),
        _section("ca.yaml", "Read at start.", ca_rows(examples)),
    ]
    return "\n".join(parts)


_ENV = (
    "Read at start and laid over agent.yaml, as Istio's VM packages have them: `NAME=VALUE` lines, shell quotes. "
    "Other `ISTIO_*` variables get a line in the log."
)


def agent_rows(examples: Path) -> list[Row]:
    """Return the settings of agent.yaml."""
    meanings = _docstrings(config.AgentFile()) | _comments(examples / "agent.yaml")
    defaults = dict(_leaves(msgspec.to_builtins(config.AgentFile())))
    return [
        Row(path, _words(shape) or _type_of(defaults.get(path)), _shown(defaults.get(path)), _meaning(meanings, path))
        for path, shape in _shapes(shape_of(AGENT))
    ]


def service_rows(examples: Path) -> list[Row]:
    """Return the fields of a service; their defaults are in their meaning."""
    meanings = _comments(next((examples / "services.d").iterdir()))
    shape = shape_of(SERVICE)
    needed = shape["required"]
    return [
        Row(path, _words(below), "needed" if path in needed else "", _meaning(meanings, path))
        for path, below in _shapes(shape)
    ]


def mesh_rows() -> list[Row]:
    """Return the mesh-wide settings."""
    return list(_struct_rows(MeshSettings(), _docstrings(MeshSettings()), ""))


def ca_rows(examples: Path) -> list[Row]:
    """Return the settings of ca.yaml."""
    settings = importlib.import_module(_CA_CONFIG).Config()
    return list(_struct_rows(settings, _docstrings(settings) | _comments(examples / "ca.yaml"), ""))


def _struct_rows(value: Any, meanings: Mapping[str, str], place: str) -> Iterator[Row]:
    for field in msgspec.structs.fields(value):
        below = getattr(value, field.name)
        if isinstance(below, Struct):
            yield from _struct_rows(below, meanings, f"{place}{field.encode_name}.")
            continue
        enum = hasattr(field.type, "__members__")
        words = " \\| ".join(f"`{one}`" for one in field.type) if enum else _type_of(below)
        if below is None and any(isinstance(kind, type) and issubclass(kind, Struct) for kind in get_args(field.type)):
            words = "mapping"
        path = f"{place}{field.encode_name}"
        yield Row(path, words, _shown(below), _meaning(meanings, path))


def _variable_rows() -> list[Row]:
    return [
        Row(name, "text", "", f"lays its value over `{setting}`") for name, setting in config.KNOWN_VARIABLES.items()
    ]


def _section(title: str, text: str, rows: list[Row]) -> str:
    lines = [f"## {title}", text, "", "| setting | allowed | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{row.path}` | {row.allowed} | {row.default} | {row.meaning} |" for row in rows]
    return "\n".join([*lines, ""])


def _shapes(shape: Shape, place: str = "") -> Iterator[tuple[str, Any]]:
    for name, below in shape["properties"].items():
        if "properties" in below:
            yield from _shapes(below, f"{place}{name}.")
        else:
            yield f"{place}{name}", below


def _words(shape: Any) -> str:
    """Return what a shape allows, in words; empty if it says nothing."""
    if "enum" in shape:
        return " \\| ".join(f"`{word}`" for word in shape["enum"])
    if shape.get("type") == "array":
        return f"list of {_words(shape['items']) or 'values'}"
    if shape.get("type") == "integer":
        return f"{shape['minimum']} to {shape['maximum']}"
    if "anyOf" in shape:
        return _words(shape["anyOf"][0])
    names = {"string": "text", "boolean": "`true` \\| `false`", "object": "mapping of text", "number": "number"}
    return names.get(shape.get("type", ""), "")


def _type_of(default: Any) -> str:
    if type(default).__name__ == "Seconds":
        return "duration (`90s`, `1h30m`)"
    if isinstance(default, bool):
        return "`true` \\| `false`"
    names = {int: "number", float: "seconds", str: "text", list: "list", tuple: "list", dict: "mapping"}
    return names.get(type(default), "text")


def _shown(default: Any) -> str:
    if type(default).__name__ == "Seconds":
        return f"`{_duration(int(default))}`"
    if default in (None, "", (), [], {}) or default is msgspec.NODEFAULT:
        return ""
    if isinstance(default, list | tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    for name, below in value.items():
        if isinstance(below, dict) and below:
            yield from _leaves(below, f"{place}{name}.")
        else:
            yield f"{place}{name}", below


def _meaning(meanings: Mapping[str, str], path: str) -> str:
    """Return what is said of the setting, else of what it is a part of."""
    while path and not meanings.get(path):
        path = path.rpartition(".")[0]
    return " ".join(meanings.get(path, "").split()).replace("|", "\\|")


def _duration(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _comments(example: Path) -> dict[str, str]:
    """Return what the example file says of each setting: beside it, or in the comment above."""
    found: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    above: list[str] = []
    for line in example.read_text(encoding="utf-8").splitlines():
        if (more := _MORE.match(line)) and stack:
            path = ".".join(name for _, name in stack)
            found[path] = f"{found.get(path, '')} {more[1]}".strip()
        elif setting := _SETTING.match(line):
            indent, name = len(setting[1]), setting[2]
            stack = [*((deep, one) for deep, one in stack if deep < indent), (indent, name)]
            path = ".".join(name for _, name in stack)
            if said := setting[4] or " ".join(above):
                found.setdefault(path, said)
            above = []
        elif line.startswith("# "):
            above.append(line[2:])
        else:
            above = []
    return found


def _docstrings(settings: Struct, place: str = "") -> dict[str, str]:
    """Return the docstring under each field, else that of its type if it is one of few words."""
    under = _under_fields(type(settings))
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(settings):
        path, below = f"{place}{field.encode_name}", getattr(settings, field.name)
        enum = field.type.__doc__ if hasattr(field.type, "__members__") else ""
        if said := under.get(field.name) or enum:
            found[path] = said
        if isinstance(below, Struct):
            found |= _docstrings(below, f"{path}.")
    return found


def _under_fields(kind: type) -> dict[str, str]:
    """Return the docstrings under a type's fields, which Python itself forgets."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: str(after.value.value)
        for field, after in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }


if __name__ == "__main__":
    sys.stdout.write(reference(Path(sys.argv[1])))
