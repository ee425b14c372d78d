"""The agent's own metrics, collected from its present status at scrape time; those of what passes Envoy are beside."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.mesh.status import NodeStatus


class Counters(Struct, frozen=True):
    """What this agent has done since it started."""

    rounds: int
    last_round_seconds: float
    resources_sent: tuple[tuple[str, int], ...]
    """(type URL, resources) sent to Envoy."""
    repairs: int = 0
    """Times that another program's changes of rules, routes or names were taken back."""
    log_entries: tuple[tuple[str, str, int], ...] = ()
    """(handler, what became of them, entries) of what Mixer's rules log."""


class MetricsPage(Collector):
    """Renders the Prometheus text of an agent."""

    def __init__(
        self, status: Callable[[], NodeStatus], counters: Callable[[], Counters], more: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._more = more
        self._status = status
        self._counters = counters
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def render(self) -> bytes:
        """Return the page in Prometheus' text format: this agent's metrics, and those of what passes Envoy."""
        more = await self._more()
        return generate_latest(self._registry) + more

    def collect(self) -> Iterable[Metric]:
        """Yield every metric family (prometheus_client calls this)."""
        status, counters = self._status(), self._counters()
        proxy = status.proxy
        yield _gauge("hostmesh_proxy_connected", "1 while Envoy is connected by xDS", float(proxy.connected))
        yield _gauge("hostmesh_proxy_restarts", "Starts of Envoy after its first", float(proxy.restarts))
        yield _gauge("hostmesh_config_revision", "Consul index of the newest rules sent", float(proxy.config_revision))
        yield _gauge(
            "hostmesh_acked_revision", "Consul index of the newest acknowledged rules", float(proxy.acked_revision)
        )
        yield _gauge("hostmesh_nacks", "xDS resources that Envoy refuses", float(len(proxy.nacks)))
        yield _gauge("hostmesh_last_reconcile_seconds", "Duration of the last reconcile", counters.last_round_seconds)
        rounds = CounterMetricFamily("hostmesh_reconciles", "Reconciles since the agent started")
        rounds.add_metric([], counters.rounds)
        yield rounds
        repairs = CounterMetricFamily(
            "hostmesh_interception_repairs", "Times that what other programs changed of rules or names was put back"
        )
        repairs.add_metric([], counters.repairs)
        yield repairs
        sent = CounterMetricFamily("hostmesh_xds_resources_sent", "xDS resources sent to Envoy", labels=["type"])
        for type_url, count in counters.resources_sent:
            sent.add_metric([type_url.rsplit(".", 1)[-1]], count)
        yield sent
        entries = CounterMetricFamily(
            "hostmesh_log_entries",
            "What became of entries that rules log (lost: also lines of the file, of no handler)",
            labels=["handler", "result"],
        )
        for handler, result, number in counters.log_entries:
            entries.add_metric([handler, result], number)
        yield entries
        faults = GaugeMetricFamily(
            "hostmesh_fault", "1 for each thing the agent cannot use or reach", labels=["subject", "reason"]
        )
        for fault in dict.fromkeys(status.faults + proxy.nacks):
            faults.add_metric([fault.subject, fault.reason], 1)
        yield faults
        expiry = GaugeMetricFamily(
            "hostmesh_certificate_expiry_timestamp_seconds", "When a certificate ends (Unix time)", labels=["identity"]
        )
        for certificate in status.certificates:
            expiry.add_metric([certificate.identity], certificate.not_after)
        yield expiry
        renewal = GaugeMetricFamily(
            "hostmesh_certificate_renewal_timestamp_seconds",
            "When a certificate is to be renewed (Unix time); past: it could not be",
            labels=["identity"],
        )
        for certificate in status.certificates:
            if certificate.renew_at:
                renewal.add_metric([certificate.identity], certificate.renew_at)
        yield renewal


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family
