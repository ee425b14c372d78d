"""The one internal route model: both generations of the Istio API lower to it, and only it is translated."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct, structs

from agent.mesh.actions import Headers, HttpActions
from agent.mesh.service import Labels, ServiceKey
from agent.mesh.traffic_policy import Scope


class ObjectRef(Struct, frozen=True, order=True):
    """Names a rule object, for messages and status."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}.{self.namespace}"


class MatchKind(StrEnum):
    """How a value is compared."""

    EXACT = "exact"
    PREFIX = "prefix"
    REGEX = "regex"
    """RE2, the whole value must match."""
    PRESENT = "present"


class StringMatch(Struct, frozen=True):
    """A comparison of one string."""

    kind: MatchKind
    value: str = ""
    ignore_case: bool = False


CLAIMS = "@request.auth.claims"
"""How a match of a header begins that is one of a claim of the request's token, at gateways."""


class NamedMatch(Struct, frozen=True):
    """A comparison of one header or query parameter; `invert` means it must not match."""

    name: str
    match: StringMatch
    invert: bool = False


class SourceMatch(Struct, frozen=True):
    """Which callers a rule is for; decided when planning for a host, never at run time. None and () mean any."""

    service: ServiceKey | None = None
    namespace: str | None = None
    labels: Labels = ()


class ConnectionMatch(Struct, frozen=True):
    """Conditions on one connection, whatever it carries; all must hold. () means any."""

    server_names: tuple[str, ...] = ()
    """Names (wildcards too) of which a TLS client asks for one."""
    destinations: tuple[str, ...] = ()
    """Addresses and ranges of which one is where it was going."""
    sources: tuple[str, ...] = ()
    """Addresses and ranges of which one is where it comes from."""


class HttpMatch(Struct, frozen=True):
    """Conditions on one request, or on one connection; all must hold."""

    name: str = ""
    stat_prefix: str = ""
    """Of statistics about its requests; none without."""
    uri: StringMatch | None = None
    method: StringMatch | None = None
    scheme: StringMatch | None = None
    authority: StringMatch | None = None
    headers: tuple[NamedMatch, ...] = ()
    query: tuple[NamedMatch, ...] = ()
    port: int | None = None
    source: SourceMatch | None = None
    connection: ConnectionMatch = ConnectionMatch()
    """A match that has any never holds for a request."""

    @property
    def is_layer7(self) -> bool:
        """Tell whether it looks at the request itself (such a match never holds for a TCP connection)."""
        return bool(self.uri or self.method or self.scheme or self.authority or self.headers or self.query)

    @property
    def is_layer4(self) -> bool:
        """Tell whether it looks at the connection (such a match never holds for a request)."""
        return self.connection != ConnectionMatch()


class Subset(Struct, frozen=True, order=True):
    """The instances of a service that bear these labels."""

    name: str
    """A DestinationRule's subset name; for a RouteRule's labels `key=value,key=value`."""
    labels: Labels


class Destination(Struct, frozen=True):
    """Where a route sends to."""

    service: ServiceKey
    subset: Subset | None = None
    port: int | None = None
    """None means the port the caller used; a service with a single port is always reached on that one."""
    port_name: str = ""
    """The port by its name, where no number is given."""


class WeightedDestination(Struct, frozen=True):
    """A destination and its share; the weights of a route add up to 100."""

    destination: Destination
    weight: int = 100
    headers: Headers = Headers()


class Mirror(Struct, frozen=True):
    """Where a share of the requests goes too; what comes back from there is dropped."""

    destination: Destination
    percent: float = 100.0


class Route(Struct, frozen=True):
    """One rule: if any of the matches holds (none listed: always), send to the destinations by weight.

    Without destinations `actions.answer` is given.
    """

    name: str
    origin: ObjectRef
    destinations: tuple[WeightedDestination, ...]
    matches: tuple[HttpMatch, ...] = ()
    actions: HttpActions = HttpActions()
    mirrors: tuple[Mirror, ...] = ()

    @property
    def all_destinations(self) -> tuple[Destination, ...]:
        """Return every destination, the mirrors' too."""
        return (*(weighted.destination for weighted in self.destinations), *(m.destination for m in self.mirrors))


class PolicyRule(Struct, frozen=True):
    """What one object (or several of a namespace, united) says about connections to a service."""

    origin: ObjectRef
    scopes: tuple[Scope, ...]
    callers: SourceMatch | None = None
    exported_to: tuple[str, ...] = ()
    """Namespaces whose callers it is for; () means all."""
    breadth: int = 0
    """Of the host that it names (`names.host_breadth`)."""

    @property
    def first_generation(self) -> bool:
        """Tell whether it is a DestinationPolicy: several of them add up, of DestinationRules only one counts."""
        return self.origin.kind == "DestinationPolicy"


class ServicePolicy(Struct, frozen=True):
    """What the rules say about one service: ordered routes, first match wins."""

    routes: tuple[Route, ...] = ()
    """Of requests, on HTTP ports."""
    default_route: bool = True
    """A request that no route matches goes to all instances (v1alpha2); False: where there are routes for the caller
    it gets 404 (VirtualService), and a TLS connection is closed. What comes to TCP ports goes to all instances."""
    connections: tuple[PolicyRule, ...] = ()
    """How the service's instances are connected to; which of them is for this host's caller is decided at planning."""
    tls: tuple[Route, ...] = ()
    """Of connections to TLS ports. One that has no destinations closes them."""
    tcp: tuple[Route, ...] = ()
    """Of connections to all other ports."""
    by_wildcard: bool = False
    """The routes' object names the service by a wildcard: that they are not for its ports is nothing wrong."""
    exported_to: tuple[str, ...] = ()
    """Namespaces whose callers the routes are for; () means all."""
    otherwise: ServicePolicy | None = None
    """Has the routes for the callers of other namespaces."""

    @property
    def has_routes(self) -> bool:
        """Tell whether it says where traffic goes, not only how."""
        return bool(self.routes or self.tls or self.tcp)

    @property
    def all_routes(self) -> tuple[Route, ...]:
        """Return the routes of requests and connections."""
        return tuple(dict.fromkeys((*self.routes, *self.tls, *self.tcp)))

    @property
    def variants(self) -> Iterator[ServicePolicy]:
        """Yield what it says to callers of different namespaces."""
        yield self
        if self.otherwise is not None:
            yield from self.otherwise.variants

    def seen_from(self, namespace: str) -> ServicePolicy:
        """Return what it says to callers of this namespace."""
        for variant in self.variants:
            if not variant.exported_to or namespace in variant.exported_to:
                return variant if variant is self else structs.replace(variant, connections=self.connections)
        return ServicePolicy(connections=self.connections)

    @classmethod
    def empty(cls) -> ServicePolicy:
        """Return the policy of a service that no rule is about."""
        return cls()


class Fault(Struct, frozen=True, order=True):
    """Something wrong that the rest of the mesh serves on in spite of; shown in status, log and metrics."""

    subject: str
    """The object's name as the operator knows it: `RouteRule/x.default`, a KV key, a file, an xDS resource."""
    reason: str
