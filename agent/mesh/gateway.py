"""What a gateway of the mesh listens for, and the routes bound to it: both as rules say it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct

from agent.mesh.names import DEFAULT_NAMESPACE
from agent.mesh.routes import ObjectRef, Route, Subset
from agent.mesh.service import Labels, Protocol, ServiceKey, Workload, labels_of, selects

INGRESS_LABELS = labels_of({"istio": "ingressgateway"})
"""What a gateway host bears unless its agent.yaml says otherwise."""
_OLD_INGRESS = ("istio", "ingress")
INGRESS_SERVICE = "istio-ingress"
"""The name that rules know a gateway by, as the source of requests."""
INGRESS_ACCOUNT = "istio-ingressgateway"
"""The service account of a gateway's own identity."""


class ServerKind(StrEnum):
    """What a server does with connections."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    """TLS ends here."""
    PASSTHROUGH = "TLS passed on"
    """By the server name that the client asks for."""
    SERVICES = "TLS passed on to services"
    """By server names that callers in the mesh ask for: a service, its port and a subset."""
    TLS = "TLS with TCP in it"
    """TLS ends here."""
    TCP = "TCP"

    @property
    def is_tls(self) -> bool:
        """Tell whether its clients speak TLS."""
        return self not in (ServerKind.HTTP, ServerKind.TCP)

    @property
    def passes_whole(self) -> bool:
        """Tell whether connections, not requests, are routed."""
        return not self.protocol.is_http

    @property
    def protocol(self) -> Protocol:
        """Return the protocol whose routes are for what comes out of it."""
        if self in (ServerKind.HTTP, ServerKind.HTTPS):
            return Protocol.HTTP
        return Protocol.TLS if self in (ServerKind.PASSTHROUGH, ServerKind.SERVICES) else Protocol.TCP


class FileCredential(Struct, frozen=True, order=True):
    """Files of the gateway host that a Gateway names by their paths; empty: none."""

    certificate: str = ""
    key: str = ""
    authorities: str = ""
    crl: str = ""

    @property
    def name(self) -> str:
        """Return what stands for the name of a folder, which cannot have a `/` in it."""
        return "~".join((self.certificate, self.key, self.authorities, self.crl))


class ServerTls(Struct, frozen=True):
    """How a server ends TLS."""

    certificates: tuple[str, ...] = ()
    """Names of the credentials whose keys and certificates it has; (): the mesh's own (ISTIO_MUTUAL)."""
    client_certificate: bool | None = None
    """Whether the client must have one (MUTUAL); False: it may (OPTIONAL_MUTUAL); None: it is not asked."""
    authorities: str = ""
    """Name of the credential whose authorities sign clients' certificates."""
    subject_alt_names: tuple[str, ...] = ()
    key_pins: tuple[str, ...] = ()
    """SHA-256 of public keys that a client may have (Base64)."""
    certificate_pins: tuple[str, ...] = ()
    """SHA-256 of certificates that a client may have (hexadecimal)."""
    ciphers: tuple[str, ...] = ()
    """Of TLS 1.2; (): Envoy's own choice."""
    files: tuple[FileCredential, ...] = ()
    """What of the credentials is no folder."""
    min_version: str = ""
    """Istio's word, TLSV1_2; empty: the default, which is that."""
    max_version: str = ""
    """Empty: TLSV1_3."""

    @property
    def is_mesh(self) -> bool:
        """Tell whether certificates of both sides are the mesh's."""
        return not self.certificates

    @property
    def knows_clients(self) -> bool:
        """Tell whether clients are asked for certificates."""
        return self.is_mesh or self.client_certificate is not None

    @property
    def versions_contradict(self) -> bool:
        """Tell whether there is no version from the lowest to the highest one."""
        named = [word if word != "TLS_AUTO" else "" for word in (self.min_version, self.max_version)]
        return (named[0] or "TLSV1_2") > (named[1] or "TLSV1_3")


