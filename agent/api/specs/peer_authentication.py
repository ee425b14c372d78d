"""PeerAuthentication (security.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

from typing import Any

from agent.api.checks.schema import Check, Report, mapping, message, one_of
from agent.api.checks.scope import SELECTOR
from agent.api.problem import one_line
from agent.api.yaml_text import child

_MTLS = message({"mode": one_of("UNSET", "DISABLE", "PERMISSIVE", "STRICT")})


def _port(text: str) -> str | None:
    if text.isdecimal() and len(text) < 6 and 1 <= int(text) <= 65535:
        return None
    return f'"{one_line(text, 40)}" is not a port (1 to 65535)'


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    if "portLevelMtls" not in spec:
        return
    place = child(path, "portLevelMtls")
    if not spec["portLevelMtls"]:
        report.invalid(place, "is empty (at least one port)")
    elif not (spec.get("selector") or {}).get("matchLabels"):
        report.invalid(place, "needs a selector (a policy of the mesh or a namespace has no ports)")


SPEC: Check = message(
    {"selector": SELECTOR, "mtls": _MTLS, "portLevelMtls": mapping(_MTLS, _port)},
    also=_whole,
)
