"""What Mixer's rules report, and where to: metric, logentry, prometheus, stdio, fluentd, statsd, attributemanifest."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from agent.api.checks.countable import measurable
from agent.api.checks.durations import duration, duration_or_zero
from agent.api.checks.expressions import expression
from agent.api.checks.loggable import loggable
from agent.api.checks.schema import (
    Check,
    Report,
    boolean,
    either,
    integer,
    listing,
    mapping,
    message,
    normal_of,
    number,
    one_of,
    shape_of,
    shaped,
    text,
)
from agent.api.problem import one_line
from agent.api.specs.mixer import one_form
from agent.api.specs.mixer_rule import read_name
from agent.api.yaml_text import child
from agent.mesh.expressions.tree import Type

_EXPRESSIONS = mapping(expression())
_RESOURCE = {
    "monitoredResourceType": expression(Type.STRING, empty=True),
    "monitoredResourceDimensions": _EXPRESSIONS,
}
METRIC: Check = message(
    {"value": expression(), "dimensions": _EXPRESSIONS, **_RESOURCE}, required=("value",), also=measurable
)


def _log_entry(report: Report, path: str, spec: dict[str, Any]) -> None:
    """As a whole: a line without one of its parts would be another one."""
    values = (spec.get("severity"), spec.get("timestamp"), *(spec.get("variables") or {}).values())
    for value in values:
        loggable()(report, path, value)


LOG_ENTRY: Check = message(
    {
        "severity": expression(Type.STRING, empty=True),
        "timestamp": expression(Type.TIMESTAMP, empty=True),
        "variables": _EXPRESSIONS,
        **_RESOURCE,
    },
    also=_log_entry,
)

_INSTANCE = text(
    lambda value: None if read_name(value, "") else "is not a name (NAME.KIND or NAME.KIND.NAMESPACE)",
)
_COUNT = integer(1, 200)
_POSITIVE = number(5e-324, 1e308)


def _ascending(report: Report, path: str, explicit: dict[str, Any]) -> None:
    if any(above <= below for below, above in pairwise(explicit["bounds"])):
        report.invalid(child(path, "bounds"), "must be in ascending order, each once")


_BUCKETS = message(
    {
        "linearBuckets": message(
            {"numFiniteBuckets": _COUNT, "width": _POSITIVE, "offset": number(-1e308, 1e308)},
            required=("numFiniteBuckets", "width"),
        ),
        "exponentialBuckets": message(
            {"numFiniteBuckets": _COUNT, "growthFactor": number(1 + 2**-52, 1e308), "scale": _POSITIVE},
            required=("numFiniteBuckets", "growthFactor", "scale"),
        ),
        "explicitBuckets": message(
            {"bounds": listing(number(-1e308, 1e308), at_least=1, at_most=200)}, required=("bounds",), also=_ascending
        ),
    },
    also=one_form,
)
_KINDS = ("UNSPECIFIED", "GAUGE", "COUNTER", "DISTRIBUTION")


def _label_names(report: Report, path: str, metric: dict[str, Any]) -> None:
    labels = metric.get("labelNames") or ()
    if len(set(labels)) < len(labels):
        report.invalid(child(path, "labelNames"), "names a label twice")
    if metric.get("buckets") and metric.get("kind") != "DISTRIBUTION":
        report.invalid(child(path, "buckets"), "are for kind: DISTRIBUTION only")


_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"


def _metric_name(value: str) -> str | None:
    plain = not value[0].isdigit() and all(char in _WORD for char in value)
    return None if plain else f'"{one_line(value, 60)}" is not a name that Prometheus takes (letters, digits and _)'


_METRIC = message(
    {
        "namespace": text(_metric_name, empty=True),
        "name": text(_metric_name),
        "instanceName": _INSTANCE,
        "description": text(empty=True),
        "kind": one_of(*_KINDS),
        "buckets": _BUCKETS,
        "labelNames": listing(text(_metric_name)),
    },
    required=("instanceName",),
    also=_label_names,
)
PROMETHEUS: Check = message(
    {
        "metrics": listing(_METRIC),
        "metricsExpirationPolicy": message(
            {"metricsExpiryDuration": text(duration), "expiryCheckIntervalDuration": text(duration)}
        ),
    }
)

_NUMBERED = integer(0, 2)
_WORD_OR_NUMBER = either("INFO, WARNING or ERROR", text=one_of("INFO", "WARNING", "ERROR"), number=_NUMBERED)


@shaped(lambda: shape_of(_WORD_OR_NUMBER), normal_of(_NUMBERED))
def _level(report: Report, path: str, value: Any) -> None:
    """A number may stand in quotes, too."""
    _WORD_OR_NUMBER(report, path, value)


_SIZE = integer(0, 2**31 - 1)
_FILES = ("outputPath", "maxMegabytesBeforeRotation", "maxDaysBeforeRotation", "maxRotatedFiles")


def _stdio(report: Report, path: str, spec: dict[str, Any]) -> None:
    """Refuse files as a whole: their entries would be looked for there."""
    stream = spec.get("logStream") or "STDOUT"
    if stream not in ("STDOUT", "STDERR"):
        report.unsupported(path, f"logStream: {stream}: entries go to the host's journal (leave logStream out)")
    elif any(spec.get(field) for field in _FILES):
        report.unsupported(path, f"{', '.join(_FILES)} are for files, and entries go to the host's journal")


STDIO: Check = message(
    {
        "logStream": one_of("STDOUT", "STDERR", "FILE", "ROTATED_FILE"),
        "severityLevels": mapping(_level),
        "metricLevel": _level,
        "outputAsJson": boolean,
        "outputLevel": _level,
        "outputPath": text(empty=True),
        "maxMegabytesBeforeRotation": _SIZE,
        "maxDaysBeforeRotation": _SIZE,
        "maxRotatedFiles": _SIZE,
    },
    also=_stdio,
)


def _host_and_port(value: str) -> str | None:
    host, colon, port = value.rpartition(":")
    if host and colon and port.isdecimal() and 0 < int(port) < 65536:
        return None
    return f'"{one_line(value, 80)}" is not HOST:PORT'


FLUENTD: Check = message(
    {
        "address": text(_host_and_port),
        "integerDuration": boolean,
        "instanceBufferSize": integer(1, 2**31 - 1),
        "maxBatchSizeBytes": integer(1, 2**31 - 1),
        "pushIntervalDuration": text(duration),
        "pushTimeoutDuration": text(duration),
    },
    required=("address",),
)
_STATSD_METRIC = message({"nameTemplate": text(empty=True), "type": one_of("UNKNOWN", *_KINDS[1:])})
STATSD: Check = message(
    {
        "address": text(_host_and_port),
        "prefix": text(empty=True),
        "flushDuration": text(duration_or_zero),
        "flushBytes": integer(0, 65507),
        "samplingRate": number(0, 1),
        "metrics": mapping(_STATSD_METRIC),
    }
)

_VALUE_TYPE = one_of("VALUE_TYPE_UNSPECIFIED", *Type)
_ATTRIBUTE = message({"description": text(empty=True), "valueType": _VALUE_TYPE}, required=("valueType",))
ATTRIBUTE_MANIFEST: Check = message(
    {
        "revision": either("text", text=text(empty=True), number=integer(0, 2**31 - 1)),
        "name": text(empty=True),
        "attributes": mapping(_ATTRIBUTE),
    }
)
