"""The other program: fills a Consul catalog and changes it through the HTTP API."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import aiohttp
from msgspec import Struct

OPERATIONS = 64
"""Consul's limit of one transaction."""
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


class Change(Struct, frozen=True):
    """One change, and what the service's instance must look like for whoever saw it."""

    kind: Kind
    service: str
    instance: str
    node: str
    address: str
    port: int
    critical: bool = False
    version: str = "v1"


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
        if change.kind is Kind.GONE:
            await self._put("/v1/catalog/deregister", {"Node": change.node, "ServiceID": change.instance})
        else:
            await self._put("/v1/catalog/register", _registration(change))
        return sent

    async def _put(self, path: str, body: object) -> None:
        async with self._session.put(self._url + path, data=json.dumps(body)) as answer:
            if answer.status != 200:
                raise RuntimeError(f"PUT {path}: {answer.status} {await answer.text()}")


def changes(size: Size, seed: int = 1) -> Iterator[Change]:
    """Yield changes for ever: flips, new instances, new services, new metadata, deregistrations, of APART services.

    Changes of one service stay APART apart, so that one can't hide its predecessor before anybody could see it.
    """
    draw = random.Random(seed)
    critical: set[tuple[int, int]] = set()
    while True:
        services = draw.sample(range(size.services), min(APART, size.services))
        flipped = [(service, draw.randrange(size.instances)) for service in services]
        critical ^= set(flipped)
        added = [(service, size.instances + draw.randrange(10_000)) for service in services]
        yield from (_change(Kind.FLIP, size, *which, critical=which in critical) for which in flipped)
        yield from (_change(Kind.NEW, size, *which) for which in added)
        fresh = [(size.services + draw.randrange(10**6), 0) for _ in services]
        yield from (_change(Kind.SERVICE, size, *which) for which in fresh)
        yield from (_change(Kind.METADATA, size, *which, version="v2") for which in added)
        yield from (_change(Kind.GONE, size, *which, version="v2") for which in added)
        yield from (_change(Kind.GONE, size, *which) for which in fresh)


def _change(kind: Kind, size: Size, service: int, number: int, critical: bool = False, version: str = "v1") -> Change:
    node = _node(size, service, number)
    return Change(
        kind, f"s{service}", f"s{service}-{number}", f"n{node}", _address(node), _port(number), critical, version
    )


def _instances(size: Size) -> Iterator[dict[str, Any]]:
    for service in range(size.services):
        for number in range(size.instances):
            body = _registration(_change(Kind.NEW, size, service, number))
            yield {"Service": {"Verb": "set", "Node": body["Node"], "Service": body["Service"]}}
            yield {"Check": {"Verb": "set", "Check": body["Checks"][0] | {"Node": body["Node"]}}}


def _registration(change: Change) -> dict[str, Any]:
    meta = {"version": change.version, "protocol": "http", "namespace": "default", "service-account": change.service}
    check = {
        "CheckID": f"service:{change.instance}",
        "Name": f"Service '{change.service}' check",
        "ServiceID": change.instance,
        "Status": "critical" if change.critical else "passing",
        "Output": "TCP connect 127.0.0.1:8080: Success",
    }
    service = {"ID": change.instance, "Service": change.service, "Port": change.port, "Meta": meta, "Tags": ["team=x"]}
    return {
        "Node": change.node,
        "Address": change.address,
        "SkipNodeUpdate": True,
        "Service": service,
        "Checks": [check],
    }


def _node(size: Size, service: int, number: int) -> int:
    return (service * 7 + number) % size.nodes


def _port(number: int) -> int:
    return 10_000 + number


def _address(node: int) -> str:
    return f"10.{node // 65536}.{node // 256 % 256}.{node % 256 + 1}"
