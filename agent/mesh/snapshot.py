"""Everything a plan is made from, and everything it makes: both immutable."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from msgspec import Struct, field

from agent.mesh.gateway import Credential, Ingress
from agent.mesh.mixer_logs import EntryLogs
from agent.mesh.routes import Fault, ServicePolicy
from agent.mesh.scope import Scope
from agent.mesh.security import SecurityRules
from agent.mesh.service import Identity, Service, ServiceKey, Workload
from agent.mesh.settings import MeshSettings, OutboundTrafficPolicy
from agent.mesh.sidecar import Sidecar
from agent.mesh.telemetry_settings import TelemetryRules
from agent.mesh.trust import TrustBundle


class Vip(Struct, frozen=True, order=True):
    """The virtual addresses of a mesh service on this host."""

    v4: IPv4Address
    v6: IPv6Address


class Certificate(Struct, frozen=True):
    """A workload's key and chain (leaf first), PEM."""

    key_pem: bytes
    chain_pem: bytes


class MeshSnapshot(Struct, frozen=True):
    """The mesh as this host knows it. The mappings are never changed after construction."""

    node: str
    services: Mapping[ServiceKey, Service]
    policies: Mapping[ServiceKey, ServicePolicy]
    settings: MeshSettings
    workloads: tuple[Workload, ...]
    """This host's workloads; the first is the default one: outbound traffic bears its identity and labels."""
    vips: Mapping[ServiceKey, Vip]
    certificates: Mapping[Identity, Certificate]
    trust: TrustBundle
    """Without roots no certificate can be used."""
    ingress: Ingress = Ingress()
    credentials: Mapping[str, Credential] = {}
    """Of a gateway host: the folders under its `secrets` that can be used."""

    scope: Scope = Scope()
    sidecars: tuple[Sidecar, ...] = ()
    """In order of namespace and name."""
    security: SecurityRules = SecurityRules()
    telemetry: TelemetryRules = TelemetryRules()

    @property
    def outbound_traffic_policy(self) -> OutboundTrafficPolicy:
        """Return what happens to traffic for unknown destinations: as the Sidecar says, else as the mesh does."""
        sidecar = self.scope.sidecar
        return (sidecar.outbound if sidecar else None) or self.settings.outbound_traffic_policy

    @property
    def trust_bundle_pem(self) -> bytes:
        """Return the roots."""
        return self.trust.roots_pem

    @property
    def default_workload(self) -> Workload | None:
        """Return the workload that outbound traffic of this host belongs to."""
        return self.workloads[0] if self.workloads else None


Reference = tuple[str, str]
"""Type URL and name of a resource that another one needs."""


class GroupedReferences(Collection[Reference]):
    """References in groups that one version of a large resource shares with the next: a difference is one of groups."""

    __slots__ = ("groups",)

    def __init__(self, groups: Iterable[frozenset[Reference]]) -> None:
        self.groups = frozenset(groups)

    @classmethod
    def of(cls, references: Collection[Reference]) -> GroupedReferences:
        """Return references as groups."""
        return references if isinstance(references, cls) else cls((frozenset(references),))

    def __iter__(self) -> Iterator[Reference]:
        return iter(frozenset[Reference]().union(*self.groups))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, reference: object) -> bool:
        return any(reference in group for group in self.groups)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GroupedReferences):
            return NotImplemented
        return self.groups == other.groups or set(self) == set(other)

    def __hash__(self) -> int:
        return hash(frozenset(self))


class Resource(Struct, frozen=True):
    """One xDS resource, serialized; equal content has equal version everywhere and always."""

    type_url: str
    name: str
    version: str
    """Hash (hex) of what `value` says."""
    value: bytes
    """The serialized message (what google.protobuf.Any.value holds)."""
    references: Collection[Reference] = frozenset()
    """The resources that must exist before Envoy can use this one."""


class Resources(Struct, frozen=True):
    """The whole desired xDS state: type URL → name → resource."""

    by_type: Mapping[str, Mapping[str, Resource]] = field(default_factory=dict)

    def of(self, type_url: str) -> Mapping[str, Resource]:
        """Return the resources of one type by name."""
        return self.by_type.get(type_url, {})

    def dangling(self) -> list[str]:
        """Return one line for each reference to a resource that is not in this state."""
        return [
            f"{resource.name}: refers to {name}, which does not exist"
            for resources in self.by_type.values()
            for resource in resources.values()
            for type_url, name in resource.references
            if name not in self.of(type_url)
        ]


class Desired(Struct, frozen=True):
    """The whole desired state of this host's data path."""

    resources: Resources
    dns_hosts: str
    """The hosts file that dnsmasq re-reads: mesh names → VIPs."""
    netfilter_v4: str
    """Input of `iptables-restore --noflush`."""
    netfilter_v6: str
    faults: tuple[Fault, ...] = ()
    """What was left out of the plan, and why."""
    dangling: tuple[str, ...] = ()
    """What `resources.dangling()` says."""
    logs: EntryLogs = EntryLogs()
    """What becomes of the lines that Envoy writes for Mixer's rules."""
