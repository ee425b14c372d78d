"""Mixer's rule, what it checks with, and what it checks: denier, listchecker and memquota with their templates.

Names are `NAME.KIND.NAMESPACE`; without a namespace they mean the rule's own. Whether there is such an object is not
the document's fault: objects come in any order.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from agent.api.checks import addresses
from agent.api.checks.countable import countable
from agent.api.checks.decidable import decidable
from agent.api.checks.durations import duration, duration_or_zero, seconds
from agent.api.checks.expressions import expression
from agent.api.checks.loggable import loggable
from agent.api.checks.regex import re2_problem
from agent.api.checks.schema import (
    UNSUPPORTED,
    Check,
    Report,
    boolean,
    integer,
    listing,
    mapping,
    message,
    one_of,
    text,
)
from agent.api.expressions import parse
from agent.api.problem import nearest, one_line
from agent.api.yaml_text import child
from agent.mesh.expressions.tree import Literal, Type

TEMPLATES = {
    "denier": ("checknothing", "listentry", "quota"),
    "listchecker": ("listentry",),
    "memquota": ("quota",),
    "prometheus": ("metric",),
    "statsd": ("metric",),
    "stdio": ("logentry", "metric"),
    "fluentd": ("logentry",),
}
"""Kind of a handler → the kinds of instances that it takes."""
CHECKING = ("denier", "listchecker", "memquota")
"""Handlers that decide about requests; the others report."""
MEASURING = ("prometheus", "statsd")
"""Handlers that count and measure."""
LOGGING = ("stdio", "fluentd")
"""Handlers that write about them; of these stdio takes logentry alone."""
INSTANCES = tuple(dict.fromkeys(kind for kinds in TEMPLATES.values() for kind in kinds))
"""Kinds of instances."""
_SHORTEST_SECONDS = 0.05
"""What a token bucket of Envoy's is filled in at least."""
_MAX_CODE = 16
"""The largest code of google.rpc.Code."""


class Name(Struct, frozen=True):
    """A reference of a rule to a handler or an instance."""

    name: str
    kind: str
    namespace: str


def read_name(value: str, namespace: str) -> Name | None:
    """Read `NAME.KIND` or `NAME.KIND.NAMESPACE`; None if it is neither."""
    parts = value.split(".")
    if len(parts) not in (2, 3) or not all(parts):
        return None
    return Name(parts[0], parts[1], parts[2] if len(parts) == 3 else namespace)


def _is_name(value: str) -> str | None:
    if read_name(value, "") is None:
        return f'"{one_line(value, 80)}" is not a name as rules write it (NAME.KIND or NAME.KIND.NAMESPACE)'
    return None


def _action(report: Report, path: str, action: dict[str, Any]) -> None:
    handler = read_name(action["handler"], report.namespace)
    assert handler is not None
    takes = TEMPLATES.get(handler.kind)
    if takes is None:
        near = nearest(handler.kind, TEMPLATES)
        known = near or f" (known: {', '.join(TEMPLATES)})"
        report.unsupported(path, f"no handler of the kind {one_line(handler.kind, 40)} here{known}")
        return
    for index, instance in enumerate(action["instances"]):
        named = read_name(instance, report.namespace)
        assert named is not None
        place = f"{child(path, 'instances')}[{index}]"
        if named.kind not in takes:
            report.invalid(place, f"a {handler.kind} takes {' or '.join(takes)}, not {one_line(named.kind, 40)}")
        elif handler.kind in LOGGING and named.kind != "logentry":
            report.unsupported(path, f"{handler.kind} writes no {named.kind} here (prometheus has its values)")


_ACTION = message(
    {"handler": text(_is_name), "instances": listing(text(_is_name), at_least=1)},
    required=("handler", "instances"),
    also=_action,
)


def _rule(report: Report, path: str, spec: dict[str, Any]) -> None:
    """What a rule decides about must be known in time; what it reports is known afterwards."""
    handlers = (read_name(action["handler"], "") for action in spec["actions"])
    kinds = {handler.kind for handler in handlers if handler is not None}
    if kinds & set(CHECKING):
        decidable(Type.BOOL)(report, child(path, "match"), spec.get("match"))
        return
    if kinds & set(LOGGING):
        loggable(Type.BOOL)(report, child(path, "match"), spec.get("match"))
    if kinds & set(MEASURING):
        countable(Type.BOOL)(report, child(path, "match"), spec.get("match"))


