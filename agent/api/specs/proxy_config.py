"""ProxyConfig (networking.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

from agent.api.checks.schema import Check, integer, mapping, message, text
from agent.api.checks.scope import SELECTOR

_INT32 = 2**31 - 1

SPEC: Check = message(
    {
        "selector": SELECTOR,
        "concurrency": integer(0, _INT32),
        "environmentVariables": mapping(text(empty=True)),
        "image": message({"imageType": text(empty=True)}),
    }
)
