"""Sidecars: what a workload's Envoy knows of the mesh, and how it serves the workload's own ports. Pure domain types.

A Sidecar is for the workloads that it selects, else for its namespace, else (in the root namespace) for all. Which
services that leaves a host, and which of them are followed in Consul, is said by mesh/scope.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol as Shape

from msgspec import Struct

from agent.mesh.gateway import INGRESS_SERVICE
from agent.mesh.names import CONSUL_DOMAIN, DEFAULT_NAMESPACE, qualified_hosts
from agent.mesh.routes import ObjectRef
from agent.mesh.service import Labels, Outside, Port, Protocol, ServiceKey, Workload, selects
from agent.mesh.settings import ROOT_NAMESPACE, OutboundTrafficPolicy
from agent.mesh.traffic_policy import ConnectionPool

ANY = "*"
LOCALHOST = "127.0.0.1"
OWN_ADDRESS = frozenset({"0.0.0.0", "::"})
"""Where an application is said to listen on the instance's own address."""


class Named(Shape):
    """A service, or as much of it as Sidecars look at."""

    @property
    def key(self) -> ServiceKey: ...
    @property
    def ports(self) -> tuple[Port, ...]: ...
    @property
    def outside(self) -> Outside | None: ...


class HostPattern(Struct, frozen=True, order=True):
    """One of a Sidecar's egress hosts."""

    namespace: str
    """A name, or `*`."""
    host: str
    """A host name, `*.domain` or `*`."""

    def admits(self, service: Named) -> bool:
        """Tell whether it means the service."""
        if self.namespace != ANY and self.namespace not in namespaces_of(service):
            return False
        return self.host == ANY or any(self._means(name) for name in _names(service.key))

    def _means(self, name: str) -> bool:
        return name == self.host or (self.host.startswith("*.") and name.endswith(self.host[1:]))


class EgressListener(Struct, frozen=True):
    """Services that can be called, on one port or (None) on every port that no other listener of the Sidecar has."""

    hosts: tuple[HostPattern, ...]
    port: int | None = None

    def admits(self, service: Named) -> bool:
        """Tell whether it is one of its services."""
        return any(host.admits(service) for host in self.hosts)


class IngressListener(Struct, frozen=True):
    """How one of the workload's own ports is served."""

    number: int
    protocol: Protocol | None = None
    """None: as the workload says."""
    address: str = ""
    """Where the application listens: an IP address, or a Unix socket (`unix://PATH`); "": where it does without."""
    target: int = 0
    pool: ConnectionPool | None = None


class Sidecar(Struct, frozen=True):
    """What one Sidecar object says."""

    origin: ObjectRef
    selector: Labels | None = None
    """None: for the whole namespace."""
    egress: tuple[EgressListener, ...] = ()
    """(): everything can be called."""
    ingress: tuple[IngressListener, ...] = ()
    pool: ConnectionPool | None = None
    """Of the workload's own ports, where no ingress listener says otherwise."""
    outbound: OutboundTrafficPolicy | None = None
    """None: the mesh's."""

    def admits(self, service: Named) -> bool:
        """Tell whether a service can be called, on some port."""
        return not self.egress or any(listener.admits(service) for listener in self.egress)

    def ports_of(self, service: Named) -> tuple[Port, ...]:
        """Return the ports of a service that can be called."""
        if not self.egress:
            return service.ports
        taken = {listener.port for listener in self.egress}
        own = {listener.port for listener in self.egress if listener.admits(service)}
        return tuple(p for p in service.ports if p.number in own or (None in own and p.number not in taken))

    def ingress_of(self, port: int) -> IngressListener | None:
        """Return how a port of the workload is served, None: as without a Sidecar."""
        return next((listener for listener in self.ingress if listener.number == port), None)


def sidecar_for(
    sidecars: Iterable[Sidecar], namespace: str, labels: Labels, root: str = ROOT_NAMESPACE
) -> Sidecar | None:
    """Return the Sidecar of a workload; they come in order of namespace and name, and the first that fits counts."""
    by_rank: dict[int, Sidecar] = {}
    for sidecar in sidecars:
        if sidecar.origin.namespace == namespace and sidecar.selector is not None:
            rank = 0 if selects(sidecar.selector, labels) else None
        elif sidecar.selector is None and sidecar.origin.namespace in (namespace, root):
            rank = 1 if sidecar.origin.namespace == namespace else 2
        else:
            rank = None
        if rank is not None:
            by_rank.setdefault(rank, sidecar)
    return by_rank[min(by_rank)] if by_rank else None


def sidecar_of_host(
    sidecars: Iterable[Sidecar], workloads: Sequence[Workload], root: str = ROOT_NAMESPACE
) -> Sidecar | None:
    """Return the Sidecar that decides what a host can call: its default workload's; a gateway has none."""
    if not workloads:
        return sidecar_for(sidecars, DEFAULT_NAMESPACE, (), root)
    first = workloads[0]
    if first.service.name == INGRESS_SERVICE:
        return None
    return sidecar_for(sidecars, first.service.namespace, first.labels, root)


def namespaces_of(service: Named) -> tuple[str, ...]:
    """Return the namespaces that a service is in; one that rules declare is in theirs."""
    return service.outside.namespaces if service.outside else (service.key.namespace,)


@lru_cache(maxsize=65_536)  # asked for every service whenever a rule changes
def _names(key: ServiceKey) -> tuple[str, ...]:
    """Return the names that a Sidecar may know a service by, whoever calls it."""
    if key.is_outside:
        return (key.name,)
    return (key.name, f"{key.name}.{CONSUL_DOMAIN}", *qualified_hosts(key))
