"""What plans take from a snapshot, reduced to what messages depend on, so that a health flip changes little. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from msgspec import Struct, structs

from agent.mesh.authentication import PeerAuthentication, PeerModes
from agent.mesh.gateway import INGRESS_SERVICE, selects_gateway
from agent.mesh.names import DEFAULT_NAMESPACE, certificate_secret
from agent.mesh.routes import Destination, Fault, SourceMatch, Subset
from agent.mesh.security import SecurityRules
from agent.mesh.service import (
    ActiveCheck,
    Identity,
    Instance,
    Labels,
    Outside,
    Port,
    Resolution,
    Service,
    ServiceKey,
)
from agent.mesh.settings import ROOT_NAMESPACE
from agent.mesh.snapshot import MeshSnapshot
from agent.mesh.traffic_policy import ClientTls, TlsMode
from agent.translate.resource import is_ip

MAX_PORT = 65535


class ServiceFacts(Struct, frozen=True):
    """A service less its instances: nothing of it changes when an instance's health does."""

    key: ServiceKey
    ports: tuple[Port, ...]
    proxied: tuple[Identity, ...]
    """Who the instances are that serve mutual TLS, healthy or not: the only ones that a client must believe. Empty: no
    instance does."""
    outside: Outside | None = None
    others: tuple[Identity, ...] = ()
    """Who the instances are, where none is proxied."""
    active_check: ActiveCheck = ActiveCheck()

    @classmethod
    def from_service(cls, service: Service) -> ServiceFacts:
        """Return the facts; ports that no connection can have are left out."""
        ports = tuple(port for port in service.ports if 0 < port.number <= MAX_PORT)
        instances = (*service.instances, *(service.outside.endpoints if service.outside else ()))
        proxied = {instance.identity for instance in instances if instance.serves_tls}
        others = () if proxied else {instance.identity for instance in instances}
        checks = (instance.active_check for instance in service.instances if instance.active_check.kind)
        check = next(checks, ActiveCheck())
        return cls(service.key, ports, tuple(sorted(proxied)), service.outside, tuple(sorted(others)), check)

    @property
    def has_address(self) -> bool:
        """Tell whether callers reach it at a virtual address."""
        return Service(self.key, self.ports, (), self.outside).has_address

    @property
    def has_endpoints(self) -> bool:
        """Tell whether its endpoints are known to the agent, which gives them by EDS."""
        return self.outside is None or self.outside.resolution is Resolution.STATIC

    def destination_port(self, destination: Destination, called: int) -> int | None:
        """Return the port a destination means to a caller of that port, or None if this service hasn't got it."""
        numbers = [port.number for port in self.ports]
        if destination.port is not None:
            return destination.port if destination.port in numbers else None
        if destination.port_name:
            return next((port.number for port in self.ports if port.name == destination.port_name), None)
        if len(numbers) == 1:
            return numbers[0]
        return called if called in numbers else None


class Caller(Struct, frozen=True):
    """Who this host's outbound traffic comes from: its default workload, or nobody in particular."""

    service: ServiceKey | None
    namespace: str
    labels: Labels
    address: str | None = None
    """IP address; None: each connection's own source counts (a gateway's clients, a host without workloads)."""
    root_namespace: str = ROOT_NAMESPACE
    """Rules there are for callers of all namespaces."""

    @classmethod
    def from_snapshot(cls, snapshot: MeshSnapshot) -> Caller:
        """Return the default workload as a caller; a host without workloads calls from the default namespace."""
        workload, root = snapshot.default_workload, snapshot.settings.root_namespace
        if workload is None:
            return cls(None, DEFAULT_NAMESPACE, (), root_namespace=root)
        service = workload.service
        own = is_ip(workload.address) and service.name != INGRESS_SERVICE
        return cls(service, service.namespace, workload.labels, workload.address if own else None, root)

    def is_within(self, subnets: Iterable[str]) -> bool:
        """Tell whether its address, which must be known, lies in one of these addresses and ranges."""
        return any(ip_address(self.address or "") in ip_network(subnet, strict=False) for subnet in subnets)

    def satisfies(self, source: SourceMatch | None) -> bool:
        """Tell whether a rule for these callers is for this one."""
        return source is None or (
            source.service in (None, self.service)
            and source.namespace in (None, self.namespace)
            and selects_gateway(source.labels, self.labels)
        )


