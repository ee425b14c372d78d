"""The known services, indexed so that thousands of rules resolve their hosts quickly, by the rules of mesh/names.py."""

from __future__ import annotations

from collections.abc import Iterable

from agent.mesh.names import resolve_host
from agent.mesh.service import ServiceKey


class Catalog:
    """An immutable set of services; remembers what it has resolved."""

    def __init__(self, services: Iterable[ServiceKey]) -> None:
        self.services = frozenset(services)
        self._by_name: dict[str, list[ServiceKey]] = {}
        self._resolved: dict[tuple[str, str], ServiceKey | None] = {}
        for key in sorted(self.services):
            self._by_name.setdefault(key.name, []).append(key)

    def resolve(self, host: str, namespace: str) -> ServiceKey | None:
        """Return the service that a host in a rule of that namespace means, or None if it is not in the catalog."""
        asked = (host, namespace)
        if asked not in self._resolved:
            self._resolved[asked] = resolve_host(host, namespace, self._candidates(host))
        return self._resolved[asked]

    def _candidates(self, host: str) -> list[ServiceKey]:
        """Return the services whose name the host begins with: no other one can be meant."""
        parts = host.rstrip(".").lower().split(".")
        names = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return [key for name in names for key in self._by_name.get(name, ())]
