"""The other program: fills a Consul catalog and changes it through the HTTP API.

Every service has one HTTP port, the same at all instances, and an agent in front of each instance. Nodes must be more
than instances: a new instance is on a node where its service has none yet, so that its address is new to Envoy too.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import aiohttp
from msgspec import Struct

OPERATIONS = 64
"""Consul's limit of one transaction."""
PORT = 8080
APART = 10
"""Changes between two of the same service: a second at ten changes a second."""


class Size(Struct, frozen=True):
    """How large the catalog is."""

    services: int = 1000
    instances: int = 10
    nodes: int = 100


class Kind(StrEnum):
    """What can happen to a catalog."""

    FLIP = "flip"
    NEW = "new instance"
    METADATA = "metadata"
    SERVICE = "new service"
    GONE = "deregistration"
    SERVICE_GONE = "service gone"

    @property
    def removes(self) -> bool:
        """Tell whether the instance is no longer there afterwards."""
        return self in (Kind.GONE, Kind.SERVICE_GONE)


class Change(Struct, frozen=True):
    """One change, and what the service's instance must look like for whoever saw it."""

    kind: Kind
    service: str
    instance: str
    node: str
    address: str
    critical: bool = False
    version: str = "v1"


class Catalog:
    """What the catalog must say after all changes: whoever followed it can be compared with this."""

    def __init__(self, size: Size) -> None:
        self._instances = {change.instance: change for change in _initial(size)}

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over changes that were made, in their order."""
        for change in changes:
            if change.kind.removes:
                del self._instances[change.instance]
            else:
                self._instances[change.instance] = change

    def serving(self) -> Mapping[str, frozenset[str]]:
        """Return the addresses (`IP:port`) of each service's instances that are not critical."""
        found: dict[str, set[str]] = {}
        for each in self._instances.values():
            addresses = found.setdefault(each.service, set())
            if not each.critical:
                addresses.add(f"{each.address}:{PORT}")
        return {service: frozenset(addresses) for service, addresses in found.items()}


class CatalogWriter:
    """Writes to one Consul as a program other than the agent would."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession()

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    async def load(self, size: Size) -> float:
        """Enter the whole catalog by transactions and return the seconds it took."""
        started = time.monotonic()
        nodes = [
            {"Node": {"Verb": "set", "Node": {"Node": f"n{n}", "Address": _address(n)}}} for n in range(size.nodes)
        ]
        operations = nodes + list(_instances(size))
        for start in range(0, len(operations), OPERATIONS):
            await self._put("/v1/txn", operations[start : start + OPERATIONS])
        return time.monotonic() - started

    async def make(self, change: Change) -> float:
        """Make the change and return the monotonic time at which the request was sent."""
        sent = time.monotonic()
        if change.kind.removes:
            await self._put("/v1/catalog/deregister", {"Node": change.node, "ServiceID": change.instance})
        else:
            await self._put("/v1/catalog/register", _registration(change))
        return sent

    async def put_value(self, key: str, value: bytes) -> None:
        """Write a KV value."""
        async with self._session.put(f"{self._url}/v1/kv/{key}", data=value) as answer:
            answer.raise_for_status()

    async def delete_value(self, key: str) -> None:
        """Delete a KV value, if there is one."""
        async with self._session.delete(f"{self._url}/v1/kv/{key}") as answer:
            answer.raise_for_status()

    async def _put(self, path: str, body: object) -> None:
        async with self._session.put(self._url + path, data=json.dumps(body)) as answer:
            if answer.status != 200:
                raise RuntimeError(f"PUT {path}: {answer.status} {await answer.text()}")


def changes(size: Size, new_names: bool = True, seed: int = 1, fresh_names: int = 10**6) -> Iterator[Change]:
    """Yield changes for ever: flips, new instances, new services, new metadata, deregistrations, of APART services.

    Without `new_names` no service comes or goes; `fresh_names`: among how many names theirs are drawn.

    Changes of one service stay APART apart, so that one can't hide its predecessor before anybody could see it.
    """
    draw = random.Random(seed)
    critical: set[tuple[int, int]] = set()
    while True:
        services = draw.sample(range(size.services), min(APART, size.services))
        flipped = [(service, draw.randrange(size.instances)) for service in services]
        critical ^= set(flipped)
        added = [(service, draw.randrange(size.instances, size.nodes)) for service in services]
        yield from (_change(Kind.FLIP, size, *which, critical=which in critical) for which in flipped)
        yield from (_change(Kind.NEW, size, *which) for which in added)
        numbers = draw.sample(range(fresh_names), len(services)) if new_names else []
        fresh = [(size.services + number, 0) for number in numbers]
        yield from (_change(Kind.SERVICE, size, *which) for which in fresh)
        yield from (_change(Kind.METADATA, size, *which, version="v2") for which in added)
        yield from (_change(Kind.GONE, size, *which, version="v2") for which in added)
        yield from (_change(Kind.SERVICE_GONE, size, *which) for which in fresh)


def _change(kind: Kind, size: Size, service: int, number: int, critical: bool = False, version: str = "v1") -> Change:
    node = (service * 7 + number) % size.nodes
    return Change(kind, f"s{service}", f"s{service}-{number}", f"n{node}", _address(node), critical, version)


def _initial(size: Size) -> Iterator[Change]:
    for service in range(size.services):
        for number in range(size.instances):
            yield _change(Kind.NEW, size, service, number)


def _instances(size: Size) -> Iterator[dict[str, Any]]:
    for change in _initial(size):
        body = _registration(change)
        yield {"Service": {"Verb": "set", "Node": body["Node"], "Service": body["Service"]}}
        yield {"Check": {"Verb": "set", "Check": body["Checks"][0] | {"Node": body["Node"]}}}


def _registration(change: Change) -> dict[str, Any]:
    meta = {"version": change.version, "protocol": "http", "namespace": "default", "service-account": change.service}
    if change.version == "v1":  # the changed metadata are seen by Envoy too: from then on it is called in plain text
        meta["hostmesh-tls"] = "true"
    check = {
        "CheckID": f"service:{change.instance}",
        "Name": f"Service '{change.service}' check",
        "ServiceID": change.instance,
        "Status": "critical" if change.critical else "passing",
        "Output": "TCP connect 127.0.0.1:8080: Success",
    }
    service = {"ID": change.instance, "Service": change.service, "Port": PORT, "Meta": meta, "Tags": ["team=x"]}
    return {
        "Node": change.node,
        "Address": change.address,
        "SkipNodeUpdate": True,
        "Service": service,
        "Checks": [check],
    }


def _address(node: int) -> str:
    return f"10.{node // 65536}.{node // 256 % 256}.{node % 256 + 1}"
