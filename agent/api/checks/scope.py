"""Which workloads and namespaces an object is for: selectors, target references and exportTo; checks only. Pure."""

from __future__ import annotations

from typing import Any

from agent.api.checks.addresses import is_label
from agent.api.checks.schema import Check, Report, like, listing, mapping, message, text
from agent.api.problem import one_line
from agent.api.yaml_text import child

_TARGETS = {
    ("", "Service"),
    ("core", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
}

_NO_GATEWAY = "there is no Gateway API here; a policy for gateway hosts selects their labels (istio: ingressgateway)"
_NO_TARGET = {
    "Gateway": _NO_GATEWAY,
    "GatewayClass": _NO_GATEWAY,
    "ServiceEntry": "nothing of ours stands before hosts outside; select the workloads that the entry selects",
}


def _no_wildcard(word: str) -> str | None:
    return f'"{one_line(word, 70)}" has a wildcard in it, which a selector cannot have' if "*" in word else None


def _key(word: str) -> str | None:
    return "a label without a name" if not word else _no_wildcard(word)


_SELECTOR_LABELS = mapping(text(_no_wildcard, empty=True), _key)
SELECTOR: Check = message({"matchLabels": _SELECTOR_LABELS})
"""Of the security and telemetry kinds."""
WORKLOAD_SELECTOR: Check = message({"labels": _SELECTOR_LABELS})
"""Of the networking kinds."""


def _target(report: Report, path: str, target: dict[str, Any]) -> None:
    if target.get("namespace"):
        report.invalid(child(path, "namespace"), "must not be given (another namespace's objects cannot be targets)")
    group, kind = target.get("group", ""), target.get("kind", "")
    if (group, kind) not in _TARGETS:
        allowed = ", ".join(sorted({kind for _, kind in _TARGETS}))
        report.invalid(path, f'"{one_line(f"{group}/{kind}", 70)}" cannot be a target (allowed: {allowed})')
    elif kind != "Service":
        report.unsupported(child(path, "kind"), f"{kind}: {_NO_TARGET[kind]}")
    elif target.get("sectionName"):
        report.unsupported(child(path, "sectionName"), "a policy is for all ports of a service (say destination.port)")


_TARGET_REF = message(
    {
        "group": text(empty=True),
        "kind": text(empty=True),
        "name": text(),
        "namespace": text(empty=True),
        "sectionName": text(empty=True),
    },
    required=("name",),
    also=_target,
)
TARGETS: dict[str, Check] = {"selector": SELECTOR, "targetRef": _TARGET_REF, "targetRefs": listing(_TARGET_REF)}
"""The fields of the security and telemetry kinds that say what they are for."""


def one_target(report: Report, path: str, spec: dict[str, Any]) -> None:
    """Want at most one way to say what a policy is for."""
    given = [key for key in TARGETS if key in spec and (key != "targetRefs" or spec[key])]
    if len(given) > 1:
        report.invalid(path, f"{' and '.join(given)} exclude each other")


def visible_in(*, nowhere: bool = False) -> Check:
    """Check exportTo; `nowhere` allows `~`, which only a ServiceEntry can say."""
    words = ("*", ".", "~") if nowhere else ("*", ".")

    @like(listing(text()))
    def check(report: Report, path: str, value: Any) -> None:
        listing(text())(report, path, value)
        names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
        for index, name in enumerate(names):
            if name and name not in words and not is_label(name):
                report.invalid(f"{path}[{index}]", f'"{one_line(name, 70)}" is not a namespace (or one of {words})')
            elif ("." if name == report.namespace else name) in _dots(names[:index], report.namespace):
                report.invalid(f"{path}[{index}]", f'"{one_line(name, 70)}" is given twice')
        for alone in ("*", "~"):
            if alone in names and len(names) > 1:
                report.invalid(path, f'"{alone}" does not go with others')

    return check


def _dots(names: list[str], namespace: str) -> list[str]:
    """Return the names with this object's own namespace written as `.`."""
    return ["." if name == namespace else name for name in names]