class GatewayServer(Struct, frozen=True):
    """One entry of a Gateway's servers."""

    name: str
    port: int
    hosts: tuple[tuple[str, str], ...]
    """(Namespace that routes may be in, or `*`; host name, wildcard, or `*`)."""
    bind: str = ""
    """An IP address, or a Unix socket (`unix:///path`, `unix://@name`; its port is 0); empty: all of the host."""
    kind: ServerKind = ServerKind.HTTP
    tls: ServerTls | None = None
    """Given where TLS ends here."""
    https_redirect: bool = False


class Gateway(Struct, frozen=True):
    """A Gateway object."""

    origin: ObjectRef
    selector: Labels
    servers: tuple[GatewayServer, ...]
    bound_as: ObjectRef | None = None
    """What routes to its servers name; None: its own name. All Ingress objects have one."""

    @property
    def routed_as(self) -> ObjectRef:
        """Return the name under which routes are bound to it."""
        return self.bound_as or self.origin

    def selects(self, labels: Labels) -> bool:
        """Tell whether a gateway host with these labels is meant; `istio: ingress` is its older name."""
        return selects_gateway(self.selector, labels)


class BoundRoutes(Struct, frozen=True):
    """What a VirtualService says for requests that come through one Gateway object."""

    origin: ObjectRef
    gateway: ObjectRef
    hosts: tuple[str, ...]
    routes: tuple[Route, ...]
    """Of requests."""
    tls: tuple[Route, ...] = ()
    """Of TLS connections that are passed on."""
    tcp: tuple[Route, ...] = ()
    """Of other connections."""
    exported_to: tuple[str, ...] = ()
    """Namespaces of the gateway hosts that see it; () means all."""


class Ingress(Struct, frozen=True):
    """All gateways and what is bound to them; every gateway host takes its own from it."""

    gateways: tuple[Gateway, ...] = ()
    bound: tuple[BoundRoutes, ...] = ()
    subsets: tuple[tuple[ServiceKey, tuple[Subset, ...]], ...] = ()
    """Every subset that is declared, where a server passes TLS on to services."""


class Credential(Struct, frozen=True):
    """The files of one `credentialName`, or of a FileCredential, PEM; without a key it is authorities only."""

    key_pem: bytes
    chain_pem: bytes
    authorities_pem: bytes = b""
    """Who signs clients' certificates; empty: there is no such file."""
    crl_pem: bytes = b""
    """What these have revoked."""


def stand_in(labels: Labels, address: str) -> Workload:
    """Return what stands for a gateway host itself, in whose name it calls services."""
    return Workload(ServiceKey(DEFAULT_NAMESPACE, INGRESS_SERVICE), address, (), labels, INGRESS_ACCOUNT)


def named_files(gateways: Iterable[Gateway]) -> frozenset[FileCredential]:
    """Return the files that the servers of these gateways want as certificates."""
    servers = (server for gateway in gateways for server in gateway.servers)
    return frozenset(files for server in servers if server.tls for files in server.tls.files)


def client_ports(gateways: Iterable[Gateway]) -> frozenset[int]:
    """Return the ports on which servers of these gateways ask clients for certificates."""
    servers = (server for gateway in gateways for server in gateway.servers)
    return frozenset(server.port for server in servers if server.port and server.tls and server.tls.knows_clients)


def selects_gateway(selector: Labels, labels: Labels) -> bool:
    """Tell whether a selector is for a gateway with these labels; the usual ones answer to their older name too."""
    if set(INGRESS_LABELS) <= set(labels):
        return selects(tuple(pair for pair in selector if pair != _OLD_INGRESS), labels)
    return selects(selector, labels)


def selectors_meet(one: Labels, other: Labels) -> bool:
    """Tell whether every gateway host that one of the selectors is for is one that the other is for, too."""
    first, second = set(_usual(one)), set(_usual(other))
    return first <= second or second <= first


def _usual(selector: Labels) -> Labels:
    return tuple(INGRESS_LABELS[0] if pair == _OLD_INGRESS else pair for pair in selector)


def common_host(one: str, other: str) -> str | None:
    """Return the hosts that both mean, `*` and `*.example.com` included; None: there are none."""
    one, other = one.lower().rstrip("."), other.lower().rstrip(".")
    for narrow, wide in ((one, other), (other, one)):
        if wide in ("*", narrow) or (wide.startswith("*") and narrow.removeprefix("*").endswith(wide[1:])):
            return narrow
    return None
