"""Instances of mesh services as endpoints of hosts that rules declare: a ServiceEntry's workloadSelector. Pure.

May never change a result: it remembers what it found in services that are still the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from agent.mesh.service import Health, Instance, Outside, Service, ServiceKey, selects


class Selection:
    """Joins declared services with the instances that they select, again and again."""

    def __init__(self) -> None:
        self._found: dict[tuple[ServiceKey, ServiceKey], tuple[Service, Service, tuple[Instance, ...]]] = {}
        """(declared, selected from) → both services, and the endpoints."""
        self._joined: dict[ServiceKey, Service] = {}
        self._declared: Mapping[ServiceKey, Service] = {}
        self._selecting: list[Service] = []

    def join(
        self, declared: Mapping[ServiceKey, Service], services: Mapping[ServiceKey, Service]
    ) -> Mapping[ServiceKey, Service]:
        """Return the declared services, those with a selector with the instances that it selects."""
        if declared is not self._declared:
            self._selecting = [
                service for service in declared.values() if service.outside and service.outside.selector is not None
            ]
            self._declared = declared
        selecting = self._selecting
        if not selecting:
            self._found, self._joined = {}, {}
            return declared
        found = {}
        joined = {}
        for service in selecting:
            endpoints: list[Instance] = []
            for source in services.values():
                place = (service.key, source.key)
                known = self._found.get(place)
                if known is None or known[0] is not service or known[1] is not source:
                    known = service, source, tuple(_endpoints(service, source))
                found[place] = known
                endpoints += known[2]
            made = _with(service, endpoints)
            before = self._joined.get(service.key)
            joined[service.key] = before if before == made else made
        self._found, self._joined = found, joined
        return {**declared, **joined}


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
