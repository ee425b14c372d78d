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
from agent.mesh.names import CLUSTER_DOMAIN, CONSUL_DOMAIN


def _subsets(report: Report, path: str, value: Any) -> None:
    _SUBSETS(report, path, value)
    names: list[Any] = []
    for index, subset in enumerate(value if isinstance(value, list) else ()):
        name = subset.get("name") if isinstance(subset, dict) else None
        if isinstance(name, str) and name in names:
            report.invalid(f"{path}[{index}].name", f'"{name}" is given twice (each subset has its own name)')
        names.append(name)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    if _is_of_mesh(spec["host"]):
        _name_passthrough(report, path, spec)
    exported = spec.get("exportTo") or []
    if "workloadSelector" in spec and exported not in ([], ["."], [report.namespace]):
        report.invalid(child(path, "exportTo"), 'a rule with a workloadSelector is for its own namespace alone (".")')


def _is_of_mesh(host: str) -> bool:
    """Tell whether a host can only mean services of the catalog; others may be outside as well."""
    name = host.rstrip(".").lower()
    return "." not in name or name.endswith((f".{CONSUL_DOMAIN}", f".{CLUSTER_DOMAIN}", ".svc"))


def _name_passthrough(report: Report, path: str, spec: dict[str, Any]) -> None:
    """Name what asks for the instance that a connection was going to; of other hosts the agent knows (a fault)."""
    policies = [(child(path, "trafficPolicy"), spec.get("trafficPolicy") or {})]
    for index, subset in enumerate(spec.get("subsets") or ()):
        policies.append((f"{child(path, 'subsets')}[{index}].trafficPolicy", subset.get("trafficPolicy") or {}))
    for place, policy in tuple(policies):
        ports = enumerate(policy.get("portLevelSettings") or ())
        policies += [(f"{child(place, 'portLevelSettings')}[{index}]", settings) for index, settings in ports]
    for place, policy in policies:
        if (policy.get("loadBalancer") or {}).get("simple") == "PASSTHROUGH":
            reason = "callers reach services at virtual addresses, so there is no original instance to pass to"
            report.unsupported(child(place, "loadBalancer.simple"), f"PASSTHROUGH can't be enforced here: {reason}")


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
