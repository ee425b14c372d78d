"""Mixer's rules with the handlers and instances that they name, together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from agent.api.checks.durations import seconds
from agent.api.envelope import Document
from agent.api.expressions import parse
from agent.api.specs.mixer_rule import CHECKING, TEMPLATES, Name, read_name
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Type, attributes
from agent.mesh.mixer import (
    FAILED_PRECONDITION,
    TRUE,
    Check,
    Denial,
    Limit,
    ListCheck,
    ListKind,
    ListSource,
    PolicyRule,
    Quota,
    Status,
)
from agent.mesh.mixer_vocabulary import settled
from agent.mesh.routes import Fault, ObjectRef

PROTOCOL = "istio-protocol"
"""The label of a rule that says what traffic it is for."""
_SCHEME = "spiffe://"
MIXER_PARTS = tuple(dict.fromkeys([*CHECKING, *(kind for handler in CHECKING for kind in TEMPLATES[handler])]))
"""The kinds that rules name."""
Find = Callable[[ObjectRef], Document | None]


class LoweredRule(Struct, frozen=True):
    """What a rule decides, and what it lacks."""

    rule: PolicyRule | None
    faults: tuple[Fault, ...] = ()


def lower_rule(document: Document, find: Find) -> LoweredRule:
    """Return what a rule decides; one that names what is not there is inactive until it is."""
    checks, faults = list[Check](), list[Fault]()
    for action in document.spec["actions"]:
        handler = named_by(action["handler"], document)
        if handler.kind not in CHECKING:
            continue
        names = [handler, *(named_by(instance, document) for instance in action["instances"])]
        found = [find(ObjectRef(name.kind, name.namespace, name.name)) for name in names]
        missing = [full_name(name) for name, one in zip(names, found, strict=True) if one is None]
        if missing:
            reason = f"is inactive until there is {' and '.join(missing)}"
            faults.append(Fault(str(document.ref), reason))
            return LoweredRule(None, tuple(faults))
        first, *instances = (one for one in found if one is not None)
        for name, instance in zip(names[1:], instances, strict=True):
            checks += _checks(full_name(handler), first, name, instance)
    rule = PolicyRule(document.ref, settled(rule_match(document)), tuple(checks)) if checks else None
    return LoweredRule(rule, tuple(faults))


def named_by(text: str, document: Document) -> Name:
    """Return what a valid rule means by a reference."""
    found = read_name(text, document.namespace)
    assert found is not None, "validated"
    return found


def full_name(name: Name) -> str:
    """Return `NAME.KIND.NAMESPACE`."""
    return f"{name.name}.{name.kind}.{name.namespace}"


def rule_match(document: Document) -> Expression:
    """Return when a rule holds: for HTTP, unless its label or its match says otherwise (as in Mixer)."""
    written = document.spec.get("match") or ""
    match = users_without_scheme(parse(written, Type.BOOL)) if written else TRUE
    wanted = "tcp" if document.labels.get(PROTOCOL) == "tcp" else "http"
    if wanted == "http" and any(one.name == "context.protocol" for one in attributes(match)):
        return match
    protocol = Attribute("context.protocol", Type.STRING)
    return Call("&&", (Call("==", (protocol, Literal(wanted, Type.STRING)), Type.BOOL), match), Type.BOOL)


def users_without_scheme(expression: Expression) -> Expression:
    """Take the scheme from texts that may be compared with a user: `source.user` has none."""
    match expression:
        case Literal(value=str(value)) if value.startswith(_SCHEME):
            return Literal(value.removeprefix(_SCHEME), Type.STRING)
        case Call():
            operands = tuple(users_without_scheme(operand) for operand in expression.operands)
            return Call(expression.function, operands, expression.type)
    return expression


def _checks(handler: str, configured: Document, name: Name, instance: Document) -> Iterator[Check]:
    spec = configured.spec
    match configured.kind:
        case "denier":
            yield Denial(handler, _status(spec))
        case "listchecker":
            entries = tuple(spec.get("overrides") or ())
            kind = ListKind(spec.get("entryType") or ListKind.STRINGS)
            value = settled(users_without_scheme(parse(instance.spec["value"])))
            if kind is ListKind.STRINGS:
                entries = tuple(entry.removeprefix(_SCHEME) for entry in entries)
            source = _source(spec)
            yield ListCheck(
                handler, value, kind, entries, spec.get("blacklist") or False, source, is_missing=source is not None
            )
        case "memquota":
            dimensions = tuple(
                (key, settled(users_without_scheme(parse(value))))
                for key, value in sorted((instance.spec.get("dimensions") or {}).items())
            )
            for quota in spec["quotas"]:
                meant = read_name(quota["name"], configured.namespace)
                if meant == name:
                    yield Quota(handler, full_name(name), dimensions, tuple(_limits(quota)))


def _source(spec: Mapping[str, Any]) -> ListSource | None:
    """Return where the rest of a list is; Mixer asks every minute unless told otherwise, and at most every second."""
    if not spec.get("providerUrl"):
        return None
    return ListSource(spec["providerUrl"], max(1.0, seconds(spec.get("refreshInterval") or "60s")))


def _status(spec: Mapping[str, Any]) -> Status:
    status = spec.get("status") or {}
    return Status(status.get("code", FAILED_PRECONDITION), status.get("message") or "")


def _limits(quota: Mapping[str, Any]) -> Iterator[Limit]:
    for override in quota.get("overrides") or ():
        dimensions = tuple(sorted(override["dimensions"].items()))
        yield Limit(override.get("maxAmount") or 0, seconds(override["validDuration"]), dimensions)
    yield Limit(quota.get("maxAmount") or 0, seconds(quota["validDuration"]))
