"""IstioService (config.istio.io): how rules of the first generation name a service, checked and resolved. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.schema import Check, Report, text
from agent.api.lowering.catalog import Catalog
from agent.api.yaml_text import child
from agent.mesh.gateway import INGRESS_SERVICE
from agent.mesh.names import CONSUL_DOMAIN, DEFAULT_NAMESPACE
from agent.mesh.routes import SourceMatch
from agent.mesh.service import ServiceKey, labels_of


def _service(value: str) -> str | None:
    """Want a host name or `*`, an address, or a range of addresses."""
    return addresses.subnet(value) if "/" in value else words.wildcard_host(value)


SERVICE_FIELDS: dict[str, Check] = {
    "name": text(words.dns_label),
    "namespace": text(words.dns_label),
    "domain": text(words.host),
    "service": text(_service),
}
"""All but its labels, which mean something else in each place."""


INGRESS = ServiceKey(DEFAULT_NAMESPACE, INGRESS_SERVICE)
"""What stands for a gateway as the source of requests."""


class Unresolved(Exception):
    """A host or subset that a rule names does not exist (yet); its text is the fault's reason."""


def service_whole(report: Report, path: str, service: dict[str, Any]) -> None:
    """ValidateIstioService: `service` says all, or `name` with the rest by default."""
    if "service" not in service:
        if "name" not in service:
            report.invalid(child(path, "name"), "is missing (name, or service with the full host)")
        return
    for key in ("name", "namespace", "domain"):
        if key in service:
            report.invalid(child(path, key), "does not go with service, which is the full host (remove one of them)")
    if service["service"] == "*":
        report.unsupported(child(path, "service"), 'the wildcard "*" is known, but not supported yet')
    elif "/" in service["service"]:
        report.unsupported(child(path, "service"), "a range of addresses is known, but not supported yet (give a name)")


def resolve_service(reference: Mapping[str, Any], namespace: str, catalog: Catalog) -> ServiceKey:
    """Return the service that a rule of that namespace means; raises Unresolved."""
    host, namespace = named_host(reference, namespace)
    found = catalog.resolve(host, namespace)
    if found is None:
        raise Unresolved(f"service {host} is not in the catalog")
    return found


def source_match(source: Mapping[str, Any], namespace: str, catalog: Catalog) -> SourceMatch:
    """Return which callers a `source` means; raises Unresolved."""
    labels = labels_of(source.get("labels") or {})
    if source.get("name") == INGRESS_SERVICE:
        return SourceMatch(INGRESS, None, labels)  # whatever namespace it is in elsewhere
    if source.get("service") is None and not source.get("domain"):
        return SourceMatch(ServiceKey(source.get("namespace") or namespace, source["name"]), None, labels)
    return SourceMatch(resolve_service(source, namespace, catalog), None, labels)


def named_host(reference: Mapping[str, Any], namespace: str) -> tuple[str, str]:
    """Return the host that service, or name, namespace and domain make, and the namespace to resolve it in.

    FQDN = name + namespace + domain; Consul's domain has no namespace in it, so the reference's own decides there.
    """
    if (host := reference.get("service")) is not None:
        return host, namespace
    name = reference["name"]
    namespace = reference.get("namespace") or namespace
    domain = (reference.get("domain") or "").rstrip(".")
    if domain in ("", CONSUL_DOMAIN):
        return f"{name}.{namespace}", namespace
    return f"{name}.{namespace}.{domain}", namespace
