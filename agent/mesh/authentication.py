"""Who must prove what to whom: mutual TLS by port, tokens of requests. Pure.

Servers and callers decide by the same rules: whether a port takes mutual TLS is not negotiated, callers know it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agent.mesh.names import CONSUL_DOMAIN, DEFAULT_NAMESPACE, qualified_hosts
from agent.mesh.routes import Fault, ObjectRef
from agent.mesh.service import Instance, Labels, MtlsMode, PortModes, ServiceKey, selects
from agent.mesh.settings import ROOT_NAMESPACE, MeshSettings


class PeerAuthentication(Struct, frozen=True):
    """What one PeerAuthentication says. A mode of None leaves it to the next wider one (UNSET)."""

    origin: ObjectRef
    selector: Labels
    """(): for its whole namespace; in the root namespace, for the mesh."""
    mode: MtlsMode | None
    ports: tuple[tuple[int, MtlsMode | None], ...] = ()
    """By the workload's port; with a selector only."""


class PeerModes(Struct, frozen=True):
    """What every port of the mesh accepts."""

    mesh: MtlsMode = MtlsMode.PERMISSIVE
    authentications: tuple[PeerAuthentication, ...] = ()
    """In order of namespace and name: of several that say the same the first counts."""
    excluded: tuple[str, ...] = ()
    """Names of services that callers send plain text to."""
    root: str = ROOT_NAMESPACE

    @classmethod
    def of(cls, settings: MeshSettings, authentications: tuple[PeerAuthentication, ...]) -> PeerModes:
        """Return what settings and rules say together."""
        return cls(settings.mtls, authentications, settings.mtls_excluded_services, settings.root_namespace)

    def mode(self, namespace: str, labels: Labels, port: int, own: PortModes = ()) -> MtlsMode:
        """Return what a workload's port accepts; the narrowest that says it counts.

        The port in a PeerAuthentication for the workload, what the instance itself says of the port, the
        PeerAuthentication for the workload, for its namespace, for the mesh, the mesh's setting.
        """
        said = dict(own).get(port)
        if not self.authentications:
            return said or self.mesh
        workload = self._first(namespace, labels)
        candidates = (
            dict(workload.ports).get(port) if workload else None,
            said,
            workload.mode if workload else None,
            *(self._wide(each) for each in (namespace, self.root)),
        )
        return next((mode for mode in candidates if mode is not None), self.mesh)

    def of_instance(self, instance: Instance, port: int) -> MtlsMode:
        """Return what an instance accepts on a port that it listens on."""
        namespace = instance.namespace or instance.service.namespace
        return self.mode(namespace, instance.labels, port, instance.port_modes)

    def takes_tls(self, instance: Instance, port: int) -> bool:
        """Tell whether callers shall speak mutual TLS to that port of an instance."""
        if not instance.serves_tls or self.of_instance(instance, port) is MtlsMode.DISABLED:
            return False
        return not (self.excluded and self.excludes(instance.service))

    def wants_tls(self, instance: Instance, port: int) -> bool:
        """Tell whether an instance refuses plain text there."""
        return self.takes_tls(instance, port) and self.of_instance(instance, port) is MtlsMode.STRICT

    def excludes(self, service: ServiceKey) -> bool:
        """Tell whether callers send plain text to a service whatever it accepts."""
        names = {str(service), *qualified_hosts(service)}
        if service.namespace == DEFAULT_NAMESPACE:
            names |= {service.name, f"{service.name}.{CONSUL_DOMAIN}"}
        return any(name.lower().rstrip(".") in names for name in self.excluded)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return what of the rules has no effect wherever it is looked at."""
        first: dict[tuple[str, Labels], ObjectRef] = {}
        faults = []
        for each in self.authentications:
            if each.selector and each.origin.namespace == self.root:
                reason = f"a selector has no effect in {self.root}: say it in the workload's own namespace"
                faults.append(Fault(str(each.origin), f"has no effect: {reason}"))
                continue
            other = first.setdefault((each.origin.namespace, each.selector), each.origin)
            if other is not each.origin:
                faults.append(Fault(str(each.origin), f"has no effect: {other} is for the same workloads"))
        return tuple(faults)

    def _first(self, namespace: str, labels: Labels) -> PeerAuthentication | None:
        return next(
            (
                each
                for each in self.authentications
                if each.selector and each.origin.namespace == namespace != self.root and selects(each.selector, labels)
            ),
            None,
        )

    def _wide(self, namespace: str) -> MtlsMode | None:
        every: Iterable[PeerAuthentication] = self.authentications
        found = (each.mode for each in every if not each.selector and each.origin.namespace == namespace)
        return next(found, None)
