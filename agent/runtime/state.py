"""The mesh as the events tell it: folds events into one MeshSnapshot. No I/O; owned by the reconciler alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import zip_longest

from msgspec import Struct

from agent.adapters.consul.catalog import CatalogLost, CatalogRecovered, CatalogSynced, ServiceEntries
from agent.adapters.consul.kv import ConfigLost, ConfigRecovered, ConfigUpdate, SettingsUpdate
from agent.api.lowering.lower import Lowerer
from agent.api.mixer_lists import read_list
from agent.api.settings import parse_settings
from agent.errors import HostError, ValidationError
from agent.flow.table import Table, changed_keys
from agent.mesh.gateway import Credential, Ingress
from agent.mesh.mixer import ListKind
from agent.mesh.names import KV_MESH
from agent.mesh.routes import Fault, ServicePolicy
from agent.mesh.scope import Scope, Scoping
from agent.mesh.security import SecurityRules
from agent.mesh.selection import Selection
from agent.mesh.service import Identity, Instance, Service, ServiceKey, Workload
from agent.mesh.settings import MeshSettings
from agent.mesh.sidecar import Sidecar, sidecar_of_host
from agent.mesh.snapshot import Certificate, MeshSnapshot, Vip
from agent.mesh.status import ScopeStatus
from agent.mesh.telemetry_settings import TelemetryRules
from agent.mesh.trust import TrustBundle
from agent.mesh.vips import Addresses
from agent.runtime.events import (
    CertificatesChanged,
    CredentialsChanged,
    FaultsChanged,
    ListsChanged,
    TrustChanged,
    WorkloadsChanged,
)
from agent.runtime.rulebook import RuleBook

Event = (
    ServiceEntries
    | CatalogSynced
    | CatalogLost
    | CatalogRecovered
    | ConfigUpdate
    | ConfigLost
    | ConfigRecovered
    | SettingsUpdate
    | WorkloadsChanged
    | CertificatesChanged
    | TrustChanged
    | CredentialsChanged
    | ListsChanged
    | FaultsChanged
)


MAX_FAULTS = 200
"""A thousand bad rules are one problem, not a thousand lines in every status document, log and metrics page."""


def bounded(kind: str, faults: Sequence[Fault]) -> tuple[Fault, ...]:
    """Return the first MAX_FAULTS faults, and one more that counts the rest if there are any."""
    if len(faults) <= MAX_FAULTS:
        return tuple(faults)
    return (*faults[:MAX_FAULTS], Fault(kind, f"{len(faults) - MAX_FAULTS} more faults of this kind"))


class LastKnown(Struct, frozen=True):
    """What is kept on disk so that a host can boot while Consul is away."""

    entries: Mapping[str, tuple[Instance, ...]] = {}
    config: Mapping[str, tuple[int, bytes]] = {}
    settings: bytes | None = None
    address: str = ""
    """This host's address in the mesh."""


