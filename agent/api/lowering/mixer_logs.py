"""What Mixer's rules write, with the handlers and instances that they name, together. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from agent.api.checks.durations import seconds
from agent.api.envelope import Document
from agent.api.expressions import parse
from agent.api.lowering.mixer import Find, full_name, named_by, rule_match, users_without_scheme
from agent.mesh.expressions.tree import Attribute, Expression, Literal, Type
from agent.mesh.mixer_logs import Fluentd, Level, LogEntry, LogRule, Sink, Stdio
from agent.mesh.routes import Fault, ObjectRef

LOG_PARTS = ("stdio", "fluentd", "logentry")
"""The kinds that such rules name."""
_SEVERITIES = {"info": Level.INFO, "warning": Level.WARNING, "warn": Level.WARNING, "error": Level.ERROR}
"""Where a handler says nothing."""
_DEFAULT = Fluentd("", "", 0)


class LoweredLogs(Struct, frozen=True):
    """What a rule writes, and what it lacks."""

    rule: LogRule | None
    faults: tuple[Fault, ...] = ()


def lower_logs(document: Document, find: Find) -> LoweredLogs:
    """Return what a rule writes; one that names what is not there writes nothing until it is."""
    writes = list[tuple[Sink, LogEntry]]()
    for action in document.spec["actions"]:
        handler = named_by(action["handler"], document)
        if handler.kind not in LOG_PARTS:
            continue
        instances = (named_by(instance, document) for instance in action["instances"])
        names = [handler, *(name for name in instances if name.kind == "logentry")]
        found = [find(ObjectRef(name.kind, name.namespace, name.name)) for name in names]
        missing = [full_name(name) for name, one in zip(names, found, strict=True) if one is None]
        if missing:
            reason = f"is inactive until there is {' and '.join(missing)}"
            return LoweredLogs(None, (Fault(str(document.ref), reason),))
        configured, *entries = (one for one in found if one is not None)
        sink = _sink(full_name(handler), configured)
        writes += [(sink, _entry(full_name(name), one)) for name, one in zip(names[1:], entries, strict=True)]
    return LoweredLogs(LogRule(document.ref, rule_match(document), tuple(writes)) if writes else None)


def _sink(name: str, handler: Document) -> Sink:
    spec = handler.spec
    if handler.kind == "stdio":
        said = spec.get("severityLevels")
        levels = {word: _level(level) for word, level in said.items()} if said else _SEVERITIES
        lowest = _level(spec.get("outputLevel") or 0)
        return Stdio(name, tuple(sorted(levels.items())), spec.get("outputAsJson", True) is not False, lowest)
    host, _, port = spec["address"].rpartition(":")
    return Fluentd(
        name,
        host.strip("[]"),
        int(port),
        spec.get("integerDuration") or False,
        spec.get("instanceBufferSize") or _DEFAULT.waiting_entries,
        spec.get("maxBatchSizeBytes") or _DEFAULT.batch_bytes,
        _seconds(spec, "pushIntervalDuration", _DEFAULT.interval),
        _seconds(spec, "pushTimeoutDuration", _DEFAULT.timeout),
    )


def _seconds(spec: Mapping[str, Any], field: str, default: float) -> float:
    return seconds(spec[field]) if spec.get(field) else default


def _level(said: str | int) -> Level:
    return Level(said) if isinstance(said, int) else Level[said]


def _entry(name: str, document: Document) -> LogEntry:
    spec = document.spec
    severity = _expression(spec.get("severity"), Type.STRING) or Literal("", Type.STRING)
    time = _expression(spec.get("timestamp"), Type.TIMESTAMP) or Attribute("request.time", Type.TIMESTAMP)
    variables = sorted((spec.get("variables") or {}).items())
    return LogEntry(name, severity, time, tuple((key, users_without_scheme(parse(value))) for key, value in variables))


def _expression(written: str | None, wanted: Type) -> Expression | None:
    return users_without_scheme(parse(written, wanted)) if written else None
