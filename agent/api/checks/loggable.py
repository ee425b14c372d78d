"""What of Mixer's language can be written about a request that has been answered: the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.checks.schema import Check, Report
from agent.api.expressions import Fault, parse
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Type
from agent.mesh.mixer_logs import HEADERS, LOGGED


def loggable(wanted: Type | None = None) -> Check:
    """Check an expression, already found to be one, for what nobody knows afterwards either."""

    def check(report: Report, path: str, value: object) -> None:
        try:
            found = parse(value, wanted) if isinstance(value, str) and value else None
        except Fault:
            return  # said already
        reason = next(_obstacles(found), None) if found is not None else None
        if reason:
            report.unsupported(path, reason)

    return check


def _obstacles(expression: Expression) -> Iterator[str]:
    match expression:
        case Attribute(name=name) if name not in LOGGED:
            yield f"{name} is not known when requests are logged"
        case Attribute(name=name) if name in HEADERS:
            yield f"{name} cannot be logged whole (name single ones)"
        case Call(function="|", operands=(left, right)):
            # What is never there has its default, as in Mixer.
            yield from () if _is_unknown(left) else _obstacles(left)
            yield from _obstacles(right)
        case Call(function="[]", operands=(Attribute(name=name), key)) if name in HEADERS:
            if not isinstance(key, Literal) or not _is_header(str(key.value)):
                yield "the name of a header must be written down"
        case Call(operands=operands):
            for operand in operands:
                yield from _obstacles(operand)


def _is_header(name: str) -> bool:
    return name.replace("-", "").replace("_", "").isalnum() and name.isascii()


def _is_unknown(expression: Expression) -> bool:
    match expression:
        case Attribute(name=name):
            return name not in LOGGED
        case Call(function="[]", operands=(of, _)):
            return _is_unknown(of)
    return False
