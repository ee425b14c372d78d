"""Documents of the first generation (config.istio.io) to networking.istio.io/v1, and what changes meaning. Pure.

All RouteRules of a service become one VirtualService, its routes in order of precedence; the labels they route to
become subsets of one DestinationRule, which DestinationPolicies fill with their settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from msgspec import Struct, field

from agent.api.conversion.ingress import convert_ingress
from agent.api.conversion.rule import (
    Subsets,
    convert_connections,
    convert_policy,
    convert_route,
    holds_for_connections,
    looks_at_connections,
    looks_at_requests,
    service_host,
)
from agent.api.envelope import Document
from agent.mesh.names import CLUSTER_DOMAIN

_VERSION = "networking.istio.io/v1"
_OLD = ("RouteRule", "DestinationPolicy", "EgressRule", "IngressRule", "Ingress")


class Converted(Struct, frozen=True):
    """Plain documents in Istio's shape, and a line for each thing that means something else now."""

    documents: list[dict[str, Any]]
    notes: list[str]


class _Service(Struct):
    """What is said about one service."""

    rules: list[Document] = field(default_factory=list)
    policies: list[Document] = field(default_factory=list)


def convert(documents: Iterable[Document]) -> Converted:
    """Return the new documents (others than the first generation's are left out) and the notes."""
    services: dict[tuple[str, str], _Service] = {}
    edges: list[Document] = []
    converted = Converted([], [])
    for document in documents:
        if document.kind in ("RouteRule", "DestinationPolicy"):
            key = (document.namespace, service_host(document.spec["destination"], document.namespace))
            found = services.setdefault(key, _Service())
            (found.rules if document.kind == "RouteRule" else found.policies).append(document)
        elif document.kind == "EgressRule":
            _egress(document, converted)
        elif document.kind in ("Ingress", "IngressRule"):
            edges.append(document)
    for namespace in dict.fromkeys(namespace for namespace, _ in services):
        _convert_namespace(
            namespace, {host: found for (own, host), found in services.items() if own == namespace}, converted
        )
    for document in edges:
        ruled = {host for (namespace, host), found in services.items() if found.rules}
        made, notes = convert_ingress(document, ruled)
        converted.documents.extend(_document(kind, name, document.namespace, spec) for kind, name, spec in made)
        for path, reason in notes:
            _note(converted, document, path, reason)
    return converted


def is_first_generation(document: Document) -> bool:
    """Tell whether `convert` has something to do with a document."""
    return document.kind in _OLD


def _convert_namespace(namespace: str, services: dict[str, _Service], converted: Converted) -> None:
    """Add what is made of a namespace's rules: a service's subsets, whichever rules lead to them, stand together."""
    subsets, policies = Subsets(), dict[str, dict[str, Any]]()
    for host, found in services.items():
        if found.rules:
            _convert_rules(namespace, host, found.rules, subsets, converted)
    for host, found in services.items():
        # Of the first generation alone: round robin, unless a policy says otherwise.
        policies[host] = {
            "loadBalancer": {"simple": "ROUND_ROBIN"},
            **_whole_policy(host, found.policies, subsets, converted),
        }
    for host in sorted({*subsets.hosts(), *policies}):
        spec = {"host": host, "trafficPolicy": policies.get(host), "subsets": subsets.of(host)}
        spec = {key: value for key, value in spec.items() if value}
        converted.documents.append(_document("DestinationRule", _name(host), namespace, spec))


def _convert_rules(namespace: str, host: str, rules: list[Document], subsets: Subsets, converted: Converted) -> None:
    """Add the VirtualService of a service."""
    ordered = sorted(rules, key=lambda rule: (-(rule.spec.get("precedence") or 0), rule.name))
    spec = {"hosts": [host], **_requests(ordered, host, subsets, converted)}
    spec |= _connections(ordered, host, subsets, converted)
    converted.documents.append(_document("VirtualService", _name(host), namespace, spec))


