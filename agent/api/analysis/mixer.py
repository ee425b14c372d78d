"""Findings about Mixer's rules: what they name and is not there, callers of whom two things could be said. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.analysis.finding import AMBIGUOUS_CALLERS, NOT_FOUND, Finding, finding
from agent.api.analysis.world import World
from agent.api.enforce import enforceable
from agent.api.envelope import Document
from agent.api.lowering.mixer import lower_rule
from agent.api.mixer_references import missing_parts
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal
from agent.mesh.mixer import ListCheck, PolicyRule, Quota
from agent.mesh.mixer_vocabulary import BY_CATALOG
from agent.mesh.service import Identity, Instance

_LABELS = "source.labels"
_BY_SERVICE = {name for name in BY_CATALOG if name.startswith("source.")} - {
    *(_LABELS, "source.namespace", "source.serviceAccount"),
}
"""What is said of a caller of whom it is known which service it is."""
_ANY = "*"
_Place = tuple[str, Identity]


def find_mixer(world: World) -> Iterator[Finding]:
    """Yield the findings; without a catalog there are none."""
    if world.services is None:
        return
    stored = {document.ref: document for document in world.documents}
    doubtful = _doubtful(world)
    for document in world.of_kind("rule"):
        for path, name in missing_parts(document, stored.__contains__):
            yield finding(NOT_FOUND, document, path, f"there is no {name}: the rule is inactive until there is")
        usable = enforceable(document).document
        rule = lower_rule(usable, stored.get).rule if usable else None
        if rule is not None and doubtful:
            yield from _ambiguous(document, rule, doubtful)


def _doubtful(world: World) -> dict[_Place, list[Instance]]:
    """Return the instances that cannot be told apart by address and account, and are not alike."""
    at: dict[_Place, list[Instance]] = {}
    for service in (world.services or {}).values():
        for instance in service.instances if service.outside is None else ():
            at.setdefault((instance.address, instance.identity), []).append(instance)
    return {place: every for place, every in at.items() if len({(one.service, one.labels) for one in every}) > 1}


def _ambiguous(document: Document, rule: PolicyRule, doubtful: dict[_Place, list[Instance]]) -> Iterator[Finding]:
    """Find what the rule asks for and is not known of some callers, because several instances could be theirs."""
    asked = {name for expression in _expressions(rule) for name in _asked(expression)}
    found = [(place, lost) for place, every in sorted(doubtful.items()) if (lost := sorted(_lost(every) & asked))]
    if not found:
        return
    (address, identity), lost = found[0]
    shown = sorted({_shown(one) for one in doubtful[address, identity]})
    more = f" (and at {len(found) - 1} more places)" if found[1:] else ""
    message = (
        f"{', '.join(lost)} is absent for callers at {address} with the account {identity.service_account}"
        f"{more}: {' and '.join(shown[:3])} are there, and only what they share is known of them"
    )
    yield finding(AMBIGUOUS_CALLERS, document, "spec.match" if document.spec.get("match") else "spec.actions", message)


def _lost(every: list[Instance]) -> set[str]:
    """Return what is not known of a caller that may be any of these."""
    labels: list[set[tuple[str, str]]] = [set(one.labels) for one in every]
    shared = labels[0].intersection(*labels)
    keys = {key for each in labels for key, _ in each - shared}
    lost = {f'{_LABELS}["{key}"]' for key in keys} | ({_ANY} if keys else set())
    return lost | (_BY_SERVICE if len({one.service for one in every}) > 1 else set())


def _shown(instance: Instance) -> str:
    labels = ",".join(f"{key}={value}" for key, value in instance.labels)
    return f"{instance.service} ({labels})" if labels else str(instance.service)


def _expressions(rule: PolicyRule) -> Iterator[Expression]:
    yield rule.match
    for check in rule.checks:
        match check:
            case ListCheck(value=value):
                yield value
            case Quota(dimensions=dimensions):
                yield from (value for _, value in dimensions)


def _asked(expression: Expression) -> Iterator[str]:
    """Yield the attributes that it asks for, of labels each by its key."""
    match expression:
        case Attribute(name=name):
            yield _ANY if name == _LABELS else name
        case Call(function="[]", operands=(Attribute(name="source.labels"), Literal(value=key))):
            yield f'{_LABELS}["{key}"]'
        case Call(operands=operands):
            for operand in operands:
                yield from _asked(operand)
