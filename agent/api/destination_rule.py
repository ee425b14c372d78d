"""DestinationRule (networking.istio.io): what its spec may hold."""

from __future__ import annotations

from typing import Any

from agent.api import words
from agent.api.fields import LABELS
from agent.api.schema import UNSUPPORTED, Check, Report, listing, message, text
from agent.api.virtual_service import export_to, wildcardless


def _subsets(report: Report, path: str, value: Any) -> None:
    listing(_SUBSET, at_most=256)(report, path, value)
    names: list[Any] = []
    for index, subset in enumerate(value if isinstance(value, list) else ()):
        name = subset.get("name") if isinstance(subset, dict) else None
        if isinstance(name, str) and name in names:
            report.invalid(f"{path}[{index}].name", f'"{name}" is given twice (each subset has its own name)')
        names.append(name)


_SUBSET = message(
    {"name": text(words.dns_label), "labels": LABELS, "trafficPolicy": UNSUPPORTED},
    required=("name",),
)

SPEC: Check = message(
    {
        "host": wildcardless,
        "subsets": _subsets,
        "exportTo": export_to,
        "trafficPolicy": UNSUPPORTED,
        "workloadSelector": UNSUPPORTED,
    },
    required=("host",),
)
