"""What of Mixer's language can be asked before a request is let through: the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.checks.schema import Check, Report
from agent.api.expressions import Fault, parse
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Type, text
from agent.mesh.mixer_vocabulary import KNOWN, LIVE, branches, is_user, may_be_user, names, settled, user_pattern

_WORDLESS = frozenset({"toLower", "reverse", "email", "uri", "dnsName", "ip", "timestamp"})
_COMPARING = frozenset({"==", "!=", "<", "<=", ">", ">="})
_LARGEST = 2**53
"""A sum of more could leave the 64 bits, which Mixer and Envoy take differently."""
_USERS = "a caller's user can be compared with what is written down, and no more"


def decidable(wanted: Type | None = None, types: tuple[Type, ...] = ()) -> Check:
    """Check an expression, already found to be one, for what cannot be known or asked in time.

    `types` are what its value may be where each request has its own (none: any).
    """

    def check(report: Report, path: str, value: object) -> None:
        try:
            found = settled(parse(value, wanted)) if isinstance(value, str) and value else None
        except Fault:
            return  # said already
        reason = next(_obstacles_of(found, types, wanted is Type.BOOL), None) if found is not None else None
        if reason:
            report.unsupported(path, reason)

    return check


def _obstacles_of(expression: Expression, types: tuple[Type, ...], is_condition: bool) -> Iterator[str]:
    if isinstance(expression, Attribute) and expression.name == "source.ip" and Type.IP_ADDRESS in types:
        return
    yield from _obstacles(expression, is_condition)
    if types and expression.type not in types and _is_live(expression):
        yield f"{text(expression)[:60]}: {' or '.join(types)} is wanted, and this is {expression.type}"


def _obstacles(expression: Expression, is_condition: bool = False) -> Iterator[str]:
    """Yield what is in the way; `is_condition`: that it holds is all that is asked, not what it is worth."""
    match expression:
        case Attribute(name=name) if name not in KNOWN:
            yield f"{name} is not known when requests are decided about"
        case Attribute(name="source.ip"):
            yield "source.ip can be compared with an address (== and != of a match) or be looked up on a list, no more"
        case Call(function="==" | "!=", operands=(Attribute(name="source.ip"), Literal())) if is_condition:
            return
        case Call(function="==" | "!=", operands=(Literal(), Attribute(name="source.ip"))) if is_condition:
            return
        case Call(function="[]", operands=(Attribute(name="request.headers"), key)):
            if not isinstance(key, Literal):
                yield "the name of a header must be written down"
        case Call(operands=operands):
            if _is_wordless(expression):
                yield f"{text(expression)[:80]} cannot be asked of each request"
            if any(may_be_user(one) for one in operands) and not _takes_users(expression):
                yield f"{text(expression)[:80]}: {_USERS}"
            joins = expression.function in ("&&", "||") or (expression.function == "|" and expression.type is Type.BOOL)
            for operand in operands:
                yield from _obstacles(operand, is_condition and joins)


def _is_wordless(call: Call) -> bool:
    """Tell whether Envoy has no words for a function of what a request has its own of."""
    if not any(_is_live(operand) for operand in call.operands):
        return False
    match call.function:
        case "match":
            return not isinstance(call.operands[1], Literal)
        case "matches":
            return not isinstance(call.operands[0], Literal)
        case "+" | "-" if call.type is Type.INT64:
            return any(isinstance(one, Literal) and abs(_number(one)) > _LARGEST for one in call.operands)
        case "+":
            return call.type is Type.STRING
    return call.function in _WORDLESS or any(operand.type is Type.STRING_MAP for operand in call.operands)


def _number(literal: Literal) -> int:
    return literal.value if isinstance(literal.value, int) else 0


def _takes_users(call: Call) -> bool:
    """Tell whether a function can be asked of operands of which some may be users."""
    match call.function, call.operands:
        case "|" | "conditional", _:
            return True
        case "startsWith" | "endsWith" | "match", (_, part):
            return isinstance(part, Literal)
        case "matches", (Literal(value=str(pattern)), _):
            return user_pattern(pattern) is not None
    every = [one for operand in call.operands for one in branches(operand)]
    return call.function in _COMPARING and all(is_user(one) or not _is_live(one) for one in every)


def _is_live(expression: Expression) -> bool:
    return any(name in LIVE for name in names(expression))
