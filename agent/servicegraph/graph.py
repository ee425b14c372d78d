"""The graph: workloads and the calls between them, put together from samples of the mesh's metrics. Pure.

Each call is counted twice, by the caller's Envoy and by the called one's. The caller's count is taken where there is
one (it knows refused and failed connections, too), else the called one's (a caller without Envoy).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import Struct

UNKNOWN = ("", "unknown")

SIDES = (
    "source_workload",
    "source_workload_namespace",
    "source_canonical_service",
    "source_version",
    "destination_workload",
    "destination_workload_namespace",
    "destination_canonical_service",
    "destination_version",
    "destination_service_name",
    "destination_service_namespace",
)
"""The labels that say who calls whom."""

Labels = Mapping[str, str]


class Sample(Struct, frozen=True):
    """One series' value."""

    labels: Labels
    value: float


class Samples(Struct, frozen=True):
    """What Prometheus says of one span of time; each sample has the labels SIDES and `reporter`."""

    requests: tuple[Sample, ...] = ()
    """Requests a second, also by `response_code`, `request_protocol` and `connection_security_policy`."""
    median: tuple[Sample, ...] = ()
    """Milliseconds within which half of the requests were answered."""
    slowest: tuple[Sample, ...] = ()
    """Milliseconds within which 95 of 100 were."""
    connections: tuple[Sample, ...] = ()
    """TCP connections opened a second, also by `connection_security_policy`."""
    sent: tuple[Sample, ...] = ()
    """TCP bytes a second to the caller."""
    received: tuple[Sample, ...] = ()
    """TCP bytes a second from the caller."""


class Node(Struct, frozen=True, order=True):
    """A workload: one version of a service. Or a service as a whole, where no version was reached."""

    service: str
    namespace: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        """Return the name in the graph: `reviews.default (v3)`."""
        full = f"{self.service}.{self.namespace}" if self.namespace else self.service
        return f"{full} ({self.version})" if self.version else full


class Edge(Struct, frozen=True, rename="camel"):
    """The calls of one workload to another."""

    source: str
    target: str
    labels: Mapping[str, str]
    """As people read them."""
    protocol: Literal["http", "grpc", "tcp"]
    rate: float
    """Requests a second; for TCP new connections a second."""
    errors: float = 0.0
    """The share of answers 5xx, 0 to 1; a caller that went away (code 0) is no error."""
    p50: float | None = None
    """Milliseconds."""
    p95: float | None = None
    bytes_per_second: float = 0.0
    """TCP: both directions."""
    mtls: Literal["yes", "no", "partly", "unknown"] = "unknown"


class Graph(Struct, frozen=True):
    """Nodes by name, and the edges between them."""

    nodes: dict[str, Node]
    edges: tuple[Edge, ...]


def build_graph(samples: Samples, *, filter_empty: bool = False) -> Graph:
    """Return the graph; with filter_empty only edges with traffic, and the nodes at these."""
    calls = _gather(samples)
    nodes: dict[str, Node] = {}
    edges = []
    for (source, target, is_tcp), by_reporter in sorted(calls.items()):
        call = by_reporter.get("source") or by_reporter["destination"]
        if filter_empty and not call.has_traffic:
            continue
        nodes[source.name], nodes[target.name] = source, target
        edges.append(call.edge(source.name, target.name, is_tcp))
    return Graph(dict(sorted(nodes.items())), tuple(edges))


class _Call:
    """What one reporter says of one edge."""

    def __init__(self) -> None:
        self.rate = self.failed = self.bytes = 0.0
        self.secured: dict[str, float] = defaultdict(float)
        self.protocols: dict[str, float] = defaultdict(float)
        self.p50: float | None = None
        self.p95: float | None = None

    @property
    def has_traffic(self) -> bool:
        return self.rate > 0 or self.bytes > 0

    def add_requests(self, labels: Labels, value: float) -> None:
        code = labels.get("response_code", "")
        self.rate += value
        self.failed += value if code.startswith("5") else 0.0
        self.protocols[labels.get("request_protocol", "")] += value
        self.add_security(labels, value)

    def add_security(self, labels: Labels, value: float) -> None:
        self.secured[labels.get("connection_security_policy", "")] += value

    def mtls(self) -> Literal["yes", "no", "partly", "unknown"]:
        # Without traffic every series counts, so that the lock stays when a caller is silent.
        kinds = {kind for kind, value in self.secured.items() if value or not any(self.secured.values())}
        if kinds == {"mutual_tls"}:
            return "yes"
        if "mutual_tls" in kinds:
            return "partly"
        return "no" if "none" in kinds else "unknown"

    def edge(self, source: str, target: str, is_tcp: bool) -> Edge:
        share = self.failed / self.rate if self.rate else 0.0
        mtls = self.mtls()
        labels: dict[str, str] = {"mTLS": mtls}
        if is_tcp:
            labels |= {"conns/sec": f"{self.rate:.6f}", "bytes/sec": f"{self.bytes:.6f}"}
            return Edge(source, target, labels, "tcp", self.rate, bytes_per_second=self.bytes, mtls=mtls)
        labels |= {"reqs/sec": f"{self.rate:.6f}", "errors": f"{share:.2%}"}
        labels |= {
            name: f"{value:.1f} ms" for name, value in (("p50", self.p50), ("p95", self.p95)) if value is not None
        }
        is_grpc = self.protocols.get("grpc", 0.0) > self.rate / 2
        protocol: Literal["grpc", "http"] = "grpc" if is_grpc else "http"
        return Edge(source, target, labels, protocol, self.rate, share, self.p50, self.p95, mtls=mtls)


def _gather(samples: Samples) -> dict[tuple[Node, Node, bool], dict[str, _Call]]:
    calls: dict[tuple[Node, Node, bool], dict[str, _Call]] = defaultdict(lambda: defaultdict(_Call))

    def each(found: Iterable[Sample], is_tcp: bool) -> Iterable[tuple[_Call, Sample]]:
        for sample in found:
            if math.isfinite(sample.value):  # no requests have no quantiles: Prometheus says NaN
                source, target = ends(sample.labels)
                yield calls[source, target, is_tcp][sample.labels.get("reporter", "destination")], sample

    for call, sample in each(samples.requests, False):
        call.add_requests(sample.labels, sample.value)
    for call, sample in each(samples.median, False):
        call.p50 = sample.value
    for call, sample in each(samples.slowest, False):
        call.p95 = sample.value
    for call, sample in each(samples.connections, True):
        call.rate += sample.value
        call.add_security(sample.labels, sample.value)
    for call, sample in each((*samples.sent, *samples.received), True):
        call.bytes += sample.value
    return calls


def ends(labels: Labels) -> tuple[Node, Node]:
    """Return caller and called one."""
    called = _workload(labels, "destination")
    if called is None:
        name = _known(labels, "destination_service_name")
        called = Node(name, _known(labels, "destination_service_namespace")) if name else Node("unknown")
    return _workload(labels, "source") or Node("unknown"), called


def _workload(labels: Labels, side: str) -> Node | None:
    workload = _known(labels, f"{side}_workload")
    service = _known(labels, f"{side}_canonical_service") or workload
    if not service:
        return None
    return Node(service, _known(labels, f"{side}_workload_namespace"), _known(labels, f"{side}_version"))


def _known(labels: Labels, name: str) -> str:
    value = labels.get(name, "")
    return "" if value in UNKNOWN else value
