"""What the analysis looks at: the valid documents, and the services they can be about. Pure.

Without a catalog every host that a document names is taken to exist, so that files can be analysed alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from agent.api.enforce import enforceable
from agent.api.envelope import Document
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.gateway import bound_gateways, is_for_mesh
from agent.api.lowering.ingress import ways
from agent.api.lowering.istio_service import Unresolved, resolve_service
from agent.api.lowering.outside import declared_services, outside_services
from agent.api.lowering.service_rules import DeclaredSubsets, service_subsets
from agent.api.lowering.sidecar import lower_sidecar
from agent.api.lowering.virtual_service import declared_subsets
from agent.api.lowering.within import ruled_hosts, service_within, wildcard_around
from agent.mesh.names import CLUSTER_DOMAIN, CONSUL_DOMAIN, host_breadth
from agent.mesh.selection import Selection
from agent.mesh.service import Labels, Resolution, Service, ServiceKey, labels_of
from agent.mesh.settings import MeshSettings


class Reference(Struct, frozen=True):
    """A place in a document that names a service."""

    path: str
    host: str
    service: ServiceKey | None
    """None: it is not in the catalog."""
    subset: str = ""
    labels: Labels = ()
    """Of a RouteRule's route."""
    port: int | None = None
    weight: int | None = None
    is_destination: bool = True
    """Traffic is sent there; otherwise the document is about it."""


class World:
    """The valid documents and the catalog that they are checked against."""

    def __init__(
        self,
        documents: Iterable[Document],
        services: Mapping[ServiceKey, Service] | None,
        settings: MeshSettings | None = None,
    ) -> None:
        self.documents = tuple(documents)
        self.outside = self._declared_outside(services or {})
        self.services = None if services is None else {**services, **self.outside}
        self.settings = settings or MeshSettings()
        self.catalog = Catalog(self.services if self.services is not None else self.assumed() | self.outside.keys())
        self.sidecars = tuple(lower_sidecar(document) for document in self._usable("Sidecar"))
        self.subsets = _declared(self)

    def assumed(self) -> set[ServiceKey]:
        """Return the services that there are if every host that a document names exists."""
        declared = {key.name for key in self.outside}
        return {
            _assumed(*host)
            for host in _hosts(self.documents)
            if "*" not in host[0] and host[0].rstrip(".").lower() not in declared
        }

    def of_kind(self, kind: str) -> list[Document]:
        """Return the documents of a kind, ordered by namespace and name."""
        found = (document for document in self.documents if document.kind == kind)
        return sorted(found, key=lambda document: (document.namespace, document.name))

    def instances(self, service: ServiceKey, labels: Labels) -> int | None:
        """Return how many serving instances of a service have these labels; None if no catalog is known."""
        if self.services is None or service not in self.services:
            return None
        wanted, outside = set(labels), self.services[service].outside
        if outside and outside.resolution is Resolution.ORIGINAL:
            return None  # what answers is wherever the caller was going
        found = self.services[service].instances + (outside.endpoints if outside else ())
        serves = self.settings.warning_instances.serves
        return sum(serves(instance.health) and wanted <= set(instance.labels) for instance in found)

    def workloads(self, namespace: str) -> list[Labels] | None:
        """Return the labels of each instance in a namespace; None if no catalog is known."""
        if self.services is None:
            return None
        services = (service for key, service in self.services.items() if key.namespace == namespace)
        return [instance.labels for service in services for instance in service.instances]

    def references(self, document: Document) -> Iterator[Reference]:
        """Yield each place of a document that names a service."""
        for path, plain, extra in _places(document):
            host, services = self._resolve(plain, document)
            if "*" in host and not services and (self.services is None or not isinstance(plain, str)):
                continue  # without a catalog nobody knows; whether a RouteRule's can be had is validation's business
            if not services and _need_not_be(document, extra):
                continue
            for service in services or (None,):
                yield Reference(path, host, service, **extra)

    def _declared_outside(self, registered: Mapping[ServiceKey, Service]) -> Mapping[ServiceKey, Service]:
        """Return the services that EgressRules and ServiceEntries declare, with the endpoints that they select."""
        entries = self._usable("WorkloadEntry")
        rules = [*self._usable("EgressRule"), *self._usable("ServiceEntry")]
        declared = ((document, declared_services(document, entries)) for document in rules)
        catalog = Catalog(registered)
        found, _ = outside_services(declared, catalog)
        declared_hosts = tuple(found)
        ruled = {key: namespace for document in self.documents for key, namespace in ruled_hosts(document)}
        for key, namespace in ruled.items():
            around = wildcard_around(key, declared_hosts) if key not in found else None
            if around is not None and catalog.resolve(key.name, namespace) is None:
                found[key] = service_within(found[around], key)
        return Selection().join(found, registered)

    def _usable(self, kind: str) -> list[Document]:
        """Return what can be enforced of the documents of a kind."""
        found = (enforceable(document).document for document in self.of_kind(kind))
        return [document for document in found if document is not None]

    def _resolve(self, plain: Mapping[str, Any] | str, document: Document) -> tuple[str, tuple[ServiceKey, ...]]:
        if isinstance(plain, str):
            return plain, self.catalog.meant(plain, document.namespace)
        host = plain.get("service") or plain.get("name") or ""
        try:
            return host, (resolve_service(plain, document.namespace, self.catalog),)
        except Unresolved:
            return host, ()


