"""What an expression is worth, when all is known of a request, and how much of it is left when only something is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.mesh.expressions.functions import FUNCTIONS
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Nothing, Type, Value

Known = Callable[[Attribute], Value | Expression | None]
"""Gives an attribute's value, or an expression in its place (itself: not known); None: it is absent."""


def evaluate(expression: Expression, values: Mapping[str, Value]) -> Value | None:
    """Return its value; None if it has none. An attribute that is not among the values is absent."""
    rest = fold(expression, lambda attribute: values.get(attribute.name))
    return rest.value if isinstance(rest, Literal) else None


def fold(expression: Expression, known: Known) -> Expression:
    """Return what is left of it once that much is known: a Literal or Nothing if nothing is left open."""
    match expression:
        case Literal() | Nothing():
            return expression
        case Attribute():
            found = known(expression)
            if found is None:
                return Nothing(expression.type)
            if isinstance(found, Literal | Attribute | Call | Nothing):
                return found
            return Literal(found, expression.type)
        case Call(function="&&" | "||"):
            return _logical(expression, known)
        case Call(function="|"):
            return _default(expression, known)
        case Call(function="conditional"):
            return _conditional(expression, known)
        case Call(function="[]"):
            return _index(expression, known, missing="")
        case Call():
            return _applied(expression, tuple(fold(operand, known) for operand in expression.operands))


def _applied(call: Call, operands: tuple[Expression, ...]) -> Expression:
    if any(isinstance(operand, Nothing) for operand in operands):
        return Nothing(call.type)
    values = [operand.value for operand in operands if isinstance(operand, Literal)]
    if len(values) < len(operands):
        return Call(call.function, operands, call.type)
    try:
        return Literal(FUNCTIONS[call.function].worth(*values), call.type)
    except (ValueError, OverflowError):
        return Nothing(call.type)


def _logical(call: Call, known: Known) -> Expression:
    """`&&` and `||`: the left one first, and the right one only where the left one does not decide."""
    decides = call.function == "||"
    left = fold(call.operands[0], known)
    if isinstance(left, Nothing) or (isinstance(left, Literal) and left.value is decides):
        return left
    right = fold(call.operands[1], known)
    if isinstance(left, Literal):
        return right
    if isinstance(right, Literal) and right.value is not decides:
        return left
    return Call(call.function, (left, right), Type.BOOL)


def _default(call: Call, known: Known) -> Expression:
    left, right = call.operands
    is_index = isinstance(left, Call) and left.function == "[]"
    first = _index(left, known, missing=None) if is_index else fold(left, known)
    if isinstance(first, Nothing):
        return fold(right, known)
    if isinstance(first, Literal):
        return first
    second = fold(right, known)
    # An index must stay at the left of `|`: there alone a missing key is absent.
    return Call("|", (first, second), call.type)


def _index(call: Expression, known: Known, missing: str | None) -> Expression:
    """A map's index; `missing` is what a key is worth that the map lacks (None: absent)."""
    assert isinstance(call, Call)
    of, key = (fold(operand, known) for operand in call.operands)
    if isinstance(of, Nothing) or isinstance(key, Nothing):
        return Nothing(Type.STRING)
    if not (isinstance(of, Literal) and isinstance(key, Literal)):
        return Call("[]", (of, key), Type.STRING)
    assert isinstance(of.value, Mapping)
    found = of.value.get(str(key.value), missing)
    return Nothing(Type.STRING) if found is None else Literal(found, Type.STRING)


def _conditional(call: Call, known: Known) -> Expression:
    condition = fold(call.operands[0], known)
    if isinstance(condition, Literal):
        return fold(call.operands[1 if condition.value else 2], known)
    if isinstance(condition, Nothing):
        return Nothing(call.type)
    return Call("conditional", (condition, *(fold(operand, known) for operand in call.operands[1:])), call.type)
