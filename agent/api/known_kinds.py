"""Checks of the kinds that Istio has and this mesh does not enforce yet: what is wrong with them is still found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.api.checks.schema import Check, Report
from agent.api.envelope import Document
from agent.api.specs import (
    authentication_policy,
    authorization_policy,
    egress_rule,
    envoy_filter,
    gateway,
    ingress,
    ingress_rule,
    mixer,
    mixer_report,
    mixer_rule,
    peer_authentication,
    proxy_config,
    request_authentication,
    service_entry,
    service_role,
    sidecar,
    telemetry,
    wasm_plugin,
    workload_entry,
)

KNOWN_SPECS: Mapping[str, Check] = {
    "EgressRule": egress_rule.SPEC,
    "IngressRule": ingress_rule.SPEC,
    "Gateway": gateway.SPEC,
    "Ingress": ingress.SPEC,
    "ServiceEntry": service_entry.SPEC,
    "WorkloadEntry": workload_entry.SPEC,
    "WorkloadGroup": workload_entry.GROUP_SPEC,
    "Sidecar": sidecar.SPEC,
    "PeerAuthentication": peer_authentication.SPEC,
    "AuthorizationPolicy": authorization_policy.SPEC,
    "RequestAuthentication": request_authentication.SPEC,
    "Telemetry": telemetry.SPEC,
    "EnvoyFilter": envoy_filter.SPEC,
    "ProxyConfig": proxy_config.SPEC,
    "WasmPlugin": wasm_plugin.SPEC,
    "QuotaSpec": mixer.QUOTA_SPEC,
    "QuotaSpecBinding": mixer.QUOTA_SPEC_BINDING,
    "HTTPAPISpec": mixer.HTTP_API_SPEC,
    "HTTPAPISpecBinding": mixer.HTTP_API_SPEC_BINDING,
    "rule": mixer_rule.RULE,
    "denier": mixer_rule.DENIER,
    "checknothing": mixer_rule.CHECK_NOTHING,
    "listchecker": mixer_rule.LIST_CHECKER,
    "listentry": mixer_rule.LIST_ENTRY,
    "memquota": mixer_rule.MEM_QUOTA,
    "quota": mixer_rule.QUOTA,
    "metric": mixer_report.METRIC,
    "logentry": mixer_report.LOG_ENTRY,
    "prometheus": mixer_report.PROMETHEUS,
    "stdio": mixer_report.STDIO,
    "fluentd": mixer_report.FLUENTD,
    "statsd": mixer_report.STATSD,
    "attributemanifest": mixer_report.ATTRIBUTE_MANIFEST,
    "ServiceRole": service_role.SERVICE_ROLE,
    "ServiceRoleBinding": service_role.SERVICE_ROLE_BINDING,
    **dict.fromkeys(("RbacConfig", "ClusterRbacConfig"), service_role.RBAC_CONFIG),
    "Policy": authentication_policy.SPEC,
    "MeshPolicy": authentication_policy.SPEC,
}

_OF_ISTIO_ITSELF = ("webhook-always-reject", "parents", "parent-namespace")
"""Annotations `internal.istio.io/…` that nobody may write."""


def check_metadata(report: Report, document: Document) -> None:
    """Check what a kind wants of its object's name and annotations."""
    check = _METADATA.get(document.kind)
    if check:
        check(report, document)
    for annotation in _OF_ISTIO_ITSELF:
        if f"internal.istio.io/{annotation}" in document.annotations:
            place = f"metadata.annotations.internal.istio.io/{annotation}"
            report.invalid(place, "is not for a document to say (remove it)")
    if authorization_policy.DRY_RUN in document.annotations and document.kind != "AuthorizationPolicy":
        place = f"metadata.annotations.{authorization_policy.DRY_RUN}"
        report.invalid(place, "is for AuthorizationPolicy only (remove it)")


def _named(problem: Callable[[str], str | None]) -> Callable[[Report, Document], None]:
    """Check the name of a kind's objects."""

    def check(report: Report, document: Document) -> None:
        wrong = problem(document.name)
        if wrong:
            report.invalid("metadata.name", wrong)

    return check


def _authorization_policy(report: Report, document: Document) -> None:
    annotation: Any = document.annotations.get(authorization_policy.DRY_RUN)
    if annotation is not None:
        authorization_policy.check_dry_run(report, annotation, document.spec)


_METADATA: Mapping[str, Callable[[Report, Document], None]] = {
    "Gateway": _named(gateway.name_problem),
    **dict.fromkeys(("RbacConfig", "ClusterRbacConfig"), _named(service_role.name_problem)),
    "Policy": authentication_policy.check_name,
    "MeshPolicy": authentication_policy.check_name,
    "Ingress": ingress.check_class,
    "AuthorizationPolicy": _authorization_policy,
}
