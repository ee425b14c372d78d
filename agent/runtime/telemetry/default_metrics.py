"""The metrics that are there without any rule, in Istio's names and labels (istio_requests_total and the others).

Requests have every label. Histograms, of which each series has many lines, have those that say who and what, and not
what follows from these: else one scrape of a host with hundreds of services would be tens of megabytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import structs

from agent.mesh.metric_plan import ALL_SIZES, DEFAULT, SIZES
from agent.mesh.names import qualified_hosts
from agent.mesh.raw_stats import Atom, Measure, RawStat, Side
from agent.mesh.service import Port, Protocol, Workload
from agent.runtime.telemetry.directory import Directory, Peer
from agent.runtime.telemetry.overrides import Overrides
from agent.runtime.telemetry.readings import Added
from agent.runtime.telemetry.series import Family, Kind, Metric, values_of

UNKNOWN = "unknown"

_ENDS = (
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "destination_workload",
    "destination_workload_namespace",
    "destination_service",
    "connection_security_policy",
)
_WHO = (
    *_ENDS,
    "source_canonical_service",
    "source_version",
    "destination_canonical_service",
    "destination_version",
    "destination_service_name",
    "destination_service_namespace",
)
_CONNECTION = (*_WHO, "source_app", "source_principal", "destination_app", "destination_principal", "request_protocol")
_MILLISECONDS = (1, 5, 10, 25, 100, 250, 1000, 5000)
_BYTES = (1_000, 100_000)

REQUESTS = Metric("istio_requests_total", "Requests", Kind.COUNTER, (*_CONNECTION, "response_code", "response_flags"))
REQUEST_COUNT = Metric(
    "istio_request_count",
    "Requests, as they arrive at their destinations",
    Kind.COUNTER,
    (
        "source_service",
        "source_version",
        "destination_service",
        "destination_version",
        "response_code",
        "connection_mtls",
    ),
)
_HISTOGRAMS = {
    Measure.DURATION: Metric(
        "istio_request_duration_milliseconds", "Duration of requests", Kind.HISTOGRAM, _WHO, _MILLISECONDS
    ),
    Measure.REQUEST_BYTES: Metric("istio_request_bytes", "Bodies of requests", Kind.HISTOGRAM, _ENDS, _BYTES),
    Measure.RESPONSE_BYTES: Metric("istio_response_bytes", "Bodies of responses", Kind.HISTOGRAM, _ENDS, _BYTES),
}
_COUNTERS = {
    Measure.OPENED: Metric("istio_tcp_connections_opened_total", "TCP connections opened", Kind.COUNTER, _CONNECTION),
    Measure.CLOSED: Metric("istio_tcp_connections_closed_total", "TCP connections closed", Kind.COUNTER, _CONNECTION),
    Measure.SENT: Metric(
        "istio_tcp_sent_bytes_total", "Bytes to clients of connections that have ended", Kind.COUNTER, _CONNECTION
    ),
    Measure.RECEIVED: Metric(
        "istio_tcp_received_bytes_total", "Bytes from clients of connections that have ended", Kind.COUNTER, _CONNECTION
    ),
}
_METRICS: Mapping[Measure, tuple[Metric, ...]] = {
    **{measure: (metric,) for measure, metric in (*_COUNTERS.items(), *_HISTOGRAMS.items())},
    Measure.DURATION: (_HISTOGRAMS[Measure.DURATION], REQUESTS, REQUEST_COUNT),
}
"""What each statistic is added to."""
_Place = tuple[Family, tuple[str, ...]]
"""A metric's series, by their labels' values."""


class DefaultMetrics:
    """Adds what Envoy has counted to Istio's metrics."""

    def __init__(self) -> None:
        self._families: dict[tuple[Metric, tuple[str, ...]], Family] = {}
        """By metric, and the labels that it has at this host's workloads."""
        self._places: dict[str, list[_Place]] = {}
        """By the name of a statistic, as long as nobody comes, goes or says otherwise."""
        self._directory: Directory | None = None
        self._overrides: Overrides | None = None

    @property
    def families(self) -> dict[str, list[Family]]:
        """Return the families of each metric by its name."""
        found: dict[str, list[Family]] = {}
        for (metric, _), family in self._families.items():
            found.setdefault(metric.name, []).append(family)
        return found

    def take(self, added: Added, directory: Directory, overrides: Overrides) -> None:
        """Add it under the labels that its atoms have now."""
        if directory is not self._directory or overrides is not self._overrides:
            self._directory, self._overrides, self._places = directory, overrides, {}
        if added.name not in self._places:
            self._places[added.name] = self._find(added.stat, directory, overrides)
        for family, labels in self._places[added.name]:
            if family.metric.kind is Kind.HISTOGRAM:
                family.observe(labels, values_of(added.bins))
            else:
                family.add(labels, added.amount)

    def _find(self, stat: RawStat, directory: Directory, overrides: Overrides) -> list[_Place]:
        """Return where a statistic is added."""
        if stat.measure not in _METRICS or stat.group != (SIZES if stat.measure in ALL_SIZES.measures else DEFAULT):
            return []  # only what rules want
        labels, own = labels_of_stat(stat, directory), _reporting(stat, directory)
        found = []
        for metric in _METRICS[stat.measure]:
            change = overrides.change(stat.side, own, metric.name)
            if not change.disabled and not (metric is REQUEST_COUNT and stat.side is Side.OUT):
                found.append(self._at(metric, change.of(metric.labels, labels)))
        return found

    def _at(self, metric: Metric, labels: Mapping[str, str]) -> _Place:
        names = tuple(labels)
        family = self._families.get((metric, names))
        if family is None:
            family = self._families[metric, names] = Family(structs.replace(metric, labels=names))
        return family, tuple(labels.values())