class MeshState:
    """Folds events; `snapshot()` is the whole state at this moment, rebuilt only where something changed."""

    def __init__(self, node: str, v4: IPv4Network, v6: IPv6Network, vips: Mapping[ServiceKey, Vip]) -> None:
        self._node = node
        self._entries: dict[str, tuple[Instance, ...]] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._touched: set[ServiceKey] = set()
        """Services that are others since the last snapshot."""
        self._registered: Table[ServiceKey, Service] = Table()
        self._joined: Mapping[ServiceKey, Service] = {}
        self._all: Table[ServiceKey, Service] = Table()
        """The catalog's services and those that rules declare, as the last snapshot has them."""
        self._rules = RuleBook()
        self._config: Mapping[str, tuple[int, bytes]] = {}
        self._raw_settings: bytes | None = None
        self._settings = MeshSettings()
        self._workloads: tuple[Workload, ...] = ()
        self._certificates: Mapping[Identity, Certificate] = {}
        self._issued_roots = b""
        self._trust: TrustBundle | None = None
        self._credentials: Mapping[str, Credential] = {}
        self._ingress = Ingress()
        self._lowerer = Lowerer()
        self._policies: Mapping[ServiceKey, ServicePolicy] = {}
        self._outside: Mapping[ServiceKey, Service] = {}
        self._selection = Selection()
        self._sidecars: tuple[Sidecar, ...] = ()
        self._security, self._telemetry = SecurityRules(), TelemetryRules()
        self._lists: Mapping[str, str] = {}
        self._sidecar: Sidecar | None = None
        self._decides_sidecar: tuple[object, ...] = ()
        self._scoping = Scoping()
        self._scope: Scope | None = None
        self._faults: dict[str, tuple[Fault, ...]] = {}
        self._unseen: set[str] = set()
        self._addresses = Addresses(vips, v4, v6)
        self.catalog_known = False
        self.config_known = False
        self.certificates_known = False
        self.changes = 0
        """Counts events that change what is worth keeping on disk."""
        self.revision = 0
        """Consul's index of the rules in this state."""

    def restore(self, last: LastKnown) -> None:
        """Begin with what was known before this agent started."""
        self.apply([ServiceEntries(name, instances) for name, instances in last.entries.items()])
        self.apply([ConfigUpdate(0, last.config), SettingsUpdate(last.settings)])
        self._unseen = set(last.entries)
        self.catalog_known = self.config_known = True

    def last_known(self, address: str) -> LastKnown:
        """Return what is worth keeping on disk."""
        return LastKnown(dict(self._entries), dict(self._config.items()), self._raw_settings, address)

    @property
    def is_complete(self) -> bool:
        """Tell whether every source has spoken once: half a mesh is never served as if it were the whole."""
        return not self.missing

    @property
    def missing(self) -> tuple[str, ...]:
        """Return what has not spoken yet, in an operator's words."""
        known = (self.catalog_known, self.config_known, self.certificates_known)
        names = ("Consul's catalog", "the rules in Consul", "certificates")
        return tuple(name for name, is_known in zip(names, known, strict=True) if not is_known)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return the present faults, ordered by their source: of each kind of source MAX_FAULTS, and a count."""
        kinds: dict[str, list[Fault]] = {}
        excluded = {f"catalog {name}" for name in self._settings.excluded_services}
        for source, faults in sorted(self._faults.items()):
            if source in excluded:
                continue
            kinds.setdefault(source.partition(" ")[0], []).extend(faults)
        return tuple(fault for kind, faults in kinds.items() for fault in bounded(kind, faults))

    @property
    def settings(self) -> MeshSettings:
        """Return the mesh-wide settings in force."""
        return self._settings

    def apply(self, events: Iterable[Event]) -> None:
        """Fold events in, oldest first."""
        for event in events:
            self.changes += isinstance(event, ServiceEntries | ConfigUpdate | SettingsUpdate)
            match event:
                case ServiceEntries(name, instances, faults):
                    self._unseen.discard(name)
                    self._set_entries(name, instances)
                    self._set_faults(f"catalog {name}", faults)
                case CatalogSynced():
                    self.catalog_known = True
                    self._forget_unseen()
                case CatalogLost(reason):
                    self._set_faults("catalog", (Fault("Consul", f"{reason}; the last known catalog serves on"),))
                case CatalogRecovered():
                    self._set_faults("catalog", ())
                case ConfigLost(reason):
                    self._set_faults("config", (Fault("Consul", f"{reason}; the last known rules serve on"),))
                case ConfigRecovered():
                    self._set_faults("config", ())
                case ConfigUpdate(index, values):
                    self._take_config(index, values)
                case SettingsUpdate(value):
                    self._take_settings(value)
                case WorkloadsChanged(workloads, faults):
                    self._workloads = workloads
                    self._set_faults("services.d", faults)
                case CertificatesChanged(certificates, trust_bundle):
                    self._certificates = dict(certificates)
                    self._issued_roots = trust_bundle
                    self.certificates_known = True
                case TrustChanged(bundle):
                    self._trust = bundle
                case CredentialsChanged(credentials, faults):
                    self._credentials = credentials
                    self._set_faults("secrets", faults)
                case ListsChanged(texts):
                    self._lists = dict(texts)
                case FaultsChanged(source, faults):
                    self._set_faults(source, faults)

    def snapshot(self) -> MeshSnapshot:
        """Return the present state."""
        touched, self._touched = self._touched, set()
        self._registered = self._registered.with_changes({key: self._services.get(key) for key in touched})
        lowered = self._lowerer.lower(self._rules.documents, self._registered)
        self._set_faults("rules", self._rules.faults + lowered.faults)
        self._policies, self._ingress, self._sidecars = lowered.policies, lowered.ingress, lowered.sidecars
        self._security, self._telemetry = lowered.security.with_lists(self._listed), lowered.telemetry
        declared, self._outside = changed_keys(self._outside, lowered.outside), lowered.outside
        if touched or declared:
            self._give_addresses((*touched, *declared))
        self._join(touched)
        own = [workload.service for workload in self._workloads]
        self._scope = self._scoping.scope(self._own_sidecar(), self._all, self._policies, own)
        return MeshSnapshot(
            node=self._node,
            services=self._scope.limit(self._all),
            policies=self._policies,
            settings=self._settings,
            workloads=self._workloads,
            vips=self.vips,
            certificates=self._certificates,
            trust=self._trust or TrustBundle(self._issued_roots),
            ingress=self._ingress,
            credentials=self._credentials,
            scope=self._scope,
            sidecars=self._sidecars,
            security=self._security,
            telemetry=self._telemetry,
        )

    def _listed(self, uri: str, kind: ListKind) -> tuple[str, ...] | None:
        """Return the entries of a fetched list; None: it has not been had, or not as one of that kind."""
        try:
            return read_list(self._lists[uri], kind) if uri in self._lists else None
        except ValueError:
            return None

    def _own_sidecar(self) -> Sidecar | None:
        """Return the Sidecar that decides what this host can call; there may be thousands."""
        deciding = self._sidecars, self._workloads, self._settings.root_namespace
        if any(one is not known for one, known in zip_longest(deciding, self._decides_sidecar)):
            self._decides_sidecar, self._sidecar = deciding, sidecar_of_host(*deciding)
        return self._sidecar

    @property
    def scope(self) -> ScopeStatus:
        """Return what this host's applications can call."""
        scope, known = self._scope or Scope(), len(self._services) + len(self._outside)
        return ScopeStatus(str(scope.sidecar.origin) if scope.sidecar else "", known - len(scope.unseen), known)

    def _join(self, touched: Iterable[ServiceKey]) -> None:
        """Put the services that rules declare beside the catalog's."""
        joined = self._selection.join(self._outside, self._registered)
        changed = {*touched, *changed_keys(self._joined, joined)}
        self._joined = joined
        self._all = self._all.with_changes({key: self._registered.get(key) or joined.get(key) for key in changed})

    @property
    def followed(self) -> frozenset[str] | None:
        """Return the catalog names that must be up to date (None: all); none before the rules are known."""
        return self._scope.followed if self._scope else frozenset()

    def _set_faults(self, source: str, faults: tuple[Fault, ...]) -> None:
        if faults:
            self._faults[source] = faults
        else:
            self._faults.pop(source, None)

    def _set_entries(self, name: str, instances: tuple[Instance, ...]) -> None:
        before = self._entries.pop(name, ())
        if instances:
            self._entries[name] = instances
        visible = () if name in self._settings.excluded_services else instances
        for key in {instance.service for instance in before + instances}:
            own = [instance for instance in visible if instance.service == key]
            self._touched.add(key)
            if own:
                self._services[key] = Service.from_instances(key, own)
            else:
                self._services.pop(key, None)

    def _forget_unseen(self) -> None:
        """Drop what was restored from disk and is no longer in the catalog."""
        if self._unseen:
            for name in self._unseen:
                self._set_entries(name, ())
            self._unseen = set()

    def _give_addresses(self, changed: Collection[ServiceKey]) -> None:
        """Give virtual addresses to the services among these that have none."""
        hosts = {key: service for key in changed if (service := self._outside.get(key)) and service.has_address}
        try:
            self._addresses.add((key for key in changed if key in self._services or key in hosts), self._addressed)
            self._set_faults("vips", ())
        except HostError as error:
            self._set_faults("vips", (Fault("virtual addresses", str(error)),))

    def _addressed(self) -> Iterable[ServiceKey]:
        """Return all services that must have a virtual address."""
        return (*self._services, *(key for key, service in self._outside.items() if service.has_address))

    @property
    def vips(self) -> Mapping[ServiceKey, Vip]:
        """Return the virtual addresses, of services that have gone, too."""
        return self._addresses.table

    def _take_config(self, index: int, values: Mapping[str, tuple[int, bytes]]) -> None:
        self.config_known = True
        if values or self._config:
            # The index of a prefix that never held anything is that of any other key: each node would show its own.
            self.revision = index
        self._config = values
        self._rules.update(values)

    def _take_settings(self, value: bytes | None) -> None:
        self._raw_settings = value
        excluded = self._settings.excluded_services
        try:
            self._settings = parse_settings(value, KV_MESH) if value else MeshSettings()
            self._set_faults("settings", ())
        except ValidationError as error:
            self._set_faults("settings", (Fault(KV_MESH, f"{error.problems[0]}; the last good settings serve on"),))
        if self._settings.excluded_services != excluded:
            for name, instances in list(self._entries.items()):
                self._set_entries(name, instances)
