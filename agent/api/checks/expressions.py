"""Fields that hold an expression of Mixer's language."""

from __future__ import annotations

from agent.api.checks.schema import Check, text
from agent.api.expressions import Fault, parse
from agent.mesh.expressions.tree import Type


def expression(wanted: Type | None = None, *, empty: bool = False) -> Check:
    """Check an expression of that type (None: any); an empty one only if `empty`."""

    def wrong(value: str) -> str | None:
        try:
            parse(value, wanted)
        except Fault as fault:
            return str(fault)
        return None

    return text(wrong, empty=empty)
