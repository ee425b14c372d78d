"""What a gateway of the mesh listens for, and the routes bound to it: both as rules say it. Pure."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from agent.mesh.routes import ObjectRef, Route
from agent.mesh.service import Labels, Protocol, labels_of, selects

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
    TCP = "TCP"

    @property
    def is_tls(self) -> bool:
        """Tell whether its clients speak TLS."""
        return self in (ServerKind.HTTPS, ServerKind.PASSTHROUGH)

    @property
    def passes_whole(self) -> bool:
        """Tell whether connections, not requests, are routed."""
        return not self.protocol.is_http

    @property
    def protocol(self) -> Protocol:
        """Return the protocol whose routes are for what comes out of it."""
        return {ServerKind.PASSTHROUGH: Protocol.TLS, ServerKind.TCP: Protocol.TCP}.get(self, Protocol.HTTP)


class ServerTls(Struct, frozen=True):
    """How a server ends TLS."""

    credential: str
    """The folder of its files on the gateway host, under the agent's `secrets`."""
    client_certificate: bool | None = None
    """Whether the client must have one (MUTUAL); False: it may (OPTIONAL_MUTUAL); None: it is not asked."""
    subject_alt_names: tuple[str, ...] = ()
    min_version: str = ""
    """Istio's word, TLSV1_2; empty: the default, which is that."""
    max_version: str = ""
    """Empty: TLSV1_3."""

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
    """An IP address; empty: all of the host."""
    kind: ServerKind = ServerKind.HTTP
    tls: ServerTls | None = None
    """Given just for HTTPS."""
    https_redirect: bool = False


class Gateway(Struct, frozen=True):
    """A Gateway object."""

    origin: ObjectRef
    selector: Labels
    servers: tuple[GatewayServer, ...]

    def selects(self, labels: Labels) -> bool:
        """Tell whether a gateway host with these labels is meant; `istio: ingress` is its older name."""
        if set(INGRESS_LABELS) <= set(labels):
            return selects(tuple(pair for pair in self.selector if pair != _OLD_INGRESS), labels)
        return selects(self.selector, labels)


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


class Ingress(Struct, frozen=True):
    """All gateways and what is bound to them; every gateway host takes its own from it."""

    gateways: tuple[Gateway, ...] = ()
    bound: tuple[BoundRoutes, ...] = ()


class Credential(Struct, frozen=True):
    """The files of one `credentialName`, PEM."""

    key_pem: bytes
    chain_pem: bytes
    authorities_pem: bytes = b""
    """Who signs clients' certificates; empty: there is no such file."""


def common_host(one: str, other: str) -> str | None:
    """Return the hosts that both mean, `*` and `*.example.com` included; None: there are none."""
    one, other = one.lower().rstrip("."), other.lower().rstrip(".")
    for narrow, wide in ((one, other), (other, one)):
        if wide in ("*", narrow) or (wide.startswith("*") and narrow.removeprefix("*").endswith(wide[1:])):
            return narrow
    return None
