"""WasmPlugin (extensions.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from agent.api.checks.schema import Check, Report, integer, like, listing, message, one_of, shaped, text
from agent.api.checks.scope import TARGETS, one_target
from agent.api.problem import one_line
from agent.api.yaml_text import child

_INT32 = 2**31
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("", "file", "http", "https", "oci")


def _url(value: str) -> str | None:
    try:
        scheme = urlsplit(value).scheme
    except ValueError:
        return f'"{one_line(value, 70)}" is not a URL'
    if scheme in _SCHEMES and (scheme or ":" not in value.partition("/")[0]):
        return None
    return f'"{one_line(value, 70)}" has no scheme that a module is fetched by (one of {", ".join(_SCHEMES[1:])})'


def _sha256(value: str) -> str | None:
    return None if _SHA256.fullmatch(value) else "is not a SHA-256 (64 hexadecimal digits, lower case)"


def _at_most(length: int) -> Check:
    return text(lambda value: f"is longer than {length} characters" if len(value) > length else None, empty=True)


def _variable(report: Report, path: str, variable: dict[str, Any]) -> None:
    if variable.get("valueFrom") == "HOST" and variable.get("value"):
        report.invalid(child(path, "value"), "does not go with valueFrom: HOST")


_VARIABLES = listing(
    message(
        {
            "name": _at_most(256),
            "value": _at_most(2048),
            "valueFrom": one_of("INLINE", "HOST"),
        },
        also=_variable,
    ),
    at_most=256,
)


@like(_VARIABLES)
def _variables(report: Report, path: str, value: Any) -> None:
    before = report.invalid_count
    _VARIABLES(report, path, value)
    if report.invalid_count > before:
        return
    names = [variable.get("name") or "" for variable in value]
    for index, name in enumerate(names):
        if not name:
            report.invalid(f"{path}[{index}].name", "is empty (a variable has a name)")
        elif name in names[:index]:
            report.invalid(f"{path}[{index}].name", f'"{one_line(name, 70)}" is given twice')


@shaped(lambda: {"type": "object"})
def _settings(report: Report, path: str, value: Any) -> None:
    """Settings of the module itself: any mapping."""
    if not isinstance(value, dict):
        report.invalid(path, "must be a mapping")


_PORT = message({"number": integer(1, 65535)}, required=("number",))
_MATCH = message({"mode": one_of("UNDEFINED", "CLIENT", "SERVER", "CLIENT_AND_SERVER"), "ports": listing(_PORT)})

SPEC: Check = message(
    {
        **TARGETS,
        "url": text(_url),
        "sha256": text(_sha256, empty=True),
        "imagePullPolicy": one_of("UNSPECIFIED_POLICY", "IfNotPresent", "Always"),
        "imagePullSecret": _at_most(253),
        "verificationKey": text(empty=True),
        "pluginConfig": _settings,
        "pluginName": _at_most(256),
        "phase": one_of("UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"),
        "priority": integer(-_INT32, _INT32 - 1),
        "failStrategy": one_of("FAIL_CLOSE", "FAIL_OPEN"),
        "vmConfig": message({"env": _variables}),
        "match": listing(_MATCH),
        "type": one_of("UNSPECIFIED_PLUGIN_TYPE", "HTTP", "NETWORK"),
    },
    required=("url",),
    also=one_target,
)
