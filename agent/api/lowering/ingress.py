"""Ingress (networking.k8s.io) and IngressRule (config.istio.io) to mesh types: pure, takes validated specs only.

All of them together are one gateway, as one ingress controller serves them: the paths of a host stand in one order, of
whichever object they are. The RouteRules of a service hold on the way to it too, each narrowed to the paths that lead
there: so the first generation had it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, structs

from agent.api.checks.fields import PSEUDO_HEADERS
from agent.api.envelope import Document
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.istio_service import Unresolved, resolve_service
from agent.api.lowering.matching import header_matches, string_match
from agent.mesh.conjunction import conjunction
from agent.mesh.gateway import BoundRoutes, Gateway, GatewayServer, ServerKind, ServerTls
from agent.mesh.routes import (
    Destination,
    Fault,
    HttpMatch,
    MatchKind,
    ObjectRef,
    Route,
    ServicePolicy,
    StringMatch,
    WeightedDestination,
)
from agent.mesh.service import ServiceKey, labels_of

INGRESS = ObjectRef("Ingress", "", "*")
"""What the routes of all these objects are bound to."""
SELECTOR = {"istio": "ingress"}
HTTP_PORT, HTTPS_PORT = 80, 443
ANY_HOST = "*"


class Front(Struct, frozen=True):
    """A host and port that an object wants to be listened for; with a secret HTTPS, else HTTP."""

    port: int
    host: str = ANY_HOST
    secret: str = ""


class Way(Struct, frozen=True):
    """From a host to a service: a path of an Ingress, or an IngressRule."""

    origin: ObjectRef
    path: str
    """Where it stands in the document."""
    host: str
    matches: tuple[HttpMatch, ...]
    service: Mapping[str, Any]
    """As config.istio.io names one."""
    port: int | str
    """Number or name; 0: not said."""
    precedence: int = 0
    is_default: bool = False
    """For what no other way is for."""

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort as Kubernetes does: the longest path first, an exact one before others of its length."""
        longest = max((len(match.uri.value) for match in self.matches if match.uri), default=0)
        exact = all(match.uri and match.uri.kind is MatchKind.EXACT for match in self.matches)
        return (-self.precedence, self.is_default, -longest, not exact, self.origin)


def ways(document: Document) -> tuple[Way, ...]:
    """Return where an Ingress or an IngressRule leads."""
    return (_rule_way(document),) if document.kind == "IngressRule" else tuple(_ingress_ways(document))


def fronts(document: Document) -> tuple[Front, ...]:
    """Return what an Ingress or an IngressRule wants to be listened for."""
    spec = document.spec
    if document.kind == "IngressRule":
        secret = spec.get("tlsSecret") or ""
        host = _rule_host(_headers(spec)) if secret else ANY_HOST
        return (Front(_rule_port(spec), host, secret),)
    secure = (
        Front(HTTPS_PORT, host, tls["secretName"])
        for tls in spec.get("tls") or ()
        if tls.get("secretName")
        for host in _lower(tls.get("hosts") or (ANY_HOST,))
    )
    return (Front(HTTP_PORT), *dict.fromkeys(secure))


def lower_front(document: Document) -> Gateway:
    """Return the gateway's servers that one object asks for."""
    servers = tuple(_server(front) for front in fronts(document))
    return Gateway(document.ref, labels_of(SELECTOR), servers, bound_as=INGRESS)


def lower_ways(
    found: Iterable[Way], catalog: Catalog, policies: Mapping[ServiceKey, ServicePolicy]
) -> tuple[tuple[BoundRoutes, ...], tuple[Fault, ...]]:
    """Return the routes of each host in order, and a fault for each way that leads nowhere."""
    hosts: dict[str, list[Route]] = {}
    faults = []
    for way in sorted(found, key=lambda way: way.order):
        try:
            service = resolve_service(way.service, way.origin.namespace, catalog)
        except Unresolved as unresolved:
            faults.append(Fault(str(way.origin), f"{way.path} is left out: {unresolved}"))
            continue
        hosts.setdefault(way.host, []).extend(_routes(way, service, policies.get(service)))
    bound = (BoundRoutes(routes[0].origin, INGRESS, (host,), tuple(routes)) for host, routes in sorted(hosts.items()))
    return tuple(bound), tuple(faults)


def _server(front: Front) -> GatewayServer:
    hosts = ((ANY_HOST, front.host),)
    if not front.secret:
        return GatewayServer("http", front.port, hosts)
    tls = ServerTls((front.secret,))
    return GatewayServer(f"https-{front.host}", front.port, hosts, kind=ServerKind.HTTPS, tls=tls)


