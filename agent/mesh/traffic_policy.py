"""How connections to a service are made: load balancing, limits, outlier ejection, TLS. Both generations lower to it.

Only settings; which callers and which of a service's clusters they are for is said by routes.PolicyRule. None always
means that nothing is said: the default is chosen when messages are built. Times are in seconds.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, structs

from agent.mesh.service import Labels, Locality, labels_text, selects


class Algorithm(StrEnum):
    """How an instance is chosen for a request that no hash decides."""

    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"
    RANDOM = "RANDOM"
    PASSTHROUGH = "PASSTHROUGH"
    """None is chosen: a connection goes where it was going; for what has a virtual address it is least request."""


class HashKind(StrEnum):
    """What of a request its hash is taken from."""

    HEADER = "header"
    COOKIE = "cookie"
    QUERY = "query"
    SOURCE_IP = "source-ip"


class HashKey(Struct, frozen=True):
    """The part of a request that is hashed."""

    kind: HashKind
    name: str = ""
    path: str = ""
    ttl: float | None = None
    """A cookie that a request has not got yet is made by the proxy, to live so long (0: for the session); None: not."""
    attributes: tuple[tuple[str, str], ...] = ()


class ConsistentHash(Struct, frozen=True):
    """The same key goes to the same instance."""

    key: HashKey | None
    maglev: bool = False
    """A Maglev table instead of a ring."""
    size: int | None = None
    """Least entries of the ring, or entries of the table."""


class LocalityPolicy(Struct, frozen=True):
    """Which localities' instances are preferred; patterns are `region/zone/subzone`, `*` at the end for any."""

    enabled: bool = True
    failover: tuple[tuple[str, str], ...] = ()
    """(caller's region, the region to turn to when its own fails)."""
    priority_labels: tuple[str, ...] = ()
    """`key` (as the caller's own) or `key=value`; the more of them in a row an instance has, the more it is liked."""
    distribute: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()
    """(callers, ((instances, percent), …)); the first that matches the caller counts."""


class Warmup(Struct, frozen=True):
    """A new instance gets its full share only after a while."""

    duration: float
    minimum_percent: float | None = None
    aggression: float | None = None


class LoadBalancer(Struct, frozen=True):
    """How an instance is chosen."""

    algorithm: Algorithm | None = None
    hash: ConsistentHash | None = None
    locality: LocalityPolicy | None = None
    warmup: Warmup | None = None


class Http2Use(StrEnum):
    """Which HTTP version an HTTP port is called with; nothing said: the one that its protocol names."""

    ALWAYS = "always"
    AS_CLIENT = "as-client"


class Keepalive(Struct, frozen=True):
    """TCP keepalive probes; None: the kernel's."""

    probes: int | None = None
    time: float | None = None
    interval: float | None = None


class Http2Keepalive(Struct, frozen=True):
    """HTTP/2 PING frames."""

    interval: float | None = None
    timeout: float | None = None


class ConnectionPool(Struct, frozen=True):
    """Limits of one caller's connections to one cluster."""

    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    max_requests_per_connection: int | None = None
    max_concurrent_streams: int | None = None
    connect_timeout: float | None = None
    max_connection_duration: float | None = None
    http_idle_timeout: float | None = None
    tcp_idle_timeout: float | None = None
    keepalive: Keepalive | None = None
    http2: Http2Use | None = None
    http2_keepalive: Http2Keepalive | None = None


class OutlierDetection(Struct, frozen=True):
    """When an instance that fails gets no traffic for a while; 0 errors: that kind is not counted."""

    consecutive_5xx: int | None = None
    consecutive_gateway_errors: int | None = None
    consecutive_local_failures: int | None = None
    split_local_origin: bool = False
    interval: float | None = None
    ejection_time: float | None = None
    max_ejection_percent: int | None = None
    always_eject_one: bool = False
    """One instance is ejected even where that is more than the percentage (Envoy's way until 2023)."""
    min_health_percent: int | None = None
    """Below so many healthy instances all get traffic again; None: Envoy's default of 50 %."""


class TlsMode(StrEnum):
    """How a client secures its connections, whatever the mesh does by itself."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"
    """The mesh's own mutual TLS, to every instance."""


class ClientTls(Struct, frozen=True):
    """TLS of a client; file names are those of the caller's host, empty where there is none."""

    mode: TlsMode
    certificate: str = ""
    key: str = ""
    authorities: str = ""
    crl: str = ""
    sni: str = ""
    subject_alt_names: tuple[str, ...] = ()
    skip_verify: bool = False
    credential: str = ""
    """A folder of the caller's host instead of files, as servers of gateways have."""


class Tunnel(Struct, frozen=True):
    """Connections go by HTTP through the instances, which are proxies, to a host that these reach."""

    host: str
    port: int
    by_post: bool = False
    """POST instead of CONNECT."""


class RetryBudget(Struct, frozen=True):
    """How many retries may be under way at a time, among the requests that are; None: Envoy's default."""

    percent: float | None = None
    least: int | None = None
    """So many at any rate."""


class TrafficPolicy(Struct, frozen=True):
    """All that is said about connections; each part is taken or replaced whole."""

    load_balancer: LoadBalancer | None = None
    connections: ConnectionPool | None = None
    outliers: OutlierDetection | None = None
    tls: ClientTls | None = None
    proxy_protocol: int | None = None
    """Version of the PROXY protocol header that each connection begins with."""
    tunnel: Tunnel | None = None
    """Only TCP connections can have one."""
    retry_budget: RetryBudget | None = None
    """Counts instead of the pool's limit of retries."""

    @classmethod
    def empty(cls) -> TrafficPolicy:
        """Return the policy that says nothing."""
        return cls()

    def replaced_by(self, other: TrafficPolicy) -> TrafficPolicy:
        """Return this policy with the parts that the other one speaks of."""
        said = {field: value for field in other.__struct_fields__ if (value := getattr(other, field)) is not None}
        return structs.replace(self, **said) if said else self


class Scope(Struct, frozen=True):
    """A policy and what of a service it is for: all of it, or a DestinationRule's subset, or what has those labels."""

    policy: TrafficPolicy
    ports: tuple[tuple[int, TrafficPolicy], ...] = ()
    """Port → what is said for it alone: of the wider policy only what ports cannot say holds there."""
    subset: str = ""
    labels: Labels = ()

    def covers(self, subset: str, labels: Labels) -> bool:
        """Tell whether it is for that subset; one of labels is for every subset whose instances all bear them.

        A DestinationRule's subset is known by its name, or by its very labels where a RouteRule names only these.
        """
        if not self.subset:
            return selects(self.labels, labels)
        return self.subset == subset or (bool(labels) and self.labels == labels and subset == labels_text(labels))

    def over(self, wider: TrafficPolicy, port: int) -> TrafficPolicy:
        """Return what holds for a port where `wider` held before."""
        merged = wider.replaced_by(self.policy)
        for number, own in self.ports:
            if number == port:
                return structs.replace(
                    own,
                    proxy_protocol=merged.proxy_protocol,
                    tunnel=merged.tunnel,
                    retry_budget=merged.retry_budget,
                )
        return merged


def locality_matches(locality: Locality, pattern: str) -> bool:
    """Tell whether a locality is meant by `region/zone/subzone`, `region/zone`, `region/*`, `*`, …"""
    parts = pattern.split("/", 2)
    own = (locality.region, locality.zone, locality.subzone)
    for part, value in zip(parts, own, strict=False):
        if part == "*":
            return True
        if part != value:
            return False
    return True
