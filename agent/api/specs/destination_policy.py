"""DestinationPolicy (config.istio.io): what its spec may hold."""

from __future__ import annotations

from typing import Any

from agent.api.checks.durations import duration
from agent.api.checks.fields import LABELS
from agent.api.checks.schema import Check, Report, integer, like, message, one_of, text
from agent.api.lowering.istio_service import SERVICE_FIELDS, service_whole

_COUNT = integer(0, 2**31 - 1)
"""0 is as good as absent (the fields are plain protobuf numbers)."""


@like(message({}))
def _custom(report: Report, path: str, value: Any) -> None:
    report.unsupported(path, "opaque settings of another proxy mean nothing here (use the named fields)")


def _one_balancing(report: Report, path: str, value: dict[str, Any]) -> None:
    _one_form(report, path, value)
    if not value:
        report.invalid(path, "says nothing (give name)")


def _one_form(report: Report, path: str, value: dict[str, Any]) -> None:
    if len(value) > 1:
        report.invalid(path, f"has {' and '.join(value)} (give one of them)")


_SIMPLE_CB = message(
    {
        "maxConnections": _COUNT,
        "httpMaxPendingRequests": _COUNT,
        "httpMaxRequests": _COUNT,
        "sleepWindow": text(duration),
        "httpConsecutiveErrors": _COUNT,
        "httpDetectionInterval": text(duration),
        "httpMaxRequestsPerConnection": _COUNT,
        "httpMaxEjectionPercent": integer(0, 100),
        "httpMaxRetries": _COUNT,
    }
)
_SERVICE = message({**SERVICE_FIELDS, "labels": LABELS}, also=service_whole)

SPEC: Check = message(
    {
        "source": _SERVICE,
        "destination": _SERVICE,
        "loadBalancing": message(
            {"name": one_of("ROUND_ROBIN", "LEAST_CONN", "RANDOM"), "custom": _custom}, also=_one_balancing
        ),
        "circuitBreaker": message({"simpleCb": _SIMPLE_CB, "custom": _custom}, also=_one_form),
    },
    required=("destination",),
)
