"""AuthorizationPolicy (security.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.api.checks import addresses
from agent.api.checks.schema import Check, Report, listing, message, one_of, text
from agent.api.checks.scope import TARGETS, one_target
from agent.api.checks.words import one_line_value
from agent.api.problem import one_line
from agent.api.yaml_text import child

DRY_RUN = "istio.io/dry-run"
TRUE = ("1", "t", "T", "TRUE", "true", "True")
_BOOLEANS = (*TRUE, "0", "f", "F", "FALSE", "false", "False")
_ACCOUNT_LIMIT = 320


def _port(value: str) -> str | None:
    if value.isdecimal() and len(value) < 8 and int(value) <= 65535:
        return None
    return f'"{one_line(value, 40)}" is not a port (a number up to 65535, in quotes)'


def _service_account(value: str) -> str | None:
    parts = value.split("/")
    if len(value) <= _ACCOUNT_LIMIT and len(parts) <= 2 and all(parts) and "*" not in value:
        return None
    return f'"{one_line(value, 70)}" is not a service account (NAMESPACE/NAME or NAME, without wildcards)'


def _trust_domain(value: str) -> str | None:
    if "/" not in value and (value == "*" or "*" not in value.removesuffix("*") or "*" not in value.removeprefix("*")):
        return None
    return f'"{one_line(value, 70)}" is not a trust domain (with one * at most, first or last)'


def _path(value: str) -> str | None:
    """A path template has `{*}` and `{**}` for whole segments, `{**}` last of these, and plain path segments."""
    is_template, is_last = "{*}" in value or "{**}" in value, False
    if is_template and not value.startswith("/"):
        return f'"{one_line(value, 70)}" is not a path template (it must begin with "/": Envoy ends at any other)'
    for segment in value.strip("/").split("/"):
        if segment in ("{*}", "{**}"):
            if is_last:
                return f'"{one_line(value, 70)}" has an operator after {{**}} (which must be the last)'
            is_last = segment == "{**}"
        elif "{" in segment or "}" in segment or (is_template and not _PLAIN_SEGMENT.fullmatch(segment)):
            return f'"{one_line(value, 70)}" is not a path template ({{*}} and {{**}} are whole segments)'
    return None


_PLAIN_SEGMENT = re.compile(r"[a-zA-Z0-9-._~%!$&'()+,;:@=]+")
"""RFC 3986's pchar, less `*`."""


def _both(fields: Mapping[str, Check]) -> dict[str, Check]:
    """Return the fields and their negations: `ports` and `notPorts`."""
    return {**fields, **{f"not{name[0].upper()}{name[1:]}": check for name, check in fields.items()}}


_TEXTS = listing(text())
_RANGES = listing(text(addresses.subnet))
_PORTS = listing(text(_port))

_SOURCE_FIELDS = _both(
    {
        "principals": _TEXTS,
        "requestPrincipals": _TEXTS,
        "namespaces": _TEXTS,
        "serviceAccounts": listing(text(_service_account), at_most=16),
        "trustDomains": listing(text(_trust_domain)),
        "ipBlocks": _RANGES,
        "remoteIpBlocks": _RANGES,
    }
)
_OPERATION_FIELDS = _both(
    {"hosts": _TEXTS, "ports": _PORTS, "methods": _TEXTS, "paths": listing(text(_path))},
)


def _says_something(report: Report, path: str, value: dict[str, Any]) -> None:
    if not any(value.values()):
        report.invalid(path, "is empty (it says nothing)")


def _source(report: Report, path: str, source: dict[str, Any]) -> None:
    _says_something(report, path, source)
    accounts = source.get("serviceAccounts") or source.get("notServiceAccounts")
    others = [key for key in ("principals", "notPrincipals", "namespaces", "notNamespaces") if source.get(key)]
    if accounts and others:
        report.invalid(path, f"serviceAccounts do not go with {others[0]}")


