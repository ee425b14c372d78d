"""localityLbSetting: what it may hold (Istio's ValidateLocalityLbSetting)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from agent.api.checks import words
from agent.api.checks.schema import Check, Report, boolean, integer, like, listing, mapping, message, text
from agent.api.problem import one_line
from agent.api.yaml_text import child

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"
SUBZONE_LABEL = "topology.istio.io/subzone"
LOCALITY_LABELS = (REGION_LABEL, ZONE_LABEL, SUBZONE_LABEL)


def _pattern(value: str) -> str | None:
    """Want `region/zone/subzone`, later parts left out or the last one `*`."""
    if len(value) > 256:
        return "is longer than 256 characters"
    if not all(value.split("/", 2)):
        return f'"{one_line(value, 60)}" has an empty part (region/zone/subzone)'
    if "*" in value[:-1] or (value.endswith("*") and value != "*" and not value.endswith("/*")):
        return f'"{one_line(value, 60)}" can have one *, as the whole last part'
    return None


def _region(value: str) -> str | None:
    if "/" in value or "*" in value:
        return f'"{one_line(value, 60)}" is not a region (failover is between regions, without "/" and "*")'
    return None


def _overlap(patterns: Iterable[str]) -> str | None:
    """Return a pattern that adds nothing: an earlier one means all that it does, or it is a region spoken of before."""
    seen: list[list[str]] = []
    for pattern in patterns:
        parts = [part for part in pattern.split("/", 2) if part != "*"]
        for other in seen:
            is_region = "/" not in pattern and other[:1] == parts
            if parts[: len(other)] == other or (is_region and pattern != "*"):
                return pattern
        seen.append(parts)
    return None


_SHARES = mapping(integer(1, 100), lambda key: _pattern(key) if isinstance(key, str) else "must be text", at_least=1)


@like(_SHARES)
def _shares(report: Report, path: str, value: Any) -> None:
    _SHARES(report, path, value)
    if not isinstance(value, dict) or not all(type(share) is int for share in value.values()):
        return
    if (total := sum(value.values())) != 100:
        report.invalid(path, f"the shares add up to {total} (they must add up to 100)")
    if twice := _overlap(sorted((key for key in value if isinstance(key, str)), key=len)):
        report.invalid(child(path, one_line(twice, 60)), "overlaps with another one")


def _different(report: Report, path: str, failover: dict[str, Any]) -> None:
    if failover.get("from") == failover.get("to"):
        report.invalid(path, "from and to must be different regions")


def _label(value: str) -> str | None:
    key, _, wanted = value.partition("=")
    return words.label_key(key) or words.label_value(wanted)


def _whole(report: Report, path: str, setting: dict[str, Any]) -> None:
    if setting.get("distribute") and setting.get("failover"):
        report.invalid(path, "distribute and failover exclude each other")
    if setting.get("failover") and set(setting.get("failoverPriority") or ()) & set(LOCALITY_LABELS):
        report.invalid(child(path, "failoverPriority"), "a topology label does not go with failover")
    if twice := _overlap(item["from"] for item in setting.get("distribute") or ()):
        report.invalid(child(path, "distribute"), f'"{one_line(twice, 60)}" overlaps with the from of another one')


LOCALITY_SETTING: Check = message(
    {
        "enabled": boolean,
        "distribute": listing(message({"from": text(_pattern), "to": _shares}, required=("from", "to")), at_most=100),
        "failover": listing(
            message({"from": text(_region), "to": text(_region)}, required=("from", "to"), also=_different),
            at_most=100,
        ),
        "failoverPriority": listing(text(_label), at_most=20),
    },
    also=_whole,
)
