"""What of the mesh a host's applications can call, as its Sidecar says, and what else is needed for that. Pure.

`Scoping` remembers, nothing else: a change costs what it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from agent.flow.stage import Flow, Gathered, Shared, Source, Stage
from agent.flow.views import Tabled, Tally
from agent.mesh.routes import ServicePolicy
from agent.mesh.service import Port, Service, ServiceKey
from agent.mesh.sidecar import Named, Sidecar


class Scope(Struct, frozen=True):
    """What a host's default workload's Sidecar leaves of the mesh."""

    sidecar: Sidecar | None = None
    unseen: Mapping[ServiceKey, bool] = {}
    """Services that cannot be called: they have no names, routes or listeners here."""
    kept: Mapping[ServiceKey, Service] = {}
    """If there are such services: the others, and what is made of them although they are unseen: routes of services
    in the scope lead there, or they are the host's own."""
    followed: frozenset[str] | None = None
    """The catalog names that must be up to date; None: all."""

    @classmethod
    def of(
        cls,
        sidecar: Sidecar | None,
        services: Mapping[ServiceKey, Service],
        policies: Mapping[ServiceKey, ServicePolicy],
        own: Iterable[ServiceKey] = (),
    ) -> Scope:
        """Return what a Sidecar leaves of a mesh to a host with these services of its own."""
        return Scoping().scope(sidecar, services, policies, own)

    def limit(self, services: Mapping[ServiceKey, Service]) -> Mapping[ServiceKey, Service]:
        """Return the services of that mesh that something is made of."""
        return self.kept if self.unseen else services

    def ports_of(self, service: Named) -> tuple[Port, ...]:
        """Return the ports of a service in the scope that can be called."""
        return self.sidecar.ports_of(service) if self.sidecar else service.ports


class Scoping:
    """Scopes of one state of the mesh after the other."""

    def __init__(self) -> None:
        self._nodes: _Nodes | None = None

    def scope(
        self,
        sidecar: Sidecar | None,
        services: Mapping[ServiceKey, Service],
        policies: Mapping[ServiceKey, ServicePolicy],
        own: Iterable[ServiceKey] = (),
    ) -> Scope:
        """Return what `Scope.of` says; Tables made from those of the last call are not even walked through."""
        nodes, self._nodes = self._nodes, None  # what an exception leaves behind is not used again
        if sidecar is None or not sidecar.egress:
            return Scope(sidecar)
        nodes = nodes or _Nodes(sidecar)
        scope = nodes.scope(sidecar, services, policies, own)
        self._nodes = nodes
        return scope


class _Nodes:
    """What is computed from what, by service."""

    def __init__(self, sidecar: Sidecar) -> None:
        flow = self._flow = Flow()
        self._sidecar = Shared(flow, sidecar)
        self._services: Source[ServiceKey, Service] = Source(flow)
        self._policies: Source[ServiceKey, ServicePolicy] = Source(flow)
        self._own: Source[ServiceKey, bool] = Source(flow)
        self._unseen = Stage(flow, self._services, self._is_unseen)
        led_to = Stage(flow, self._policies, self._led_to)
        self._leading: Gathered[ServiceKey, ServiceKey, bool] = Gathered(
            flow, led_to, lambda _, found: dict.fromkeys(found, True)
        )
        self._kept = Stage(flow, self._services, self._keep)
        self._selecting: Gathered[str, ServiceKey, bool] = Gathered(flow, self._kept, _selected_namespaces)
        followed = Stage(flow, self._services, self._follow)
        self._unseen_table, self._kept_table = Tabled(self._unseen), Tabled(self._kept)
        self._names, self._followed = Tally[str](), frozenset[str]()
        self._listed: tuple[str, ...] = ()
        self._names.count(followed, lambda name: (name,))

    def scope(
        self,
        sidecar: Sidecar,
        services: Mapping[ServiceKey, Service],
        policies: Mapping[ServiceKey, ServicePolicy],
        own: Iterable[ServiceKey],
    ) -> Scope:
        """Return what a Sidecar with egress listeners leaves of a mesh."""
        self._sidecar.set(sidecar)
        self._services.set(services)
        self._policies.set(policies)
        self._own.set(dict.fromkeys(own, True))
        self._flow.refresh()
        unseen, kept, names = self._unseen_table.table(), self._kept_table.table(), self._names.elements()
        if names is not self._listed:
            self._listed, self._followed = names, frozenset(names)
        return Scope(sidecar, unseen, kept, self._followed) if unseen else Scope(sidecar)

    def _is_unseen(self, key: ServiceKey) -> bool | None:
        return None if self._sidecar.get().admits(self._services[key]) else True

    def _led_to(self, key: ServiceKey) -> frozenset[ServiceKey] | None:
        """Return where the routes of a service lead that can be called."""
        if self._unseen.get(key):
            return None
        routes = (route for variant in self._policies[key].variants for route in variant.all_routes)
        return frozenset(destination.service for route in routes for destination in route.all_destinations) or None

    def _keep(self, key: ServiceKey) -> Service | None:
        is_needed = not self._unseen.get(key) or self._leading.get(key) or self._own.get(key)
        return self._services[key] if is_needed else None

    def _follow(self, key: ServiceKey) -> str | None:
        """Return the name of a service that is kept, or whose instances may be selected as endpoints of such a one."""
        is_followed = not key.is_outside and (self._kept.get(key) is not None or self._selecting.get(key.namespace))
        return key.name if is_followed else None


def _selected_namespaces(_key: ServiceKey, service: Service) -> Mapping[str, bool]:
    outside = service.outside
    return dict.fromkeys(outside.namespaces, True) if outside and outside.selector is not None else {}
