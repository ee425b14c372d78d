"""EnvoyFilter (networking.istio.io): where its patches apply, as Istio checks it; what they hold is Envoy's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.api.checks.regex import re2_problem
from agent.api.checks.schema import Check, Report, shaped
from agent.api.yaml_text import child

_OPERATIONS = ("MERGE", "ADD", "REMOVE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE")
_LISTENER = ("LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER")
_MATCH_OF = {
    **dict.fromkeys(_LISTENER, "listener"),
    **dict.fromkeys(("ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE"), "routeConfiguration"),
    "CLUSTER": "cluster",
}
"""What a patch applies to → what it can match by."""
_OTHERS = ("EXTENSION_CONFIG", "BOOTSTRAP", "LISTENER_FILTER")
_OBJECTS = ("listener", "routeConfiguration", "cluster")
_CONNECTION_MANAGER = ("envoy.filters.network.http_connection_manager", "envoy.http_connection_manager")


def _filters(report: Report, path: str, value: Any) -> None:
    if not isinstance(value, dict):
        report.invalid(path, "must be a mapping")
        return
    if value.get("workloadSelector") is not None and value.get("targetRefs"):
        report.invalid(path, "workloadSelector and targetRefs exclude each other")
    patches = value.get("configPatches") or []
    if not isinstance(patches, list):
        report.invalid(child(path, "configPatches"), "must be a list")
        return
    for index, patch in enumerate(patches):
        place = f"{child(path, 'configPatches')}[{index}]"
        for where, reason in _patch(patch):
            report.invalid(f"{place}{where}", reason)


SPEC: Check = shaped(lambda: {"type": "object"})(_filters)


def _patch(patch: Any) -> Iterator[tuple[str, str]]:
    """Yield (path within the patch, what is wrong)."""
    if not isinstance(patch, dict):
        yield "", "must be a mapping"
        return
    target, change, match = patch.get("applyTo"), patch.get("patch"), patch.get("match") or {}
    if target not in (*_MATCH_OF, *_OTHERS):
        known = ", ".join((*_MATCH_OF, *_OTHERS))
        yield ".applyTo", f"is missing (one of {known})" if target is None else f"is not allowed (one of {known})"
        return
    if not isinstance(change, dict):
        yield ".patch", "is missing"
        return
    if change.get("operation") not in _OPERATIONS:
        yield ".patch.operation", f"is not one of {', '.join(_OPERATIONS)}"
    elif change["operation"] != "REMOVE" and change.get("value") is None:
        yield ".patch.value", f"is missing ({change['operation']} needs one)"
    if isinstance(match, dict):
        yield from _match(target, match)
    else:
        yield ".match", "must be a mapping"


def _match(target: str, match: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    version = _within(match, "proxy").get("proxyVersion")
    if isinstance(version, str) and (wrong := re2_problem(version)):
        yield ".match.proxy.proxyVersion", wrong
    wanted = _MATCH_OF.get(target)
    for name in _OBJECTS:
        if wanted and name != wanted and match.get(name) is not None:
            yield f".match.{name}", f"does not go with {target} (match by {wanted})"
    found = _within(match, "listener", "filterChain").get("filter")
    if target in _LISTENER and isinstance(found, dict):
        yield from _filter(target, found)


def _filter(target: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    place = ".match.listener.filterChain.filter"
    inner = found.get("subFilter")
    if not found.get("name"):
        yield f"{place}.name", "is missing"
    elif inner is not None and target != "HTTP_FILTER":
        yield f"{place}.subFilter", f"goes with HTTP_FILTER only, not {target}"
    elif inner is not None and found["name"] not in _CONNECTION_MANAGER:
        yield f"{place}.name", f"must be {_CONNECTION_MANAGER[0]}, as there is a subFilter"
    elif inner is not None and not _within(found, "subFilter").get("name"):
        yield f"{place}.subFilter.name", "is missing"


def _within(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the mapping at a path of keys, or an empty one."""
    for key in keys:
        inner = value.get(key)
        value = inner if isinstance(inner, dict) else {}
    return value
