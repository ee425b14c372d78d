"""The rules that come, change and go: for the loaded services only, never for what is under load. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Value = tuple[str, bytes | None]
"""A key of Consul's KV, and what is written there; None: it is deleted."""

_Make = Callable[[str, int], tuple[str, str, dict[str, Any]]]

_OLD, _NEW, _SECURITY = "config.istio.io/v1alpha2", "networking.istio.io/v1beta1", "security.istio.io/v1beta1"


def changes(services: int, seed: int = 1) -> Iterator[Value]:
    """Yield changes for ever: of each kind a rule is written, written otherwise, and in one case of three deleted."""
    draw = random.Random(seed)
    while True:
        key, value = _written(draw.choice(_KINDS), draw.randrange(services), draw.randrange(100))
        yield key, None if draw.randrange(3) == 0 else value


def initial(services: int) -> Iterator[tuple[str, bytes]]:
    """Yield as many rules as there are after many changes: two thirds of all that there may be."""
    return (_written(make, number, 0) for number in range(services * 2 // 3) for make in _KINDS)


def _written(make: _Make, number: int, variant: int) -> tuple[str, bytes]:
    service = f"s{number}"
    api, kind, spec = make(service, variant)
    metadata = {"name": f"{service}-soak", "namespace": "default"}
    document = {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}
    return f"hostmesh/config/default/{kind.lower()}/{metadata['name']}", json.dumps(document).encode()


def _route_rule(service: str, number: int) -> tuple[str, str, dict[str, Any]]:
    match = {"request": {"headers": {"x-user": {"exact": f"user-{number}"}}}}
    route = [{"labels": {"version": f"v{number % 2 + 1}"}}]
    return _OLD, "RouteRule", {"destination": {"name": service}, "precedence": 2, "match": match, "route": route}


def _virtual_service(service: str, number: int) -> tuple[str, str, dict[str, Any]]:
    route = [{"destination": {"host": service}}]
    http = [{"match": [{"uri": {"prefix": f"/{number}"}}], "timeout": f"{number + 1}s", "route": route}]
    return _NEW, "VirtualService", {"hosts": [service], "http": [*http, {"route": route}]}


def _destination_rule(service: str, number: int) -> tuple[str, str, dict[str, Any]]:
    subsets = [{"name": f"v{each}", "labels": {"version": f"v{each}"}} for each in (1, 2)]
    pool = {"connectionPool": {"tcp": {"maxConnections": number + 1}}}
    return _NEW, "DestinationRule", {"host": service, "trafficPolicy": pool, "subsets": subsets}


def _service_entry(service: str, number: int) -> tuple[str, str, dict[str, Any]]:
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    hosts = [f"{service}-{number % 2}.soak.example"]
    return _NEW, "ServiceEntry", {"hosts": hosts, "ports": ports, "location": "MESH_EXTERNAL", "resolution": "DNS"}


def _authorization_policy(service: str, number: int) -> tuple[str, str, dict[str, Any]]:
    rules = [{"from": [{"source": {"principals": [f"cluster.local/ns/default/sa/user-{number}"]}}]}]
    return _SECURITY, "AuthorizationPolicy", {"selector": {"matchLabels": {"app": service}}, "rules": rules}


_KINDS: tuple[_Make, ...] = (
    _route_rule,
    _virtual_service,
    _destination_rule,
    _service_entry,
    _authorization_policy,
)