class HeldCredential(Struct, frozen=True, order=True):
    """A secret of this host (a folder, or files), less its contents."""

    name: str
    has_key: bool = True
    has_authorities: bool = False


class Security(Struct, frozen=True):
    """Mutual TLS as this host can do it now."""

    peers: PeerModes
    trust_domain: str
    certificates: frozenset[str]
    """SDS names of the certificates that can be used; none without a trust bundle."""
    client: str | None
    """SDS name of the certificate that outbound connections bear."""
    credentials: tuple[HeldCredential, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other trust domains that count as this one."""
    rules: SecurityRules = SecurityRules()

    @property
    def trust_domains(self) -> tuple[str, ...]:
        """Return all trust domains whose identities are the mesh's."""
        return tuple(dict.fromkeys((self.trust_domain, *self.aliases)))

    @classmethod
    def from_snapshot(cls, snapshot: MeshSnapshot) -> Security:
        """Return the present state. A host without workloads bears the first certificate it has."""
        settings = snapshot.settings
        peers = PeerModes.of(settings, snapshot.security.peers)
        usable = snapshot.certificates if snapshot.trust_bundle_pem else {}
        workload = snapshot.default_workload
        identity: Identity | None = workload.identity if workload else min(usable, default=None)
        client = certificate_secret(identity, settings.trust_domain) if identity in usable and identity else None
        names = frozenset(certificate_secret(identity, settings.trust_domain) for identity in usable)
        credentials = sorted(
            HeldCredential(name, bool(held.chain_pem), bool(held.authorities_pem))
            for name, held in snapshot.credentials.items()
        )
        aliases = settings.trust_domain_aliases
        return cls(peers, settings.trust_domain, names, client, tuple(credentials), aliases, snapshot.security)

    @property
    def outbound(self) -> ClientSecurity:
        """Return the part that outbound clusters and endpoints depend on."""
        return ClientSecurity(self.peers, self.trust_domains, self.client, self.credentials)


class ClientSecurity(Struct, frozen=True):
    """How this host's outbound connections are secured."""

    peers: PeerModes
    trust_domains: tuple[str, ...]
    certificate: str | None
    credentials: tuple[HeldCredential, ...] = ()

    def with_authentications(self, authentications: tuple[PeerAuthentication, ...]) -> ClientSecurity:
        """Return the same where instances accept what these say."""
        if authentications == self.peers.authentications:
            return self
        return structs.replace(self, peers=structs.replace(self.peers, authentications=authentications))

    def credential(self, name: str) -> HeldCredential | None:
        """Return the secret of that name, None if this host has not got it."""
        return next((held for held in self.credentials if held.name == name), None)

    def obstacle(self, ordered: ClientTls | None) -> str | None:
        """Return why this host cannot connect as ordered (it sends nothing then), or None."""
        if ordered is None:
            return None
        if ordered.mode is TlsMode.ISTIO_MUTUAL and not self.certificate:
            return "orders ISTIO_MUTUAL, but this host has no certificate"
        foreign = ordered.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL)
        if not foreign or not ordered.credential:
            return None
        held = self.credential(ordered.credential)
        if held is None or (ordered.mode is TlsMode.MUTUAL and not held.has_key):
            what = "which this host has not got" if held is None else "which has no key and certificate on this host"
            return f"wants the secret {ordered.credential}, {what} (hostmesh secret install)"
        return None

    def withholds(self, instance: Instance, port: int) -> bool:
        """Tell whether a port must not be called: it wants mutual TLS, and there is no certificate for it.

        A permissive one takes plain text instead; to a strict one not one byte may go in clear.
        """
        return self.certificate is None and self.peers.wants_tls(instance, port)


class ServiceSubset(Struct, frozen=True, order=True):
    """A cluster beside the port's own: the instances of a subset, by one port."""

    port: int
    subset: Subset


def distinct(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Return the faults in order, each once."""
    return tuple(sorted(set(faults)))