def _whole_policy(host: str, policies: list[Document], subsets: Subsets, converted: Converted) -> dict[str, Any]:
    """Return what policies say of a service as a whole; what they say of labels goes to the subsets."""
    whole: dict[str, Any] = {}
    for labels in filter(None, map(_labels, policies)):
        subsets.name(host, labels)
    # The most labels count first, then the first by name: it comes last.
    by_name = sorted(policies, key=lambda document: document.name, reverse=True)
    for document in sorted(by_name, key=lambda document: len(_labels(document))):
        policy, notes = convert_policy(document)
        if labels := _labels(document):
            subsets.set_policy(host, labels, policy)
        else:
            whole |= policy
        for path, reason in notes:
            _note(converted, document, path, reason)
    return whole


def _labels(document: Document) -> dict[str, str]:
    return document.spec["destination"].get("labels") or {}


def _requests(rules: list[Document], host: str, subsets: Subsets, converted: Converted) -> dict[str, Any]:
    """Return the http routes; none where every rule is about connections alone."""
    rules, routes = [rule for rule in rules if not looks_at_connections(rule)], []
    for rule in rules:
        route, notes = convert_route(rule, host, subsets)
        routes.append(route)
        for path, reason in notes:
            _note(converted, rule, path, reason)
    if routes and all("match" in route for route in routes):
        # Without a match the first generation routes to every instance, a VirtualService answers 404.
        routes.append({"name": "default", "route": [{"destination": {"host": host}}]})
    elif routes and ("match" in routes[-1] or sum("match" not in route for route in routes) > 1):
        _note(converted, rules[-1], "", "rules after the first one without a match were never used, and are not now")
    return {"http": routes} if routes else {}


def _connections(rules: list[Document], host: str, subsets: Subsets, converted: Converted) -> dict[str, Any]:
    """Return the tcp routes; none where the rules show that the service speaks HTTP.

    The first generation has one kind of rule for both, and only the catalog knows what a service speaks.
    """
    if not any(map(looks_at_connections, rules)) and any(map(looks_at_requests, rules)):
        return {}
    routes = []
    for rule in filter(holds_for_connections, rules):
        route, notes = convert_connections(rule, host, subsets)
        routes.append(route)
        for path, reason in notes if looks_at_connections(rule) else ():
            _note(converted, rule, path, reason)
    alike = not any(map(looks_at_connections, rules))
    if routes:
        kinds = f"http routes are for HTTP ports, tcp routes for others: keep those that {host} has; " if alike else ""
        tls = "these rules held on TLS and HTTPS ports too: write tls routes with match.sniHosts for such"
        _note(converted, rules[0], "", f"{kinds}{tls}")
    return {"tcp": routes} if routes else {}


def _egress(document: Document, converted: Converted) -> None:
    service, ports = document.spec["destination"]["service"], document.spec["ports"]
    spec: dict[str, Any] = {"hosts": [service], "location": "MESH_EXTERNAL"}
    if "/" in service:
        spec |= {
            "hosts": [f"{document.name}.{document.namespace}.egress"],
            "addresses": [service],
            "resolution": "NONE",
        }
    else:
        spec["resolution"] = "NONE" if service.startswith("*") else "DNS"
    if service == "*":
        _note(converted, document, "spec.destination.service", 'not converted: a ServiceEntry cannot be for "*"')
        return
    spec["ports"] = [
        {
            "number": port["port"],
            "name": f"{port['protocol'].lower()}-{port['port']}",
            "protocol": port["protocol"].upper(),
        }
        for port in ports
    ]
    converted.documents.append(_document("ServiceEntry", document.name, document.namespace, spec))
    for index, port in enumerate(ports):
        if port["protocol"].lower() == "https":
            reason = (
                "here applications sent plain HTTP to this port and the proxy made it HTTPS; with a ServiceEntry they "
                "speak HTTPS themselves (or add a DestinationRule with tls.mode: SIMPLE and protocol: HTTP)"
            )
            _note(converted, document, f"spec.ports[{index}]", reason)


def _document(kind: str, name: str, namespace: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": _VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _name(host: str) -> str:
    """Return an object name for a host: `reviews`, `reviews-shop`, `wildcard-foo-com`."""
    short = host.removesuffix(f".{CLUSTER_DOMAIN}").replace("*", "wildcard")
    return re.sub(r"[^a-z0-9]+", "-", short.lower()).strip("-") or "converted"


def _note(converted: Converted, document: Document, path: str, reason: str) -> None:
    where = f"{path}: " if path else ""
    converted.notes.append(f"{document.place(path)}: {where}{reason}")
