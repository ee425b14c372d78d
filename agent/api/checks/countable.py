"""What of Mixer's language can be told of all requests that are counted together: the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.api.checks.schema import Check, Report
from agent.api.expressions import Fault, parse
from agent.api.yaml_text import child
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Type, attributes
from agent.mesh.mixer_metrics import COUNTABLE, HEADERS, MEASURED, measured_attribute

_NUMBERS = (Type.INT64, Type.DOUBLE, Type.DURATION)


def countable(wanted: Type | None = None) -> Check:
    """Check an expression, already found to be one, for what requests cannot be told apart by."""

    def check(report: Report, path: str, value: object) -> None:
        found = _parsed(value, wanted)
        reason = next(_obstacles(found), None) if found is not None else None
        if reason:
            report.unsupported(path, reason)

    return check


def measurable(report: Report, path: str, spec: dict[str, Any]) -> None:
    """Check a metric: as a whole, because without a dimension or a value it would be another one."""
    for dimension in (spec.get("dimensions") or {}).values():
        countable()(report, path, dimension)
    value = _parsed(spec["value"], None)
    if value is None:
        return
    if value.type not in _NUMBERS:
        report.invalid(child(path, "value"), f"is a {value.type}, not a number or a duration")
    elif measured_attribute(value) is None:
        if any(one.name in MEASURED for one in attributes(value)):
            report.unsupported(path, "value: amounts of requests cannot be computed with (name one of them alone)")
        else:
            countable()(report, path, spec["value"])


def _parsed(value: object, wanted: Type | None) -> Expression | None:
    try:
        return parse(value, wanted) if isinstance(value, str) and value else None
    except Fault:
        return None  # said already


def _obstacles(expression: Expression) -> Iterator[str]:
    match expression:
        case Attribute(name=name) if name in MEASURED:
            yield f"{name} differs for each request: it can be a metric's value, but nothing can be told apart by it"
        case Attribute(name=name) if name not in COUNTABLE:
            yield f"{name} is not known of requests that are counted"
        case Attribute(name=name) if name in HEADERS:
            yield f"{name} cannot be looked at whole (name single ones)"
        case Call(function="|"):
            # What is never there has its default, as in Mixer.
            *others, last = _choices(expression)
            for one in others:
                yield from () if _is_unknown(one) else _obstacles(one)
            yield from _obstacles(last)
        case Call(function="[]", operands=(Attribute(name=name), key)) if name in HEADERS:
            if not isinstance(key, Literal) or not _is_header(str(key.value)):
                yield "the name of a header must be written down"
        case Call(operands=operands):
            for operand in operands:
                yield from _obstacles(operand)


def _choices(expression: Expression) -> Iterator[Expression]:
    match expression:
        case Call(function="|", operands=(left, right)):
            yield from _choices(left)
            yield from _choices(right)
        case _:
            yield expression


def _is_header(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum() and name.isascii()


def _is_unknown(expression: Expression) -> bool:
    match expression:
        case Attribute(name=name):
            return name not in COUNTABLE and name not in MEASURED
        case Call(function="[]", operands=(of, _)):
            return _is_unknown(of)
    return False
