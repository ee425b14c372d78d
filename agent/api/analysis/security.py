"""Findings about who may talk to whom: policies for nobody, TLS that one side refuses, lost authorizers. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.analysis.finding import MTLS_CONFLICT, NO_WORKLOADS, NOT_ENFORCEABLE, NOT_FOUND, Finding, finding
from agent.api.analysis.world import World
from agent.api.envelope import Document
from agent.api.lowering.security import lower_peers, target_of
from agent.mesh.authentication import PeerModes
from agent.mesh.gateway import selects_gateway
from agent.mesh.key_set import NO_KEYS, usable_keys
from agent.mesh.service import Instance, MtlsMode, Service, labels_of

_POLICIES = ("PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication")


def find_security(world: World) -> Iterator[Finding]:
    """Yield the findings; without a catalog only those about settings."""
    for kind in _POLICIES:
        for document in world.of_kind(kind) if world.services is not None else ():
            yield from _for_nobody(world, document)
    for document in world.of_kind("AuthorizationPolicy"):
        yield from _lost_provider(world, document)
    for document in world.of_kind("RequestAuthentication"):
        yield from _without_keys(document)
    if world.services is not None:
        yield from _at_odds(world)


def _for_nobody(world: World, document: Document) -> Iterator[Finding]:
    """Find a policy whose selector selects no instance of the catalog; gateways stand in none."""
    root, selector = world.settings.root_namespace, (document.spec.get("selector") or {}).get("matchLabels")
    if document.kind == "PeerAuthentication" and selector and document.namespace == root:
        message = f"a selector has no effect in {root}: say it in the workload's own namespace"
        yield finding(NO_WORKLOADS, document, "spec.selector", message)
        return
    target = target_of(document)
    services = (world.services or {}).values()
    instances = [instance for service in services if service.outside is None for instance in service.instances]
    if target.services:
        names = {instance.service.name for instance in instances if instance.service.namespace == document.namespace}
        for name in (name for name in target.services if name not in names):
            yield finding(NOT_FOUND, document, "spec.targetRefs", f"there is no service {name} in {document.namespace}")
        return
    covered = any(target.covers(instance.service, instance.labels, root) for instance in instances)
    if selector and not covered and not _may_be_a_gateway(world, document):
        shown = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        yield finding(NO_WORKLOADS, document, "spec.selector", f"no instance has the labels {shown}: it is for nobody")


def _may_be_a_gateway(world: World, document: Document) -> bool:
    """Tell whether a Gateway selects hosts that the policy selects: these stand in no catalog."""
    wanted = labels_of(document.spec["selector"]["matchLabels"])
    selectors = (labels_of(gateway.spec.get("selector") or {}) for gateway in world.of_kind("Gateway"))
    return any(selects_gateway(wanted, labels) for labels in selectors)


def _lost_provider(world: World, document: Document) -> Iterator[Finding]:
    name = (document.spec.get("provider") or {}).get("name")
    if name and name not in {one.name for one in world.settings.extension_providers if one.authorizer}:
        message = f'the mesh has no extensionProviders entry "{name}": what this policy is about is refused'
        yield finding(NOT_FOUND, document, "spec.provider.name", message)


def _without_keys(document: Document) -> Iterator[Finding]:
    for index, rule in enumerate(document.spec.get("jwtRules") or ()):
        if rule and rule.get("jwks") and usable_keys(rule["jwks"]) is None:
            place = f"spec.jwtRules[{index}].jwks"
            yield finding(NOT_ENFORCEABLE, document, place, f"{NO_KEYS}: tokens are refused")


def _at_odds(world: World) -> Iterator[Finding]:
    """Find rules for clients that servers refuse."""
    peers = PeerModes.of(world.settings, tuple(lower_peers(each) for each in world.of_kind("PeerAuthentication")))
    services = world.services or {}
    for document in world.of_kind("DestinationRule"):
        said = ((document.spec.get("trafficPolicy") or {}).get("tls") or {}).get("mode")
        if not said:
            continue
        refusing = MtlsMode.DISABLED if said == "ISTIO_MUTUAL" else MtlsMode.STRICT
        meant = world.catalog.meant(document.spec["host"], document.namespace)
        known = [services[key] for key in meant if key in services]
        found = [(one.key, port) for one in known if (port := _refusing(one, peers, refusing)) is not None]
        if found:
            (key, port), more = found[0], f" (and {len(found) - 1} more)" if found[1:] else ""
            demanded = "plain text" if refusing is MtlsMode.DISABLED else "mutual TLS"
            message = f"clients use {said} but port {port} of {key}{more} takes {demanded} only: refused every time"
            yield finding(MTLS_CONFLICT, document, "spec.trafficPolicy.tls.mode", message)


def _refusing(service: Service, peers: PeerModes, mode: MtlsMode) -> int | None:
    """Return a port on which an instance with an agent accepts only what clients don't send, None: there is none."""
    proxied: list[Instance] = [instance for instance in service.instances if instance.proxied]
    ports = ((each, port.number) for each in proxied for port in each.ports)
    return next((port for each, port in ports if peers.of_instance(each, each.target_port(port) or port) is mode), None)