_ANY_VALUES = _TEXTS
_ATTRIBUTES: dict[str, Check] = {
    "source.ip": _RANGES,
    "remote.ip": _RANGES,
    "destination.ip": _RANGES,
    "destination.port": _PORTS,
    "source.namespace": _ANY_VALUES,
    "source.principal": _ANY_VALUES,
    "source.serviceAccount": listing(text(_service_account), at_most=16),
    "source.trustDomain": listing(text(_trust_domain)),
    "request.auth.principal": _ANY_VALUES,
    "request.auth.audiences": _ANY_VALUES,
    "request.auth.presenter": _ANY_VALUES,
    "connection.sni": _ANY_VALUES,
}
_MAPS = (
    "request.headers",
    "request.auth.claims",
    "request.experimental.inline.headers",
    "experimental.envoy.filters.",
)
_KEYED = re.compile(r"[^\[]+\[.+\]")
_REPLACED = {
    "destination.namespace": "metadata.namespace",
    "destination.labels": "selector",
    "destination.name": "selector",
    "destination.user": "selector",
}


def _condition(report: Report, path: str, condition: dict[str, Any]) -> None:
    key = condition["key"]
    if not condition.get("values") and not condition.get("notValues"):
        report.invalid(child(path, "values"), "is missing (values or notValues)")
        return
    check = _ATTRIBUTES.get(key)
    if key.startswith(_MAPS):
        check = _ANY_VALUES
        if not _KEYED.fullmatch(key) or "[]" in key:
            report.invalid(child(path, "key"), f'"{one_line(key, 70)}" has no name in brackets ({_MAPS[0]}[NAME])')
    if check is None:
        report.invalid(child(path, "key"), _unknown_key(key))
        return
    for name in ("values", "notValues"):
        check(report, child(path, name), condition.get(name) or [])


def _unknown_key(key: str) -> str:
    replaced = _REPLACED.get(key.partition("[")[0])
    if replaced:
        return f'"{one_line(key, 70)}" is no longer an attribute (say it with {replaced})'
    return f'"{one_line(key, 70)}" is not an attribute (one of {", ".join((*_ATTRIBUTES, *_MAPS[:2]))})'


_FROM = message({"source": message(_SOURCE_FIELDS, also=_source)}, required=("source",))
_TO = message({"operation": message(_OPERATION_FIELDS, also=_says_something)}, required=("operation",))
_WHEN = message(
    {"key": text(one_line_value), "values": listing(text(empty=True)), "notValues": listing(text(empty=True))},
    ("key",),
    _condition,
)
_RULES = listing(message({"from": listing(_FROM, at_least=1), "to": listing(_TO, at_least=1), "when": listing(_WHEN)}))


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    one_target(report, path, spec)
    action = spec.get("action") or "ALLOW"
    if action in ("DENY", "CUSTOM") and "rules" not in spec:
        report.invalid(
            child(path, "rules"), f"is missing ({action} without a rule does nothing; `- {{}}` is every request)"
        )
    if action != "CUSTOM":
        if "provider" in spec:
            report.invalid(child(path, "provider"), f"goes with the action CUSTOM only, not {action}")
        return
    if not (spec.get("provider") or {}).get("name"):
        report.invalid(child(path, "provider.name"), "is missing (CUSTOM asks an external authorizer)")
    for index, rule in enumerate(spec.get("rules") or ()):
        _custom(report, f"{child(path, 'rules')}[{index}]", rule)


_IDENTITIES = ("source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain")


def _custom(report: Report, path: str, rule: dict[str, Any]) -> None:
    """CUSTOM is decided before identities are known."""
    for index, origin in enumerate(rule.get("from") or ()):
        for key, value in origin["source"].items():
            if value and not key.lower().endswith("ipblocks"):
                report.invalid(f"{path}.from[{index}].source.{key}", "does not go with the action CUSTOM")
    for index, condition in enumerate(rule.get("when") or ()):
        key = condition["key"]
        if key in _IDENTITIES or key.startswith("request.auth."):
            report.invalid(f"{path}.when[{index}].key", f"{one_line(key, 60)} does not go with the action CUSTOM")


def check_dry_run(report: Report, annotation: str, spec: Mapping[str, Any]) -> None:
    """Check the annotation istio.io/dry-run."""
    place = f"metadata.annotations.{DRY_RUN}"
    if (spec.get("action") or "ALLOW") not in ("ALLOW", "DENY"):
        report.invalid(place, "goes with the actions ALLOW and DENY only")
    elif annotation not in _BOOLEANS:
        report.invalid(place, f'"{one_line(annotation, 40)}" is neither "true" nor "false"')


SPEC: Check = message(
    {
        **TARGETS,
        "rules": _RULES,
        "action": one_of("ALLOW", "DENY", "AUDIT", "CUSTOM"),
        "provider": message({"name": text(empty=True)}),
    },
    also=_whole,
)
