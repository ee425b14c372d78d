"""Hosts that rules are about and no rule declares, but a wildcard of one has in it: services of their own. Pure.

`api.foo.com` of a VirtualService, where a ServiceEntry declares `*.foo.com`, has the entry's ports and is found in the
entry's way; the rest of the wildcard is as before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import structs

from agent.api.envelope import Document
from agent.api.lowering.gateway import is_for_mesh
from agent.api.lowering.istio_service import named_host
from agent.mesh.service import Protocol, Service, ServiceKey

_TELLING = (Protocol.HTTPS, Protocol.TLS)
"""Server names say it."""


def ruled_hosts(document: Document) -> Iterator[tuple[ServiceKey, str]]:
    """Yield the hosts that a rule is about, as services that a rule declares, and the namespace to look them up in."""
    spec = document.spec
    match document.kind:
        case "VirtualService":
            hosts = (spec.get("hosts") or ()) if is_for_mesh(document) else ()
            found = [(host, document.namespace) for host in hosts]
        case "DestinationRule":
            found = [(spec["host"], document.namespace)]
        case "RouteRule" | "DestinationPolicy":
            found = [named_host(spec["destination"], document.namespace)]
        case _:
            found = []
    yield from ((ServiceKey("", host.rstrip(".").lower()), namespace) for host, namespace in found if "." in host)


def wildcard_around(key: ServiceKey, declared: Iterable[ServiceKey]) -> ServiceKey | None:
    """Return the narrowest of the wildcards that rules declare which has the host in it, but is not itself."""
    around = (one for one in declared if one.name.startswith("*") and one != key)
    return max((one for one in around if key.name.endswith(one.name[1:])), key=lambda one: len(one.name), default=None)


def service_within(wildcard: Service, key: ServiceKey) -> Service:
    """Return the service of a host in a wildcard, with the ports whose connections say which host they are for."""
    outside = wildcard.outside
    assert outside is not None
    endpoints = tuple(structs.replace(endpoint, service=key) for endpoint in outside.endpoints)
    instances = tuple(structs.replace(instance, service=key) for instance in wildcard.instances)
    ports = tuple(port for port in wildcard.ports if port.protocol.is_http or port.protocol in _TELLING)
    inner = structs.replace(outside, endpoints=endpoints, addresses=(), in_wildcard=True)
    return Service(key, ports, instances, inner)
