"""What Telemetry objects change about the default metrics: metrics that are off, labels that are left out or set.

All of it is applied as Envoy's statistics are read, so Envoy never knows of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.mesh.raw_stats import Side
from agent.mesh.service import Workload
from agent.mesh.snapshot import MeshSnapshot
from agent.mesh.telemetry_settings import ALL_METRICS, MetricOverride
from agent.mesh.telemetry_settings import Side as Reporter

PROVIDER = "prometheus"
"""The one that there is, as in Istio's defaults."""
_ISTIOS = {
    "istio_requests_total": "REQUEST_COUNT",
    "istio_request_duration_milliseconds": "REQUEST_DURATION",
    "istio_request_bytes": "REQUEST_SIZE",
    "istio_response_bytes": "RESPONSE_SIZE",
    "istio_tcp_connections_opened_total": "TCP_OPENED_CONNECTIONS",
    "istio_tcp_connections_closed_total": "TCP_CLOSED_CONNECTIONS",
    "istio_tcp_sent_bytes_total": "TCP_SENT_BYTES",
    "istio_tcp_received_bytes_total": "TCP_RECEIVED_BYTES",
}
"""Metric → the word that Telemetry objects have for it."""
_SIDES = {Side.IN: Reporter.SERVER, Side.OUT: Reporter.CLIENT}


class Change(Struct, frozen=True):
    """What is otherwise about a metric."""

    disabled: bool = False
    labels: tuple[tuple[str, str | None], ...] = ()
    """Label and value; None: it is left out."""

    def of(self, names: tuple[str, ...], labels: Mapping[str, str]) -> Mapping[str, str]:
        """Return the labels of those names, changed: those left out, the others, those added."""
        changes = dict(self.labels)
        kept = {name: changes.get(name, labels[name]) for name in names}
        return {name: value for name, value in {**kept, **changes}.items() if value is not None}


UNCHANGED = Change()
_OFF = Change(disabled=True)


class Overrides:
    """The changes for each workload of this host."""

    def __init__(self, snapshot: MeshSnapshot | None = None) -> None:
        self._snapshot = snapshot
        self._known: dict[tuple[Side, Workload, str], Change] = {}

    def change(self, side: Side, workload: Workload | None, metric: str) -> Change:
        """Return what is otherwise about a metric that a workload reports."""
        if self._snapshot is None or workload is None or not self._snapshot.telemetry.objects:
            return UNCHANGED
        key = (side, workload, metric)
        if key not in self._known:
            self._known[key] = self._find(self._snapshot, side, workload, metric)
        return self._known[key]

    def _find(self, snapshot: MeshSnapshot, side: Side, workload: Workload, metric: str) -> Change:
        root = snapshot.settings.root_namespace
        said = snapshot.telemetry.of_workload(workload.service, workload.labels, root)
        wanted = said.metrics(_SIDES[side], (PROVIDER,))
        if PROVIDER not in wanted:
            return _OFF
        disabled, labels = False, dict[str, str | None]()
        for override in wanted[PROVIDER]:
            if not _is_about(override, metric):
                continue
            disabled = disabled if override.disabled is None else override.disabled
            labels |= {name: value and _literal(value) for name, value in override.tags}
        return Change(disabled, tuple(labels.items()))


def _is_about(override: MetricOverride, metric: str) -> bool:
    return override.metric in (ALL_METRICS, metric, _ISTIOS.get(metric), metric.removeprefix("istio_"))


def _literal(expression: str) -> str:
    """Return the text of an expression that is a text (api/specs/telemetry takes no others)."""
    return expression[1:-1]