def _reporting(stat: RawStat, directory: Directory) -> Workload | None:
    """Return this host's workload that reports it."""
    if stat.side is Side.IN:
        return directory.workload_at(stat.port)
    return directory.calling(_uid(stat.atom(Atom.CLUSTER)))


def _uid(cluster: str) -> int | None:
    _, _, uid = cluster.partition("~")
    return int(uid) if uid.isdecimal() else None


def labels_of_stat(stat: RawStat, directory: Directory) -> Mapping[str, str]:
    """Return every label of Istio's."""
    port: Port | None
    if stat.side is Side.IN:
        principal = stat.atom(Atom.CALLER)
        source = directory.caller(stat.atom(Atom.ADDRESS), principal)
        destination, port = directory.local(stat.port)
        destination_labels = _side("destination", destination, bool(principal))
        destination_labels |= _service(destination)
    else:
        cluster, principal = stat.atom(Atom.CLUSTER), stat.atom(Atom.SERVER)
        source = directory.own(_uid(cluster))
        destination = directory.called(cluster, stat.atom(Atom.HOST), principal)
        port = directory.port_of(cluster)
        destination_labels = _side("destination", destination, bool(principal))
        destination_labels |= _service(destination, cluster)
    is_tcp = stat.measure in _COUNTERS
    return {
        **_side("source", source, bool(principal)),
        **destination_labels,
        "reporter": "destination" if stat.side is Side.IN else "source",
        "request_protocol": "tcp" if is_tcp else _protocol(port),
        "response_code": stat.atom(Atom.CODE) or "0",
        "response_flags": stat.atom(Atom.FLAGS) or "-",
        "connection_security_policy": "mutual_tls" if principal else "none",
        "connection_mtls": "true" if principal else "false",
        "source_service": _host(source),
    }


def _side(side: str, peer: Peer, is_verified: bool) -> dict[str, str]:
    labels, service, identity = dict(peer.labels), peer.service, peer.identity
    name = service.name if service else None
    version = labels.get("version")
    namespace = service.namespace if service else identity.namespace if identity else ""
    app = labels.get("app") or name or UNKNOWN
    return {
        f"{side}_workload": f"{name}-{version}" if name and version else name or UNKNOWN,
        f"{side}_workload_namespace": namespace or UNKNOWN,
        f"{side}_principal": (peer.principal if is_verified else "") or UNKNOWN,
        f"{side}_app": app,
        f"{side}_version": version or UNKNOWN,
        f"{side}_canonical_service": app,
    }


def _service(peer: Peer, cluster: str = "") -> dict[str, str]:
    """Return the labels of the service that was called; what Envoy's cluster is called where it is none."""
    service = peer.service
    return {
        "destination_service": _host(peer) if service else cluster or UNKNOWN,
        "destination_service_name": service.name if service else cluster or UNKNOWN,
        "destination_service_namespace": (service.namespace if service else "") or UNKNOWN,
    }


def _host(peer: Peer) -> str:
    if peer.service is None:
        return UNKNOWN
    return peer.service.name if peer.service.is_outside else qualified_hosts(peer.service)[-1]


def _protocol(port: Port | None) -> str:
    return "grpc" if port and port.protocol in (Protocol.GRPC, Protocol.GRPC_WEB) else "http"
