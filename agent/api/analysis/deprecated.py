"""Findings about fields that Istio has deprecated, and what to write in their place; they are honoured. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.api.analysis.finding import DEPRECATED, Finding, finding
from agent.api.analysis.world import World
from agent.api.yaml_text import child

_INSTEAD = {
    ("VirtualService", "fault.delay.percent"): "percentage.value",
    ("VirtualService", "mirrorPercent"): "mirrorPercentage.value",
    ("VirtualService", "corsPolicy.allowOrigin"): "allowOrigins",
    ("DestinationRule", "outlierDetection.consecutiveErrors"): "consecutiveGatewayErrors or consecutive5xxErrors",
    ("DestinationRule", "loadBalancer.warmupDurationSecs"): "warmup.duration",
    ("DestinationRule", "consistentHash.minimumRingSize"): "ringHash.minimumRingSize",
}
"""(kind, the end of a field's path) → what to write."""


def find_deprecated(world: World) -> Iterator[Finding]:
    """Yield a finding for each such field."""
    for document in world.documents:
        endings = {f".{end}": instead for (kind, end), instead in _INSTEAD.items() if kind == document.kind}
        for path in _fields(document.spec, "spec") if endings else ():
            instead = next((word for end, word in endings.items() if path.endswith(end)), None)
            if instead is not None:
                yield finding(DEPRECATED, document, path, f"is deprecated (write {instead})")


def _fields(value: Any, path: str) -> Iterator[str]:
    """Yield the path of each field that has a value."""
    if isinstance(value, dict):
        for key, item in value.items():
            if item is not None:
                yield child(path, key)
                yield from _fields(item, child(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _fields(item, f"{path}[{index}]")
