"""What of Mixer's language can be asked before a request is let through: the rest is refused by name."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.checks.schema import Check, Report
from agent.api.expressions import Fault, parse
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Type, text
from agent.mesh.mixer import workload_attributes
from agent.mesh.service import Identity, ServiceKey

_BY_CATALOG = frozenset(
    name
    for side in ("source", "destination")
    for name in workload_attributes(side, ServiceKey("", ""), (), Identity("", "") if side == "source" else None)
)
_OF_CONNECTIONS = frozenset({"source.ip", "source.user", "source.principal", "connection.mtls"})
_OF_REQUESTS = frozenset(
    f"request.{name}"
    for name in (
        *("path", "url_path", "host", "method", "scheme", "size", "total_size", "time", "headers", "id"),
        *("useragent", "referer", "api_key"),
    )
) | {"context.time"}
_KNOWN = _BY_CATALOG | _OF_CONNECTIONS | _OF_REQUESTS | {"context.protocol"}
_LIVE = _OF_CONNECTIONS | _OF_REQUESTS
"""What each connection or request has its own of: Envoy is asked, in the words that it has."""
_WORDLESS = frozenset({"toLower", "reverse", "email", "uri", "dnsName", "ip", "timestamp"})


def decidable(wanted: Type | None = None) -> Check:
    """Check an expression, already found to be one, for what cannot be known or asked in time."""

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
        case Attribute(name=name) if name not in _KNOWN:
            yield f"{name} is not known when requests are decided about"
        case Attribute(name="source.ip"):
            yield "source.ip can be compared with an address (== and !=), or be looked up on a list, and no more"
        case Call(function="|", operands=(left, right)):
            # What is never there has its default, as in Mixer.
            yield from () if _is_unknown(left) else _obstacles(left)
            yield from _obstacles(right)
        case Call(function="==" | "!=", operands=(Attribute(name="source.ip"), Literal())):
            return
        case Call(function="==" | "!=", operands=(Literal(), Attribute(name="source.ip"))):
            return
        case Call(function="[]", operands=(Attribute(name="request.headers"), key)) if not isinstance(key, Literal):
            yield "the name of a header must be written down"
        case Call(function=function, operands=operands):
            asks = any(name in _LIVE for operand in operands for name in _names(operand))
            if asks and (function in _WORDLESS or (function == "match" and not isinstance(operands[1], Literal))):
                yield f"{text(expression)[:80]} cannot be asked of each request"
            for operand in operands:
                yield from _obstacles(operand)


def _is_unknown(expression: Expression) -> bool:
    match expression:
        case Attribute(name=name):
            return name not in _KNOWN
        case Call(function="[]", operands=(of, _)):
            return _is_unknown(of)
    return False


def _names(expression: Expression) -> Iterator[str]:
    match expression:
        case Attribute(name=name):
            yield name
        case Call(operands=operands):
            for operand in operands:
                yield from _names(operand)