RULE: Check = message(
    {"match": expression(Type.BOOL, empty=True), "actions": listing(_ACTION, at_least=1)},
    required=("actions",),
    also=_rule,
)

_STATUS = message({"code": integer(0, _MAX_CODE), "message": text(empty=True), "details": UNSUPPORTED})
DENIER: Check = message(
    {"status": _STATUS, "validDuration": text(duration_or_zero), "validUseCount": integer(0, 2**31 - 1)}
)
CHECK_NOTHING: Check = message({})


def _url(value: str) -> str | None:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https", "file") and bool(parts.hostname or parts.scheme == "file")
    except ValueError:
        usable = False
    return None if usable else f'"{one_line(value, 80)}" is not an address that a list can be fetched from (http://…)'


def _list_checker(report: Report, path: str, spec: dict[str, Any]) -> None:
    if (spec.get("providerUrl") or "").startswith("file:"):
        # As a whole: without the list nothing would be on it.
        report.unsupported(path, "providerUrl: files are not read (http:// or https://, or write overrides)")
    if spec.get("entryType") == "IP_ADDRESSES":
        for index, entry in enumerate(spec.get("overrides") or ()):
            if wrong := addresses.subnet(entry):
                report.invalid(f"{child(path, 'overrides')}[{index}]", wrong)
    if spec.get("entryType") == "REGEX":
        for index, entry in enumerate(spec.get("overrides") or ()):
            if wrong := re2_problem(entry):
                report.invalid(f"{child(path, 'overrides')}[{index}]", wrong)


LIST_CHECKER: Check = message(
    {
        "providerUrl": text(_url, empty=True),
        "refreshInterval": text(duration),
        "ttl": text(duration),
        "cachingInterval": text(duration_or_zero),
        "cachingUseCount": integer(0, 2**31 - 1),
        "overrides": listing(text(empty=True), at_most=100_000),
        "entryType": one_of("STRINGS", "CASE_INSENSITIVE_STRINGS", "IP_ADDRESSES", "REGEX"),
        "blacklist": boolean,
    },
    also=_list_checker,
)


def _entry(report: Report, path: str, spec: dict[str, Any]) -> None:
    decidable(types=(Type.STRING, Type.IP_ADDRESS))(report, child(path, "value"), spec["value"])


LIST_ENTRY: Check = message({"value": expression()}, required=("value",), also=_entry)


_LIMIT = {"maxAmount": integer(0, 2**63 - 1), "validDuration": text(duration)}


def _valid_for(report: Report, path: str, limit: dict[str, Any]) -> None:
    if "validDuration" not in limit:
        report.invalid(child(path, "validDuration"), "is missing (the time that maxAmount is for, such as 1s)")


_OVERRIDE = message(
    {"dimensions": mapping(text(empty=True), at_least=1), **_LIMIT}, required=("dimensions",), also=_valid_for
)
_QUOTA = message(
    {"name": text(_is_name), **_LIMIT, "overrides": listing(_OVERRIDE)}, required=("name",), also=_valid_for
)


def _mem_quota(report: Report, path: str, spec: dict[str, Any]) -> None:
    every = (limit for quota in spec["quotas"] for limit in (quota, *(quota.get("overrides") or ())))
    short = next((limit["validDuration"] for limit in every if seconds(limit["validDuration"]) < _SHORTEST_SECONDS), "")
    if short:
        # As a whole: without an override its requests would be counted otherwise.
        report.unsupported(path, f"a validDuration of {short}: Envoy counts over 50ms at least (write 50ms or more)")


MEM_QUOTA: Check = message(
    {"quotas": listing(_QUOTA, at_least=1), "minDeduplicationDuration": text(duration)},
    required=("quotas",),
    also=_mem_quota,
)


def _dimensions(report: Report, path: str, spec: dict[str, Any]) -> None:
    for value in (spec.get("dimensions") or {}).values():
        # As a whole: without a dimension another one would be counted.
        decidable()(report, path, value)
        found = parse(value)
        if not isinstance(found, Literal) and found.type not in (Type.STRING, Type.BOOL, Type.IP_ADDRESS):
            report.unsupported(path, f"{one_line(value, 60)}: requests cannot be counted by a {found.type}")


QUOTA: Check = message({"dimensions": mapping(expression())}, also=_dimensions)
