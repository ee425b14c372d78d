"""Services, their instances and what runs on this host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct

Labels = tuple[tuple[str, str], ...]
"""Labels as sorted pairs: hashable, comparable, cheap."""


def labels_of(mapping: Mapping[str, str]) -> Labels:
    """Return the mapping as sorted pairs."""
    return tuple(sorted(mapping.items()))


def labels_text(labels: Labels) -> str:
    """Return the name of the subset that a RouteRule makes by labels: `key=value,key=value`."""
    return ",".join(f"{key}={value}" for key, value in labels)


def selects(selector: Labels, labels: Labels) -> bool:
    """Tell whether every pair of the selector stands in the labels (an empty selector selects all)."""
    return set(selector) <= set(labels)


class Protocol(StrEnum):
    """What a port speaks, in Istio's words."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    GRPC_WEB = "grpc-web"
    HTTPS = "https"
    TLS = "tls"
    TCP = "tcp"
    MONGO = "mongo"
    MYSQL = "mysql"
    REDIS = "redis"
    AUTO = "auto"
    """HTTP of either version or TCP, as the first bytes of each connection say."""

    @property
    def is_http(self) -> bool:
        """Tell whether requests on this port are routed by their Host header (plaintext HTTP of any version)."""
        return self in (Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)

    @property
    def may_be_http(self) -> bool:
        """Tell whether there may be requests on this port."""
        return self.is_http or self is Protocol.AUTO

    @property
    def is_http2(self) -> bool:
        """Tell whether the instances expect HTTP/2; gRPC-Web becomes gRPC in front of them."""
        return self in (Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB)

    @classmethod
    def from_name(cls, name: str) -> Protocol:
        """Return the protocol a declared protocol or port name means; an unknown or empty one is TCP.

        Istio's port naming convention: `http`, `http-metrics`, `grpc-web-api` (the longest known prefix up to a dash).
        """
        name = name.lower()
        for known in sorted(cls, key=len, reverse=True):
            if name == known or name.startswith(known + "-"):
                return known
        return cls.TCP


UDP_REFUSAL = "udp cannot go through the mesh (leave this port out; it stays reachable as it is)"


def means_udp(name: str) -> bool:
    """Tell whether a declared protocol or a port name says UDP."""
    return name.lower() == "udp" or name.lower().startswith("udp-")


class ServiceKey(Struct, frozen=True, order=True):
    """The identity of a mesh service; `name` is Consul's catalog name.

    A service that a rule declares (`Service.outside`) has no namespace: its name is its whole host name, `*.foo.com`
    or a range of addresses.
    """

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}" if self.namespace else self.name

    @property
    def is_outside(self) -> bool:
        """Tell whether a rule declares it, not the catalog."""
        return not self.namespace

    @property
    def is_one_host(self) -> bool:
        """Tell whether the name is one host's, neither a wildcard nor a range of addresses."""
        return "*" not in self.name and "/" not in self.name


class Port(Struct, frozen=True, order=True):
    """A port of a service."""

    number: int
    name: str
    protocol: Protocol


class MtlsMode(StrEnum):
    """What a port accepts, in the words of Istio's authPolicy."""

    DISABLED = "NONE"
    """Plain text only."""
    PERMISSIVE = "PERMISSIVE"
    """Mutual TLS and plain text."""
    STRICT = "MUTUAL_TLS"
    """Mutual TLS only."""


PortModes = tuple[tuple[int, MtlsMode], ...]
"""What an instance itself says of its ports, sorted (annotations `auth.istio.io/PORT`)."""
AUTH_ANNOTATION = "auth.istio.io/"
ANNOTATED_MODES = (MtlsMode.DISABLED, MtlsMode.STRICT)


def annotated_modes(annotations: Mapping[str, str]) -> PortModes:
    """Return what annotations say of ports; one that cannot be read says nothing."""
    said = ((name.removeprefix(AUTH_ANNOTATION), value) for name, value in annotations.items())
    return tuple(sorted((int(port), MtlsMode(value)) for port, value in said if not annotation_fault(port, value)))


def annotation_fault(port: str, value: str) -> str | None:
    """Return what is wrong with the annotation `auth.istio.io/PORT: VALUE`, or None."""
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        return f"{AUTH_ANNOTATION}{port[:40]}: not a port number (1 to 65535)"
    if value not in ANNOTATED_MODES:
        return f"{AUTH_ANNOTATION}{port}: {value[:40]!r} is not one of {', '.join(ANNOTATED_MODES)}"
    return None