def _places(document: Document) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (path, host or IstioService, what else the place says)."""
    spec = document.spec
    if document.kind == "VirtualService":
        for index, host in enumerate((spec.get("hosts") or ()) if is_for_mesh(document) else ()):
            yield f"spec.hosts[{index}]", host, {"is_destination": False}
        yield from _routed(spec)
    elif document.kind == "DestinationRule":
        yield "spec.host", spec["host"], {"is_destination": False}
    elif document.kind in ("Ingress", "IngressRule"):
        for way in {way.path: way for way in ways(document)}.values():  # a default leads there from each host
            yield way.path, way.service, {"port": way.port if isinstance(way.port, int) and way.port else None}
    elif document.kind in ("RouteRule", "DestinationPolicy"):
        yield "spec.destination", spec["destination"], {"is_destination": False}
        for index, route in enumerate(spec.get("route") or ()):
            destination = route.get("destination") or spec["destination"]
            extra = {"labels": labels_of(route.get("labels") or {}), "weight": route.get("weight")}
            yield f"spec.route[{index}]", destination, extra
        if spec.get("mirror"):
            yield "spec.mirror", spec["mirror"], {"labels": labels_of(spec["mirror"].get("labels") or {})}


def _routed(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    for index, route in enumerate(spec.get("http") or ()):
        place = f"spec.http[{index}]"
        for number, target in enumerate(route.get("route") or ()):
            yield from _target(f"{place}.route[{number}].destination", target["destination"], target.get("weight"))
        if route.get("mirror"):
            yield from _target(f"{place}.mirror", route["mirror"], None)
        for number, mirror in enumerate(route.get("mirrors") or ()):
            yield from _target(f"{place}.mirrors[{number}].destination", mirror["destination"], None)
    for kind in ("tls", "tcp"):
        for index, route in enumerate(spec.get(kind) or ()):
            for number, target in enumerate(route["route"]):
                place = f"spec.{kind}[{index}].route[{number}].destination"
                yield from _target(place, target["destination"], target.get("weight"))


def _target(path: str, plain: Mapping[str, Any], weight: int | None) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    port = (plain.get("port") or {}).get("number")
    yield path, plain["host"], {"subset": plain.get("subset") or "", "port": port, "weight": weight}


def _declared(world: World) -> dict[ServiceKey, dict[str, Labels]]:
    """Return service → subset name → labels."""
    found: dict[ServiceKey, dict[str, Labels]] = {}
    declared: dict[ServiceKey, list[DeclaredSubsets]] = {}
    for document in world.of_kind("DestinationRule"):
        host = document.spec["host"]
        one = DeclaredSubsets(document.ref, declared_subsets(document), host_breadth(host))
        for service in world.catalog.meant(host, document.namespace):
            declared.setdefault(service, []).append(one)
    for service, rules in declared.items():
        subsets = service_subsets(service, rules).subsets.values()
        found[service] = {subset.name: subset.labels for subset in subsets}
    return found


def _need_not_be(document: Document, extra: Mapping[str, Any]) -> bool:
    """Tell whether a place names what clients of a gateway ask for, which need not be a service."""
    return not extra.get("is_destination", True) and bool(bound_gateways(document))


def _hosts(documents: Iterable[Document]) -> Iterator[tuple[str, str]]:
    for document in documents:
        for _, plain, extra in _places(document):
            if _need_not_be(document, extra):
                continue
            if isinstance(plain, str):
                yield plain, document.namespace
            elif plain.get("service"):
                yield plain["service"], document.namespace
            else:
                yield plain["name"], plain.get("namespace") or document.namespace


def _assumed(host: str, namespace: str) -> ServiceKey:
    """Return the service that a host would mean if it were in the catalog."""
    host = host.rstrip(".").lower()
    if host.endswith(f".{CONSUL_DOMAIN}"):
        return ServiceKey(namespace, host.removesuffix(f".{CONSUL_DOMAIN}"))
    parts = host.removesuffix(f".{CLUSTER_DOMAIN}").removesuffix(".svc").split(".")
    return ServiceKey(parts[1], parts[0]) if len(parts) == 2 else ServiceKey(namespace, ".".join(parts))
