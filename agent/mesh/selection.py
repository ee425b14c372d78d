"""Instances of mesh services as endpoints of hosts that rules declare: a ServiceEntry's workloadSelector. Pure.

May never change a result: it remembers what it found in services that have not changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import structs

from agent.flow.table import Table, changed_keys
from agent.mesh.service import Health, Instance, Outside, Service, ServiceKey, selects


class Selection:
    """Joins declared services with the instances that they select, again and again: a change costs what it changes."""

    def __init__(self) -> None:
        self._declared: Mapping[ServiceKey, Service] = {}
        self._services: Mapping[ServiceKey, Service] = {}
        self._selected: dict[ServiceKey, dict[ServiceKey, tuple[Instance, ...]]] = {}
        """Declared service with a selector → service that it selects from → endpoints."""
        self._joined: Table[ServiceKey, Service] = Table()

    def join(
        self, declared: Mapping[ServiceKey, Service], services: Mapping[ServiceKey, Service]
    ) -> Mapping[ServiceKey, Service]:
        """Return the declared services, those with a selector with the instances that it selects."""
        others = changed_keys(self._declared, declared)
        sources = changed_keys(self._services, services)
        self._declared, self._services = declared, services
        changes: dict[ServiceKey, Service | None] = {}
        for key in others:
            self._selected.pop(key, None)
            changes[key] = service = declared.get(key)
            if service and service.outside and service.outside.selector is not None:
                self._selected[key] = {}
                self._select(service, services)
        if sources:
            for key in self._selected.keys() - changes.keys():
                if self._select(declared[key], sources):
                    changes[key] = declared[key]
        for key in self._selected.keys() & changes.keys():
            made = _with(declared[key], [one for found in self._selected[key].values() for one in found])
            before = self._joined.get(key)
            changes[key] = before if before == made else made
        self._joined = self._joined.with_changes(changes)
        return self._joined

    def _select(self, service: Service, sources: Iterable[ServiceKey]) -> bool:
        """Look at these services again; return whether other instances are selected now."""
        selected, changed = self._selected[service.key], False
        for key in sources:
            source = self._services.get(key)
            found = tuple(_endpoints(service, source)) if source else ()
            if found != selected.get(key, ()):
                changed = True
                if found:
                    selected[key] = found
                else:
                    del selected[key]
        return changed


def _endpoints(service: Service, source: Service) -> list[Instance]:
    outside = service.outside
    if outside is None or outside.selector is None or source.key.namespace not in outside.namespaces:
        return []
    return [
        _endpoint(service, outside, instance)
        for instance in source.instances
        if selects(outside.selector, instance.labels)
    ]


def _endpoint(service: Service, outside: Outside, instance: Instance) -> Instance:
    """Return an instance as an endpoint: it is called as itself on the ports that its own Envoy serves."""
    targets = dict(outside.target_ports)
    served = {port.number for port in instance.ports}
    own = all(targets.get(port.number, port.number) in served for port in service.ports)
    return structs.replace(
        instance,
        id=f"{service.key}-{instance.node}-{instance.id}",
        service=service.key,
        ports=service.ports,
        target_ports=outside.target_ports,
        proxied=instance.proxied and outside.in_mesh and own,
        namespace=instance.service.namespace,
    )


def _with(service: Service, endpoints: list[Instance]) -> Service:
    outside = service.outside
    if outside is not None and outside.resolution.asks_dns:
        found = tuple(sorted((*outside.endpoints, *(one for one in endpoints if one.health is not Health.CRITICAL))))
        return structs.replace(service, outside=structs.replace(outside, endpoints=found))
    return structs.replace(service, instances=tuple(sorted((*service.instances, *endpoints))))