class Health(StrEnum):
    """The worst of an instance's Consul checks; what it means for traffic: settings.WarningInstances."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


class Locality(Struct, frozen=True, order=True):
    """Where an instance runs; empty parts are unknown."""

    region: str = ""
    """Consul's datacenter, unless the node's meta says otherwise."""
    zone: str = ""
    subzone: str = ""

    def __str__(self) -> str:
        return "/".join((self.region, self.zone, self.subzone)).rstrip("/")

    @classmethod
    def from_text(cls, text: str) -> Locality:
        """Return the locality of `region/zone/subzone`; later parts may be left out."""
        return cls(*text.split("/", 2))


NOWHERE = Locality()


class CheckKind(StrEnum):
    """How an active check is made."""

    NONE = ""
    HTTP = "http"
    GRPC = "grpc"
    """By the standard service grpc.health.v1.Health."""
    TCP = "tcp"
    """By a connection."""


class ActiveCheck(Struct, frozen=True, order=True):
    """How callers' proxies look by themselves whether instances serve, beside Consul's checks; times in seconds."""

    kind: CheckKind = CheckKind.NONE
    target: str = ""
    """The path of an HTTP GET, or the name of a gRPC service (empty: the whole server)."""
    port: int = 0
    """The service port that is looked at, whichever is called."""
    interval: float = 1.0
    timeout: float = 1.0
    failures: int = 1
    """Refused connections and timeouts in a row that take an instance out; a wrong answer does at once."""

    def obstacle(self, ports: Iterable[Port]) -> str | None:
        """Return why a service with these ports can't be checked so, or None."""
        ports = tuple(ports)
        looked_at = next((port for port in ports if port.number == self.port), None)
        if looked_at is None:
            return f"{self.port} is none of its ports ({', '.join(str(port.number) for port in ports)})"
        if self.kind is CheckKind.GRPC and not looked_at.protocol.is_http2:
            return f"port {self.port} speaks {looked_at.protocol}: a gRPC check needs one that speaks grpc or http2"
        return None


class Instance(Struct, frozen=True, order=True):
    """One registered instance of a service (one entry of Consul's catalog)."""

    id: str
    service: ServiceKey
    node: str
    address: str
    ports: tuple[Port, ...]
    labels: Labels = ()
    health: Health = Health.PASSING
    proxied: bool = False
    """An agent serves mutual TLS in front of it (catalog meta `hostmesh-tls`)."""
    service_account: str = "default"
    target_ports: tuple[tuple[int, int], ...] = ()
    """(service port, the port this instance listens on) where they differ; the catalog file of `render` has such."""
    locality: Locality = NOWHERE
    weight: int = 1
    """Its share of the traffic, beside the weights of the others."""
    namespace: str = ""
    """Of its service account, where that is not the service's own (`Service.outside`)."""
    active_check: ActiveCheck = ActiveCheck()
    """Of a service the first instance's that has one is for all."""
    port_modes: PortModes = ()
    """By the port that it listens on."""

    @property
    def identity(self) -> Identity:
        """Return who it is (the trust domain is the mesh's)."""
        return Identity(self.namespace or self.service.namespace, self.service_account)

    @property
    def serves_tls(self) -> bool:
        """Tell whether mutual TLS is served on some of its ports: by its agent, or as it says itself."""
        return self.proxied or any(mode is MtlsMode.STRICT for _, mode in self.port_modes)

    def target_port(self, number: int) -> int | None:
        """Return the port to connect to for a service port, or None if this instance does not serve that port."""
        if all(port.number != number for port in self.ports):
            return None
        return next((target for port, target in self.target_ports if port == number), number)


class Resolution(StrEnum):
    """How the endpoints of a service that a rule declares are found."""

    ORIGINAL = "original"
    """Each connection goes where it was going before it was captured."""
    STATIC = "static"
    """The service's instances."""
    DNS = "dns"
    """All addresses that DNS gives for the endpoints' names."""
    DNS_ROUND_ROBIN = "dns-round-robin"
    """One address at a time, the first one of the newest answer."""

    DYNAMIC = "dynamic"
    """What DNS gives for the name that each request is for."""

    @property
    def asks_dns(self) -> bool:
        """Tell whether the proxy looks names up."""
        return self in (Resolution.DNS, Resolution.DNS_ROUND_ROBIN, Resolution.DYNAMIC)


