"""The destinations of a VirtualService's routes: found in the catalog, or noted as missing. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.api.lowering.actions import lower_headers
from agent.api.lowering.catalog import Catalog
from agent.mesh.routes import Destination, ObjectRef, Subset, WeightedDestination
from agent.mesh.service import ServiceKey

Subsets = Mapping[ServiceKey, Mapping[str, Subset]]
"""Service → subset name → subset."""


class Resolver:
    """Finds the destinations that one object names, and notes those that are not there."""

    def __init__(self, origin: ObjectRef, namespace: str, catalog: Catalog, subsets: Subsets) -> None:
        self.origin = origin
        self.namespace = namespace
        """In which short names are looked up."""
        self._catalog, self._subsets = catalog, subsets
        self.missing: list[str] = []
        self.lost: list[str] = []
        """The routes that lead nowhere."""

    def elsewhere(self, namespace: str) -> Resolver:
        """Return one that looks short names up in another namespace, and notes what is missing in the same place."""
        other = Resolver(self.origin, namespace, self._catalog, self._subsets)
        other.missing, other.lost = self.missing, self.lost
        return other

    def find(self, named: Mapping[str, Any]) -> Destination | None:
        """Return the destination that a rule names, None if it isn't there."""
        host, name = named["host"], named.get("subset")
        service = self._catalog.resolve(host, self.namespace)
        if service is None:
            self.missing.append(f"service {host} is not in the catalog")
            return None
        subset = self._subsets.get(service, {}).get(name) if name else None
        if name and subset is None:
            self.missing.append(f"no DestinationRule of {service} declares the subset {name}")
            return None
        return Destination(service, subset, (named.get("port") or {}).get("number"))


def weighted(targets: Sequence[Mapping[str, Any]], resolver: Resolver) -> tuple[WeightedDestination, ...]:
    """Return the targets that are there; they share what the others would get."""
    return tuple(
        # A single destination has all the traffic, whatever its weight.
        WeightedDestination(
            found, 100 if len(targets) == 1 else target.get("weight") or 0, lower_headers(target.get("headers"))
        )
        for target in targets
        if (found := resolver.find(target["destination"])) is not None
    )
