"""Who was at the other end, by the catalog: an address and the name in a certificate → an instance's labels.

Never by a header. Where several instances fit, only what they share is said. Instances that have left are remembered
for a while: what they did is told after they have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct, structs

from agent.mesh.gateway import INGRESS_ACCOUNT, INGRESS_SERVICE
from agent.mesh.names import DEFAULT_NAMESPACE, canonical_host
from agent.mesh.service import Identity, Labels, Port, Service, ServiceKey, Workload
from agent.mesh.settings import MtlsMode
from agent.mesh.snapshot import MeshSnapshot
from agent.translate.resource import is_ip

REMEMBERED_SECONDS = 600.0
_INGRESS = Identity(DEFAULT_NAMESPACE, INGRESS_ACCOUNT)
_SCHEME = "spiffe://"


class Seat(Struct, frozen=True):
    """An instance, as far as metrics tell."""

    service: ServiceKey
    identity: Identity
    labels: Labels
    ports: tuple[int, ...]
    """That it listens on."""


class Peer(Struct, frozen=True):
    """Who called, or was called."""

    service: ServiceKey | None = None
    labels: Labels = ()
    principal: str = ""
    """SPIFFE ID, if it was verified."""
    address: str = ""

    @property
    def identity(self) -> Identity | None:
        """Return whose certificate it was."""
        return identity_of(self.principal)


class Directory(Struct, frozen=True):
    """The catalog by address, and the services by the host in the names of clusters."""

    seats: Mapping[str, tuple[Seat, ...]]
    left: Mapping[str, tuple[float, tuple[Seat, ...]]]
    """By address: until when (on a clock of the caller's), and who was there."""
    services: Mapping[str, ServiceKey]
    ports: Mapping[ServiceKey, tuple[Port, ...]]
    workloads: tuple[Workload, ...]
    trust_domains: tuple[str, ...]
    verified: bool
    """Callers are known by their certificates only; False where mutual TLS is off by configuration."""

    @classmethod
    def empty(cls) -> Directory:
        """Return that of a mesh that is not known yet."""
        return cls({}, {}, {}, {}, (), (), True)

    @classmethod
    def of(cls, snapshot: MeshSnapshot, before: Directory, now: float) -> Directory:
        """Return the present catalog, with those who have left since `before`."""
        seats = _seats(snapshot.services.values())
        left = {address: held for address, held in before.left.items() if held[0] > now}
        for address, were in before.seats.items():
            gone = tuple(one for one in were if one not in seats.get(address, ()))
            if gone:
                left[address] = (now + REMEMBERED_SECONDS, gone)
        settings = snapshot.settings
        return cls(
            seats,
            left,
            {canonical_host(key): key for key in snapshot.services},
            {key: service.ports for key, service in snapshot.services.items()},
            snapshot.workloads,
            (settings.trust_domain, *settings.trust_domain_aliases),
            settings.mtls is not MtlsMode.DISABLED,
        )

    def caller(self, address: str, principal: str) -> Peer:
        """Return who called from an address with that verified SPIFFE ID (empty: none)."""
        identity = identity_of(principal, self.trust_domains)
        if identity is None and (principal or self.verified):
            return Peer(principal=principal, address=address)
        if identity == _INGRESS:
            # A gateway calls in its own name, and need not be in the catalog.
            return Peer(ServiceKey(DEFAULT_NAMESPACE, INGRESS_SERVICE), (), principal, address)
        found = self._at(address, lambda one: identity in (None, one.identity))
        return structs.replace(_shared(found), principal=principal, address=address)

    def called(self, cluster: str, host: str, principal: str) -> Peer:
        """Return who was called: by Envoy's cluster, and ADDRESS:PORT of the instance (empty: none was reached)."""
        address, _, port = host.rpartition(":")
        address = address.strip("[]")
        service = self.service_of(cluster)
        if service is None:
            return Peer(principal=principal, address=address)
        found = self._at(address, lambda one: one.service == service)
        at_port = [one for one in found if port.isdecimal() and int(port) in one.ports]
        shared = _shared(at_port or found)
        return structs.replace(shared, service=service, principal=principal, address=address)

    def service_of(self, cluster: str) -> ServiceKey | None:
        """Return the service that a cluster leads to: `outbound|PORT|SUBSET|HOST`, of one of several callers `~UID`."""
        parts = cluster.partition("~")[0].split("|")
        return self.services.get(parts[-1]) if len(parts) == 4 else None

    def port_of(self, cluster: str) -> Port | None:
        """Return the service port that a cluster is for."""
        service, parts = self.service_of(cluster), cluster.split("|")
        ports = self.ports.get(service, ()) if service else ()
        return next((port for port in ports if str(port.number) == parts[1]), None)

    def calling(self, uid: int | None = None) -> Workload | None:
        """Return this host's workload that calls: that of a Unix user, else the default one."""
        return next((one for one in self.workloads if uid is not None and one.uid == uid), None) or (
            self.workloads[0] if self.workloads else None
        )

    def workload_at(self, port: int) -> Workload | None:
        """Return this host's workload that has a port."""
        return next((one for one in self.workloads if any(it.number == port for it in one.ports)), None)

    def own(self, uid: int | None = None) -> Peer:
        """Return this host's workload that calls, as a peer."""
        workload = self.calling(uid)
        return self._peer(workload) if workload else Peer()

    def local(self, port: int) -> tuple[Peer, Port | None]:
        """Return this host's workload that has a port, as a peer, and the port."""
        workload = self.workload_at(port)
        if workload is None:
            return Peer(), None
        return self._peer(workload), next(one for one in workload.ports if one.number == port)

    def _peer(self, workload: Workload) -> Peer:
        domain = self.trust_domains[0] if self.trust_domains else ""
        return Peer(workload.service, workload.labels, workload.identity.spiffe_id(domain), workload.address)

    def _at(self, address: str, fits: Callable[[Seat], bool]) -> list[Seat]:
        """Return the instances at an address that fit; who has left counts where nobody else does."""
        _, left = self.left.get(address, (0.0, ()))
        there = [one for one in self.seats.get(address, ()) if fits(one)]
        return there or [one for one in left if fits(one)]


def identity_of(principal: str, trust_domains: Iterable[str] | None = None) -> Identity | None:
    """Return whose SPIFFE ID this is; None if it is nobody's of these trust domains."""
    domain, *parts = principal.removeprefix(_SCHEME).split("/")
    if not principal.startswith(_SCHEME) or len(parts) != 4 or parts[0] != "ns" or parts[2] != "sa":
        return None
    return Identity(parts[1], parts[3]) if trust_domains is None or domain in trust_domains else None


def _seats(services: Iterable[Service]) -> dict[str, tuple[Seat, ...]]:
    seats: dict[str, list[Seat]] = {}
    for service in services:
        for one in service.instances:
            if is_ip(one.address):
                ports = tuple(one.target_port(port.number) or port.number for port in one.ports)
                seats.setdefault(one.address, []).append(Seat(service.key, one.identity, one.labels, ports))
    return {address: tuple(there) for address, there in seats.items()}


def _shared(seats: Collection[Seat]) -> Peer:
    if not seats:
        return Peer()
    first, *_ = seats
    services = {one.service for one in seats}
    labels = set(first.labels).intersection(*(one.labels for one in seats))
    return Peer(first.service if len(services) == 1 else None, tuple(sorted(labels)))
