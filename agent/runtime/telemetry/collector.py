"""Keeps the metrics up to date: asks Envoy now and then, and at each scrape."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

from agent.adapters.proxy.admin import AdminClient
from agent.errors import HostError
from agent.mesh.snapshot import MeshSnapshot
from agent.runtime.telemetry.default_metrics import DefaultMetrics
from agent.runtime.telemetry.directory import Directory
from agent.runtime.telemetry.mixer_metrics import MixerMetrics
from agent.runtime.telemetry.overrides import Overrides
from agent.runtime.telemetry.readings import OWN_COUNTERS, OWN_GAUGES, PATH, Progress, Readings
from agent.runtime.telemetry.series import labels_text, lines_of, number

log = logging.getLogger(__name__)

EVERY_SECONDS = 15.0
"""Between two readings where nobody scrapes: an Envoy that ends takes at most so much with it."""


STATSD_SECONDS = 1.0
"""Between two readings at least, however soon a statsd handler wants to send."""


class MetricsCollector:
    """All metrics of what passes Envoy."""

    def __init__(self, envoy: AdminClient) -> None:
        self._envoy = envoy
        self._progress = Progress()
        self._default = DefaultMetrics()
        self._rules = MixerMetrics()
        self._overrides = Overrides()
        self._directory = Directory.empty()
        self._snapshot: MeshSnapshot | None = None
        self._seen: MeshSnapshot | None = None
        """What the directory is made of."""
        self._readings = Readings({}, {})
        self._turn = asyncio.Lock()
        self.failures = 0
        """Times that Envoy could not be read."""

    def publish(self, snapshot: MeshSnapshot) -> None:
        """Take the present mesh."""
        self._snapshot = snapshot

    @property
    def _counts_all(self) -> bool:
        return self._seen is None or self._seen.settings.default_metrics

    async def run(self) -> None:
        """Read Envoy's statistics, and send to statsd servers, until cancelled."""
        while True:
            await self.collect()
            queues = self._rules.queues.values()
            for queue in list(queues):
                await queue.flush()
            rests = [max(STATSD_SECONDS, queue.server.flush_seconds) for queue in queues]
            await asyncio.sleep(min(EVERY_SECONDS, *rests) if rests else EVERY_SECONDS)

    async def collect(self) -> None:
        """Read Envoy's statistics; where it does not answer, what has been read stays."""
        async with self._turn:
            try:
                readings = Readings.from_json(await self._envoy.get(PATH))
            except HostError as error:
                self.failures += 1
                log.debug("metrics stay as they are: %s", error)
                return
            self.take(readings)

    def take(self, readings: Readings) -> None:
        """Add what is new in these."""
        if self._snapshot is not None and self._snapshot is not self._seen:
            self._directory = Directory.of(self._snapshot, self._directory, time.monotonic())
            self._seen = self._snapshot
            self._rules.follow(self._snapshot)
            self._overrides = Overrides(self._snapshot)
        self._readings = readings
        for added in self._progress.advance(readings):
            if self._counts_all:
                self._default.take(added, self._directory, self._overrides)
            self._rules.take(added, self._directory)

    def lines(self) -> Iterator[str]:
        """Yield all metrics in Prometheus' text format."""
        families = self._default.families if self._counts_all else {}
        families |= {name: [family] for name, family in self._rules.families.items()}
        for of_name in families.values():
            yield from lines_of(of_name)
        for names, kind in ((OWN_COUNTERS, "counter"), (OWN_GAUGES, "gauge")):
            for name in names:
                if name in self._readings.values:
                    plain = f"envoy_{name.replace('.', '_')}"
                    yield f"# TYPE {plain} {kind}"
                    yield f"{plain} {number(self._readings.values[name])}"
        if self._rules.queues:
            yield "# HELP hostmesh_statsd_lost_total Lines that no statsd server could be sent"
            yield "# TYPE hostmesh_statsd_lost_total counter"
            for name, queue in self._rules.queues.items():
                yield f"hostmesh_statsd_lost_total{{{labels_text(('handler',), (name,))}}} {queue.lost}"
        yield "# HELP hostmesh_metrics_failures_total Times that Envoy's statistics could not be read"
        yield "# TYPE hostmesh_metrics_failures_total counter"
        yield f"hostmesh_metrics_failures_total {self.failures}"

    async def page(self) -> bytes:
        """Return all metrics as they are now."""
        await self.collect()
        return "".join(f"{line}\n" for line in self.lines()).encode()
