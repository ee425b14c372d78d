"""The CA's Prometheus metrics, and the port they are read from. Decides nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node_ca.errors import ConfigError
from node_ca.expiry import Ending

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_DAY = 86400.0


class Metrics:
    """Counters of one CA."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._issued = Counter(
            "hostmesh_ca_issued", "Certificates issued, by what they were issued for.", ["by"], registry=self.registry
        )
        self._refused = Counter(
            "hostmesh_ca_refused", "Calls refused, by gRPC status.", ["call", "reason"], registry=self.registry
        )
        self._jwts = Counter("hostmesh_ca_jwt_issued", "JWT-SVIDs issued.", registry=self.registry)
        self._revoked = Counter("hostmesh_ca_revoked", "Certificates revoked.", registry=self.registry)
        self._seconds = Histogram(
            "hostmesh_ca_call_seconds", "From a call's beginning to its answer.", ["call", "status"],
            buckets=_BUCKETS, registry=self.registry,
        )  # fmt: skip
        self._root_days = Gauge(
            "hostmesh_ca_issuer_days_left", "Days until the certificate that signs ends.", registry=self.registry
        )

    def issued(self, by: str) -> None:
        """Count a certificate; `by` as in its record (`token:ID`), of which the first word counts."""
        self._issued.labels(by.partition(":")[0]).inc()

    def issued_jwt(self) -> None:
        """Count a token."""
        self._jwts.inc()

    def refused(self, call: str, status: str) -> None:
        """Count a refusal."""
        self._refused.labels(call, status.lower()).inc()

    def revoked(self, number: int) -> None:
        """Count revoked certificates."""
        self._revoked.inc(number)

    def answered(self, call: str, code: Any, seconds: float) -> None:
        """Measure an answer; `code` is gRPC's, None or 0 for a good one."""
        self._seconds.labels(call, getattr(code, "name", None) or "OK").observe(seconds)

    def watch_endings(self, read: Callable[[], Iterable[Ending]], now: Callable[[], float] = time.time) -> None:
        """Show how long the CA's own certificates last."""
        self.registry.register(_Endings(read, now))

    def watch_issuer(self, seconds_left: Callable[[], float]) -> None:
        """Show how long the signing certificate lasts; asked at each reading."""
        self._root_days.set_function(lambda: seconds_left() / _DAY)


class _Endings(Collector):
    """The CA's own certificates, read at each reading: they come and go with the roots."""

    def __init__(self, read: Callable[[], Iterable[Ending]], now: Callable[[], float]) -> None:
        self._read = read
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Yield the two gauges."""
        labels = ["id", "kind", "state"]
        days = GaugeMetricFamily(
            "hostmesh_ca_certificate_days_left", "Days until a root, intermediate or issuer ends.", labels=labels
        )
        soon = GaugeMetricFamily(
            "hostmesh_ca_certificate_ends_soon", "Whether it ends in less than 60 days: 1 or 0.", labels=labels
        )
        now = self._now()
        for ending in self._read():
            values = [ending.id, ending.kind, ending.state]
            days.add_metric(values, ending.days_left(now))
            soon.add_metric(values, float(ending.is_soon(now)))
        yield from (days, soon)


class MetricsPort:
    """GET /metrics and /healthz by HTTP; nothing there is secret."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self, address: str, port: int) -> None:
        """Listen; raises ConfigError if the port can't be had."""
        application = web.Application()
        application.add_routes([web.get("/metrics", self._show), web.get("/healthz", self._healthy)])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.SockSite(self._runner, _listening(address, port)).start()
        except OSError as error:
            raise ConfigError([f"metrics: cannot listen on {address} port {port}: {error.strerror}"]) from error
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _show(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")


def _listening(address: str, port: int) -> socket.socket:
    """Return a socket; on `::` it takes IPv4 too, as gRPC's ports do (asyncio's own would take IPv6 only)."""
    if address == "::" and not socket.has_dualstack_ipv6():
        address = "0.0.0.0"
    if ":" not in address:
        return socket.create_server((address, port))
    return socket.create_server((address, port), family=socket.AF_INET6, dualstack_ipv6=address == "::")
