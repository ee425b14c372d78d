"""The known services, indexed so that thousands of rules resolve their hosts quickly, by the rules of mesh/names.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from agent.flow.stage import Asked, Flow, Gathered, Node
from agent.mesh.names import CONSUL_DOMAIN, qualified_hosts, resolve_host
from agent.mesh.service import ServiceKey

_ALL = ""
"""The one key of what is one value."""
_IN_CONSUL = f".{CONSUL_DOMAIN}"


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

    def meant(self, host: str, namespace: str) -> tuple[ServiceKey, ...]:
        """Return the services that a rule for this host is about: of a wildcard all that have a name within it."""
        if not host.startswith("*"):
            found = self.resolve(host, namespace)
            return () if found is None else (found,)
        ending = host.rstrip(".").lower().removeprefix("*")
        within = [key for key in self._all() if any(name.endswith(ending) for name in _full_names(key))]
        if ending.endswith(_IN_CONSUL) or _IN_CONSUL.endswith(ending):
            # Of several services one has this name, depending on who asks.
            names = (key.name + _IN_CONSUL for key in self._all() if not key.is_outside)
            asked = (self.resolve(name, namespace) for name in names if name.endswith(ending))
            return tuple(sorted({*within, *(key for key in asked if key is not None)}))
        return tuple(within)

    def _all(self) -> Iterable[ServiceKey]:
        """Return the services in order."""
        return sorted(self.services)

    def _candidates(self, host: str) -> list[ServiceKey]:
        return [key for name in _names(host) for key in self._by_name.get(name, ())]


class LiveCatalog(Catalog):
    """The services of a flow's nodes; what is resolved depends on the services that the host can mean only."""

    def __init__(self, flow: Flow, *services: Node[ServiceKey, Any]) -> None:
        super().__init__(())
        self._named: Gathered[str, ServiceKey, bool] = Gathered(flow, services, lambda key, _: {key.name: True})
        self._every: Gathered[str, ServiceKey, bool] = Gathered(flow, services, lambda key, _: {_ALL: True})
        self._asked = Asked(flow, self._resolve)

    def resolve(self, host: str, namespace: str) -> ServiceKey | None:
        """Return the service that a host in a rule of that namespace means, or None if it is not in the catalog."""
        return self._asked.get((host, namespace))

    def _all(self) -> Iterable[ServiceKey]:
        return self._every.get(_ALL) or ()

    def _resolve(self, asked: tuple[str, str]) -> ServiceKey | None:
        host, namespace = asked
        return resolve_host(host, namespace, [key for name in _names(host) for key in self._named.get(name) or ()])


@lru_cache(maxsize=65_536)  # asked for every service whenever one comes or goes
def _full_names(key: ServiceKey) -> tuple[str, ...]:
    return (key.name,) if key.is_outside else qualified_hosts(key)


def _names(host: str) -> Iterator[str]:
    """Yield the names that the host begins with: no service of another name can be meant."""
    parts = host.rstrip(".").lower().split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))