class Outside(Struct, frozen=True):
    """What a rule says of a service that the catalog doesn't have."""

    origin: str
    """The rule's name, as faults show it; of several rules the first."""
    resolution: Resolution
    endpoints: tuple[Instance, ...] = ()
    """Where names are looked up: instances whose address is a name (or an address); each serves every port."""
    addresses: tuple[str, ...] = ()
    """Addresses and ranges that callers know the service by."""
    tls_ports: tuple[int, ...] = ()
    """Ports that callers speak plain HTTP to, and the server TLS."""
    subject_alt_names: tuple[str, ...] = ()
    """Names that the server's certificate may bear; none: the host's own."""
    exported_to: tuple[str, ...] = ()
    """Namespaces whose callers see it; () means all."""
    namespaces: tuple[str, ...] = ()
    """Those of the rules."""
    selector: Labels | None = None
    """Labels of instances of mesh services, in those namespaces, that are endpoints too."""
    target_ports: tuple[tuple[int, int], ...] = ()
    """(service port, the port that those instances listen on) where they differ."""
    in_mesh: bool = False
    """It is the mesh's own (location MESH_INTERNAL): endpoints with a service account serve its mutual TLS."""
    in_wildcard: bool = False
    """A rule is about this host of a wildcard's: it is found as the wildcard's others are, by no address of its own."""


class Service(Struct, frozen=True):
    """A mesh service: everything in the catalog under one (namespace, name), or what rules declare under one host."""

    key: ServiceKey
    ports: tuple[Port, ...]
    instances: tuple[Instance, ...]
    outside: Outside | None = None
    """Set if it is rules that declare it."""

    @classmethod
    def from_instances(cls, key: ServiceKey, instances: Iterable[Instance]) -> Service:
        """Return the service these instances make: sorted, with the union of their ports by number.

        Two instances that disagree on a port's protocol: the first in id order wins, so every host decides alike.
        """
        ordered = tuple(sorted(instances))
        ports: dict[int, Port] = {}
        for instance in ordered:
            for port in instance.ports:
                ports.setdefault(port.number, port)
        return cls(key, tuple(sorted(ports.values())), ordered)

    @property
    def has_address(self) -> bool:
        """Tell whether it can have a virtual address; if not, only captured traffic of all kinds ever comes to it."""
        outside = self.outside
        if outside is None:
            return True
        return self.key.is_one_host and not outside.in_wildcard and outside.resolution is not Resolution.ORIGINAL

    def port(self, number: int) -> Port | None:
        """Return the port with that number."""
        return next((port for port in self.ports if port.number == number), None)


class Check(Struct, frozen=True):
    """How Consul finds out whether an instance is healthy."""

    http_path: str | None = None
    """Path of an HTTP GET; None means a TCP connect."""
    interval_seconds: float = 5.0
    timeout_seconds: float = 2.0
    port: int | None = None
    """Where the application is asked; None: on the first port. A Sidecar may send the traffic elsewhere."""


class Workload(Struct, frozen=True):
    """An instance of a service on this host, as services.d declares it."""

    service: ServiceKey
    address: str
    ports: tuple[Port, ...]
    labels: Labels = ()
    service_account: str = "default"
    proxied: bool = True
    check: Check = Check()
    active_check: ActiveCheck = ActiveCheck()
    port_modes: PortModes = ()
    user: str = ""
    """The Unix user (name or number) whose programs have this identity: by the Workload API, and in what they call."""
    uid: int | None = None
    """That user's number on this host; None: there is no such user."""

    @property
    def identity(self) -> Identity:
        """Return the SPIFFE identity parts of this workload (the trust domain is the mesh's)."""
        return Identity(self.service.namespace, self.service_account)


class Identity(Struct, frozen=True, order=True):
    """Who a workload is, less the trust domain."""

    namespace: str
    service_account: str

    @property
    def path(self) -> str:
        """Return how an operator writes it, and the path of its SPIFFE ID (as Istio's)."""
        return f"ns/{self.namespace}/sa/{self.service_account}"

    def spiffe_id(self, trust_domain: str) -> str:
        """Return the SPIFFE ID (SPIFFE-ID section 2)."""
        return f"spiffe://{trust_domain}/{self.path}"
