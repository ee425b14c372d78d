"""DestinationRule (networking.istio.io): what its spec may hold."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses
from agent.api.checks.fields import LABELS
from agent.api.checks.schema import Check, Report, like, listing, message, text
from agent.api.checks.scope import SELECTOR, visible_in
from agent.api.checks.traffic_policy import TRAFFIC_POLICY
from agent.api.specs.virtual_service import wildcardless
from agent.api.yaml_text import child


def _subsets(report: Report, path: str, value: Any) -> None:
    _SUBSETS(report, path, value)
    names: list[Any] = []
    for index, subset in enumerate(value if isinstance(value, list) else ()):
        name = subset.get("name") if isinstance(subset, dict) else None
        if isinstance(name, str) and name in names:
            report.invalid(f"{path}[{index}].name", f'"{name}" is given twice (each subset has its own name)')
        names.append(name)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    exported = spec.get("exportTo") or []
    if "workloadSelector" in spec and exported not in ([], ["."], [report.namespace]):
        report.invalid(child(path, "exportTo"), 'a rule with a workloadSelector is for its own namespace alone (".")')


_SUBSET = message(
    {"name": text(addresses.label), "labels": LABELS, "trafficPolicy": TRAFFIC_POLICY},
    required=("name",),
)
_SUBSETS = listing(_SUBSET, at_most=256)

SPEC: Check = message(
    {
        "host": wildcardless,
        "subsets": like(_SUBSETS)(_subsets),
        "exportTo": visible_in(),
        "trafficPolicy": TRAFFIC_POLICY,
        "workloadSelector": SELECTOR,
    },
    required=("host",),
    also=_whole,
)
