"""ServiceRole, ServiceRoleBinding and RbacConfig (rbac.istio.io): their specs as Istio 0.8 checked them."""

from __future__ import annotations

from typing import Any

from agent.api.checks.schema import Check, Report, listing, mapping, message, one_of, text
from agent.api.yaml_text import child

RBAC_CONFIG_NAME = "default"
_MODE = one_of("ENFORCED", "PERMISSIVE")
_TEXTS = listing(text(empty=True))
_SOME = listing(text(empty=True), at_least=1)

SERVICE_ROLE: Check = message(
    {
        "rules": listing(
            message(
                {
                    "services": _SOME,
                    "paths": _TEXTS,
                    "methods": _SOME,
                    "constraints": listing(message({"key": text(), "values": _SOME}, required=("key", "values"))),
                },
                required=("services", "methods"),
            ),
            at_least=1,
        )
    },
    required=("rules",),
)


def _somebody(report: Report, path: str, subject: dict[str, Any]) -> None:
    if not any(subject.get(key) for key in ("user", "group", "properties")):
        report.invalid(path, "names nobody (give user, group or properties)")


_SUBJECT = message(
    {"user": text(empty=True), "group": text(empty=True), "properties": mapping(text(empty=True))}, also=_somebody
)
SERVICE_ROLE_BINDING: Check = message(
    {
        "subjects": listing(_SUBJECT, at_least=1),
        "roleRef": message({"kind": one_of("ServiceRole"), "name": text()}, required=("kind", "name")),
        "mode": _MODE,
    },
    required=("subjects", "roleRef"),
)


def _target(report: Report, path: str, spec: dict[str, Any]) -> None:
    for mode, key in (("ON_WITH_INCLUSION", "inclusion"), ("ON_WITH_EXCLUSION", "exclusion")):
        if spec.get("mode") == mode and key not in spec:
            report.invalid(child(path, key), f"is missing (with {mode}; {{}} is nothing)")


_TARGET = message({"services": _TEXTS, "namespaces": _TEXTS})
RBAC_CONFIG: Check = message(
    {
        "mode": one_of("OFF", "ON", "ON_WITH_INCLUSION", "ON_WITH_EXCLUSION"),
        "inclusion": _TARGET,
        "exclusion": _TARGET,
        "enforcementMode": _MODE,
    },
    also=_target,
)


def name_problem(name: str) -> str | None:
    """Return what is wrong with the name of an RbacConfig: there is one, of one name."""
    return None if name == RBAC_CONFIG_NAME else f'must be "{RBAC_CONFIG_NAME}" (there is one for the mesh)'
