"""Findings about what is valid and hardly meant: what Istio warns of, and servers that nobody verifies. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent.api.analysis.finding import (
    ADDRESSES_REQUIRED,
    SCHEMA_WARNING,
    UNKNOWN_ANNOTATION,
    UNVERIFIED,
    UNVERIFIED_PORT,
    Finding,
    finding,
)
from agent.api.analysis.world import World
from agent.api.checks.addresses import HTTP_PROTOCOLS, TLS_PROTOCOLS
from agent.api.envelope import Document
from agent.api.specs.authorization_policy import DRY_RUN
from agent.api.yaml_text import child

_LARGE_BODY = 100 * 1024
_OLD_TLS = ("TLSV1_0", "TLSV1_1")
_OURS = (DRY_RUN,)
_Said = Iterator[tuple[str, str]]
"""Path and message."""


def find_cautions(world: World) -> Iterator[Finding]:
    """Yield the findings."""
    for document in world.documents:
        for path, message in (*_selector(document), *_WARNINGS.get(document.kind, _nothing)(document)):
            yield finding(SCHEMA_WARNING, document, path, message)
        yield from _annotations(document)
    for document in world.of_kind("DestinationRule"):
        yield from _unverified(document)
    for document in world.of_kind("ServiceEntry"):
        yield from _unaddressed(document)


def _nothing(_document: Document) -> _Said:
    yield from ()


def _selector(document: Document) -> _Said:
    name = "workloadSelector" if "workloadSelector" in document.spec else "selector"
    selector = document.spec.get(name)
    if isinstance(selector, dict) and document.kind != "Gateway" and not any(selector.values()):
        yield f"spec.{name}", "has no labels: it is for every workload of the namespace"


def _virtual_service(document: Document) -> _Said:
    yield from _partial_wildcards(document)
    for index, route in enumerate(document.spec.get("http") or ()):
        body = (route.get("directResponse") or {}).get("body") or {}
        if len(body.get("string") or body.get("bytes") or "") > _LARGE_BODY:
            message = "is larger than 100 KiB: every caller's Envoy holds it in memory (serve it from an application)"
            yield f"spec.http[{index}].directResponse.body", message


def _service_entry(document: Document) -> _Said:
    yield from _partial_wildcards(document)
    if "workloadSelector" in document.spec and (document.spec.get("resolution") or "NONE") == "NONE":
        yield "spec.resolution", "is NONE beside a workloadSelector: taken for STATIC (write what you mean)"


def _partial_wildcards(document: Document) -> _Said:
    for index, host in enumerate(document.spec.get("hosts") or ()):
        if host.startswith("*") and host != "*" and not host.startswith("*."):
            yield (
                f"spec.hosts[{index}]",
                f'"{host}" is a part of a name: it means other owners\' domains too (write "*.")',
            )


def _gateway(document: Document) -> _Said:
    for index, server in enumerate(document.spec["servers"]):
        path, tls, protocol = f"spec.servers[{index}].tls", server.get("tls") or {}, server["port"]["protocol"].lower()
        ciphers = tls.get("cipherSuites") or []
        if tls.get("httpsRedirect") and protocol not in HTTP_PROTOCOLS:
            yield child(path, "httpsRedirect"), f"redirects nothing on a server that speaks {protocol.upper()}"
        if tls.get("minProtocolVersion") in _OLD_TLS and not ciphers:
            message = "is below TLS 1.2, whose default ciphers no older client has (name cipherSuites)"
            yield child(path, "minProtocolVersion"), message
        for number, cipher in enumerate(ciphers):
            if cipher in ciphers[:number]:
                yield f"{child(path, 'cipherSuites')}[{number}]", f"{cipher} is given twice"


def _sidecar(document: Document) -> _Said:
    for index, listener in enumerate(document.spec.get("ingress") or ()):
        protocol = (listener["port"].get("protocol") or "").lower()
        if "http" in (listener.get("connectionPool") or {}) and protocol not in HTTP_PROTOCOLS:
            message = "does nothing on a port that does not speak HTTP"
            yield f"spec.ingress[{index}].connectionPool.http", message
    for index, egress in enumerate(document.spec.get("egress") or ()):
        seen: set[tuple[str, str]] = set()
        hosts = [str(host).partition("/") for host in egress["hosts"]]
        for number, (namespace, _, host) in enumerate(hosts):
            own = document.namespace if namespace == "." else namespace
            path = f"spec.egress[{index}].hosts[{number}]"
            if (own, host) in seen or (own, "*") in seen:
                yield path, f"{namespace}/{host} is given twice, or within {namespace}/*"
            elif (own, host) != ("*", "*") and ("*", "", "*") in [(one, "", other) for one, _, other in hosts]:
                yield path, "is within */*, which is everything"
            seen.add((own, host))


_WARNINGS: Mapping[str, Callable[[Document], _Said]] = {
    "VirtualService": _virtual_service,
    "ServiceEntry": _service_entry,
    "Gateway": _gateway,
    "Sidecar": _sidecar,
}


def _annotations(document: Document) -> Iterator[Finding]:
    for name in document.annotations:
        domain = name.partition("/")[0]
        if (domain == "istio.io" or domain.endswith(".istio.io")) and name not in _OURS:
            message = "Istio's annotations for Kubernetes mean nothing here"
            yield finding(UNKNOWN_ANNOTATION, document, f"metadata.annotations.{name}", message)


def _unverified(document: Document) -> Iterator[Finding]:
    host = document.spec["host"]
    for path, policy in _policies(document.spec):
        tls: dict[str, Any] = policy.get("tls") or {}
        if tls.get("insecureSkipVerify") and tls.get("mode") in ("SIMPLE", "MUTUAL"):
            kind = UNVERIFIED_PORT if "portLevelSettings" in path else UNVERIFIED
            message = f"whoever answers in the place of {host} is believed"
            yield finding(kind, document, child(path, "tls.insecureSkipVerify"), message)


def _policies(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each trafficPolicy of a DestinationRule, those of subsets and ports too."""
    whole = [("spec.trafficPolicy", spec.get("trafficPolicy") or {})]
    for index, subset in enumerate(spec.get("subsets") or ()):
        whole.append((f"spec.subsets[{index}].trafficPolicy", subset.get("trafficPolicy") or {}))
    for path, policy in whole:
        yield path, policy
        for index, settings in enumerate(policy.get("portLevelSettings") or ()):
            yield f"{child(path, 'portLevelSettings')}[{index}]", settings


def _unaddressed(document: Document) -> Iterator[Finding]:
    """Find ports whose connections say no name, of hosts that have no virtual address to know them by."""
    spec = document.spec
    wild = [host for host in spec["hosts"] if host.startswith("*")]
    for index, port in enumerate(spec.get("ports") or () if wild and not spec.get("addresses") else ()):
        protocol = (port.get("protocol") or port["name"].partition("-")[0]).lower()
        if protocol not in HTTP_PROTOCOLS | TLS_PROTOCOLS:
            message = f"connections to {wild[0]} say no name, and no addresses tell them: nothing comes to this port"
            yield finding(ADDRESSES_REQUIRED, document, f"spec.ports[{index}]", message)
