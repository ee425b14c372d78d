"""A mesh of any size: services with instances, and three rules for each of both generations of the API. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from msgspec import Struct

from agent.mesh.names import config_key
from agent.mesh.service import Instance, Locality, Port, Protocol, ServiceKey

NAMESPACE = "default"
_OLD, _NEW = "config.istio.io/v1alpha2", "networking.istio.io/v1"
_HTTP, _TCP = 8080, 3306
_MEMBERS = 50
"""HTTP services that share a port, where ports are in proportion to services."""
_CALLED = 20
"""Services that a Sidecar lets be called."""
Value = tuple[str, bytes]
"""A KV key and what stands there."""


class Layout(StrEnum):
    """What the host is, and what the mesh looks like."""

    ONE_PORT = "all HTTP services on one port"
    """One route table holds them all."""
    SPREAD = "fifty HTTP services a port"
    SIDECAR = "the same, with a Sidecar for twenty services"
    GATEWAY = "a gateway that all VirtualServices of HTTP are bound to"


class Mesh(Struct, frozen=True):
    """How large it is. Every fifth service is TCP, the others are HTTP."""

    services: int
    instances: int = 10
    layout: Layout = Layout.ONE_PORT

    def port(self, number: int) -> Port:
        """Return the port of a service."""
        if is_tcp(number):
            return Port(_TCP, "mysql", Protocol.MYSQL)
        return Port(_HTTP + (0 if self.layout is Layout.ONE_PORT else 1 + number // _MEMBERS), "http", Protocol.HTTP)

    def members(self, number: int) -> tuple[Instance, ...]:
        """Return the instances of a service: two versions, three zones."""
        key, ports = ServiceKey(NAMESPACE, name(number)), (self.port(number),)
        return tuple(
            Instance(
                id=f"{key.name}-{one}",
                service=key,
                node=f"node-{one}",
                address=f"10.{number // 250}.{number % 250}.{one + 1}",
                ports=ports,
                labels=(("app", key.name), ("version", f"v{one % 2 + 1}")),
                proxied=True,
                service_account=key.name,
                locality=Locality("dc1", f"zone-{one % 3}"),
            )
            for one in range(self.instances)
        )

    def rules(self) -> Iterator[Value]:
        """Yield three rules for each service, on the average, and what the layout needs."""
        for number in range(self.services):
            yield from self._new_rules(number) if number % 2 else old_rules(number)
        if self.layout is Layout.SIDECAR:
            hosts = [f"./{name(number)}.{NAMESPACE}.svc.cluster.local" for number in range(_CALLED)]
            yield _value(_NEW, "Sidecar", "default", {"egress": [{"hosts": hosts}]})
        if self.layout is Layout.GATEWAY:
            server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
            yield _value(_NEW, "Gateway", "edge", {"selector": {"istio": "ingressgateway"}, "servers": [server]})

    def virtual_service(self, number: int, weight: int) -> Value:
        """Return a VirtualService that gives v1 this share, and all requests of a path to another service."""
        own, other = name(number), name(number - (2 if is_tcp(number - 1) else 1))
        targets = [_target(own, "v1", weight), _target(own, "v2", 100 - weight)]
        if is_tcp(number):
            return _value(_NEW, "VirtualService", own, {"hosts": [own], "tcp": [{"route": targets}]})
        http = [
            {"match": [{"uri": {"prefix": "/other"}}], "route": [{"destination": {"host": other}}], "timeout": "5s"},
            {"route": targets, "retries": {"attempts": 3, "perTryTimeout": "2s"}},
        ]
        spec = {"hosts": [own], "http": http}
        if self.layout is Layout.GATEWAY:
            spec = {"hosts": [own, f"{own}.example.org"], "gateways": ["mesh", "edge"], "http": http}
        return _value(_NEW, "VirtualService", own, spec)

    def _new_rules(self, number: int) -> Iterator[Value]:
        """Yield a VirtualService, a DestinationRule and a ServiceEntry."""
        yield self.virtual_service(number, weight=90)
        yield destination_rule(number, connections=100)
        yield service_entry(number)


def is_tcp(number: int) -> bool:
    """Tell whether a service speaks TCP."""
    return number % 5 == 4


def name(number: int) -> str:
    """Return a service's name."""
    return f"s{number:05d}"


def old_rules(number: int) -> Iterator[Value]:
    """Yield two RouteRules and a DestinationPolicy."""
    own = name(number)
    yield route_rule(number, weight=90)
    tester: dict[str, Any] = {"match": {"source": {"name": name(0)}}}
    if not is_tcp(number):
        headers = {"x-user": {"exact": "tester"}}
        tester = {"match": {"request": {"headers": headers}}, "httpReqTimeout": {"simpleTimeout": {"timeout": "3s"}}}
    spec = {"destination": {"name": own}, "precedence": 2, "route": [{"labels": {"version": "v2"}}], **tester}
    yield _value(_OLD, "RouteRule", f"{own}-tester", spec)
    breaker = {"maxConnections": 100, "httpConsecutiveErrors": 5, "sleepWindow": "15s"}
    yield _value(
        _OLD, "DestinationPolicy", own,
        {"destination": {"name": own, "labels": {"version": "v1"}}, "circuitBreaker": {"simpleCb": breaker}},
    )  # fmt: skip


def route_rule(number: int, weight: int) -> Value:
    """Return a RouteRule that gives v1 this share."""
    own = name(number)
    routes = [{"labels": {"version": "v1"}, "weight": weight}, {"labels": {"version": "v2"}, "weight": 100 - weight}]
    return _value(_OLD, "RouteRule", own, {"destination": {"name": own}, "precedence": 1, "route": routes})


def destination_rule(number: int, connections: int) -> Value:
    """Return a DestinationRule with two subsets and this limit of connections."""
    policy = {
        "connectionPool": {"tcp": {"maxConnections": connections}},
        "outlierDetection": {"consecutive5xxErrors": 5, "interval": "10s"},
    }
    subsets = [{"name": version, "labels": {"version": version}} for version in ("v1", "v2")]
    return _value(
        _NEW, "DestinationRule", name(number), {"host": name(number), "trafficPolicy": policy, "subsets": subsets}
    )


def service_entry(number: int, port: int = 443) -> Value:
    """Return a ServiceEntry of one host."""
    host = f"{name(number)}.example.com"
    ports = [{"number": port, "name": "tls", "protocol": "TLS"}]
    return _value(_NEW, "ServiceEntry", name(number), {"hosts": [host], "ports": ports, "resolution": "DNS"})


def peer_authentication(number: int) -> Value:
    """Return a PeerAuthentication of one service's instances."""
    spec = {"selector": {"matchLabels": {"app": name(number)}}, "mtls": {"mode": "STRICT"}}
    return _value("security.istio.io/v1", "PeerAuthentication", name(number), spec)


def _target(host: str, subset: str, weight: int) -> dict[str, Any]:
    return {"destination": {"host": host, "subset": subset}, "weight": weight}


def _value(api_version: str, kind: str, own: str, spec: dict[str, Any]) -> Value:
    document = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": own, "namespace": NAMESPACE},
        "spec": spec,
    }
    return config_key(NAMESPACE, kind, own), json.dumps(document).encode()