def _routes(way: Way, service: ServiceKey, policy: ServicePolicy | None) -> Iterator[Route]:
    # A VirtualService of the mesh (no default route) is not about requests that come through a gateway.
    for rule in policy.routes if policy and policy.default_route else ():
        both = (conjunction(mine, its) for mine in way.matches for its in rule.matches or (HttpMatch(),))
        if matches := tuple(match for match in both if match is not None):
            weighted = tuple(
                structs.replace(one, destination=_by_port(one.destination, service, way.port))
                for one in rule.destinations
            )
            yield structs.replace(rule, matches=matches, destinations=weighted)
    destination = _by_port(Destination(service), service, way.port)
    yield Route(way.path, way.origin, (WeightedDestination(destination),), way.matches)


def _by_port(destination: Destination, service: ServiceKey, port: int | str) -> Destination:
    """Return the destination with the way's port, if it is of that service and names none."""
    if destination.service != service or destination.port is not None:
        return destination
    if isinstance(port, str):
        return structs.replace(destination, port_name=port)
    return structs.replace(destination, port=port or None)


def _ingress_ways(document: Document) -> Iterator[Way]:
    spec = document.spec
    hosts = {ANY_HOST: None}
    for index, rule in enumerate(spec.get("rules") or ()):
        host = _lower([rule.get("host") or ANY_HOST])[0]
        hosts[host] = None
        for number, given in enumerate((rule.get("http") or {}).get("paths") or ()):
            place = f"spec.rules[{index}].http.paths[{number}]"
            if backend := _backend(given["backend"]):
                matches = tuple(HttpMatch(uri=uri) for uri in _paths(given)) or (HttpMatch(),)
                yield Way(document.ref, place, host, matches, *backend)
    for name in ("defaultBackend", "backend"):
        if backend := _backend(spec.get(name) or {}):
            for host in hosts:
                yield Way(document.ref, f"spec.{name}", host, (HttpMatch(),), *backend, is_default=True)


def _paths(given: Mapping[str, Any]) -> Iterator[StringMatch]:
    """Yield what a path is compared with; nothing: every path.

    Prefix goes by whole elements: `/a` is `/a` and `/a/b`, not `/ab`. Without a type `/a/.*` and `/a/*` are Istio's
    prefixes, anything else is exact.
    """
    kind, path = given.get("pathType") or "ImplementationSpecific", given.get("path") or ""
    if kind == "Prefix":
        stem = path.rstrip("/")
        if stem:
            yield StringMatch(MatchKind.EXACT, stem)
            yield StringMatch(MatchKind.PREFIX, f"{stem}/")
    elif kind == "ImplementationSpecific" and path.endswith("*"):
        yield StringMatch(MatchKind.PREFIX, path.removesuffix("*").removesuffix("."))
    elif path:
        yield StringMatch(MatchKind.EXACT, path)


def _backend(backend: Mapping[str, Any]) -> tuple[Mapping[str, Any], int | str] | None:
    """Return a backend's service and port; None: it is none."""
    if backend.get("service"):
        port = backend["service"]["port"]
        return {"name": backend["service"]["name"]}, port.get("number") or port["name"]
    if not backend.get("serviceName"):
        return None
    port = backend["servicePort"]
    return {"name": backend["serviceName"]}, int(port) if isinstance(port, str) and port.isdecimal() else port


def _rule_way(document: Document) -> Way:
    spec = document.spec
    headers = _headers(spec)
    named = spec.get("destinationServicePort") or spec.get("destinationPort") or spec.get("destinationPortName") or 0
    match = HttpMatch(
        uri=string_match(headers.get("uri")),
        method=string_match(headers.get("method")),
        scheme=string_match(headers.get("scheme")),
        authority=None if _rule_host(headers) != ANY_HOST else string_match(headers.get("authority")),
        headers=tuple(header_matches({name: headers[name] for name in headers if name not in PSEUDO_HEADERS})),
        port=_rule_port(spec),
    )
    return Way(
        document.ref,
        "spec.destination",
        _rule_host(headers),
        (match,),
        spec["destination"],
        int(named) if isinstance(named, str) and named.isdecimal() else named,
        spec.get("precedence") or 0,
    )


def _headers(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    return ((spec.get("match") or {}).get("request") or {}).get("headers") or {}


def _rule_host(headers: Mapping[str, Any]) -> str:
    """Return the host whose requests an IngressRule is about: the exact authority, which may have a port."""
    match = string_match(headers.get("authority"))
    if match is None or match.kind is not MatchKind.EXACT:
        return ANY_HOST
    return match.value.partition(":")[0].lower() or ANY_HOST


def _rule_port(spec: Mapping[str, Any]) -> int:
    port: int = spec.get("port") or (HTTPS_PORT if spec.get("tlsSecret") else HTTP_PORT)
    return port


def _lower(hosts: Iterable[str]) -> list[str]:
    return [host.lower().rstrip(".") for host in hosts]
