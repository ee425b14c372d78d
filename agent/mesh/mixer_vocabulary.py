"""What of Mixer's vocabulary is known where requests are decided about, and what each of them has its own of. Pure.

Users stand in certificates with a scheme that Mixer's users lack, and Envoy has no words to take it off: so a user is
compared with what is written down, which is given the scheme, and with nothing else that a request brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.mesh.expressions.tree import Attribute, Call, Expression
from agent.mesh.expressions.vocabulary import VOCABULARY

SCHEME = "spiffe://"
USERS = frozenset({"source.user", "source.principal"})
OF_CONNECTIONS = USERS | {"source.ip", "connection.mtls"}
OF_REQUESTS = frozenset(
    f"request.{name}"
    for name in (
        *("path", "url_path", "host", "method", "scheme", "size", "total_size", "time", "headers", "id"),
        *("useragent", "referer", "api_key"),
    )
) | {"context.time"}
LIVE = OF_CONNECTIONS | OF_REQUESTS
"""What each connection or request has its own of: Envoy is asked, in the words that it has."""
_BY_CATALOG = (
    *("labels", "service", "service.host", "service.name", "service.namespace", "name", "namespace"),
    *("workload.name", "workload.namespace"),
)
BY_CATALOG = frozenset(f"{side}.{name}" for side in ("source", "destination") for name in _BY_CATALOG) | {
    "source.serviceAccount"
}
KNOWN = BY_CATALOG | LIVE | {"context.protocol"}
UNKNOWN = frozenset(VOCABULARY) - KNOWN
"""What is absent, whatever the request."""
_PRESENT = frozenset({"source.ip"})


def settled(expression: Expression) -> Expression:
    """Return it without choices that are made already: `origin.ip | source.ip | ip("0.0.0.0")` is `source.ip`."""
    if not isinstance(expression, Call):
        return expression
    operands = tuple(settled(operand) for operand in expression.operands)
    if expression.function == "|":
        first, second = operands
        if _is_unknown(first):
            return second
        if isinstance(first, Attribute) and first.name in _PRESENT:
            return first
    return Call(expression.function, operands, expression.type)


def _is_unknown(expression: Expression) -> bool:
    match expression:
        case Attribute(name=name):
            return name in UNKNOWN
        case Call(function="[]", operands=(of, _)):
            return _is_unknown(of)
    return False


def names(expression: Expression) -> Iterator[str]:
    """Yield the names of the attributes that it asks for."""
    match expression:
        case Attribute(name=name):
            yield name
        case Call(operands=operands):
            for operand in operands:
                yield from names(operand)


def branches(expression: Expression) -> Iterator[Expression]:
    """Yield what a value may be chosen from by `|` and conditional()."""
    match expression:
        case Call(function="|" | "conditional", operands=(*_, left, right)):
            yield from branches(left)
            yield from branches(right)
        case _:
            yield expression


def is_user(expression: Expression) -> bool:
    """Tell whether it is a caller's user."""
    return isinstance(expression, Attribute) and expression.name in USERS


def may_be_user(expression: Expression) -> bool:
    """Tell whether its value can be a caller's user."""
    return any(is_user(one) for one in branches(expression))


_ANCHOR = re.compile(r"\\[AB]|(?<!\[)(?<!\\)\^|\\Q")


def user_pattern(pattern: str) -> str | None:
    """Return what finds in a user with the scheme what a pattern finds in one without; None: that can't be told."""
    anchored, rest = pattern.startswith("^"), pattern.removeprefix("^")
    if _ANCHOR.search(rest) or (anchored and "|" in _outside_groups(rest)):
        return None
    return f"^{SCHEME}{rest}" if anchored else f"^{SCHEME}(?s:.*)(?:{rest})"


def _outside_groups(pattern: str) -> str:
    """Return what of a pattern stands in no group."""
    depth, found = 0, ""
    for char in re.sub(r"\\.|\[[^]]*\]", "", pattern):
        depth += (char == "(") - (char == ")")
        found += char if depth == 0 else ""
    return found
