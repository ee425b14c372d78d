"""How an entry of Mixer's looks: as a line of stdio, and as a record for fluentd. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct

from agent.mesh.expressions.tree import Value, duration_text
from agent.mesh.mixer_logs import Fluentd, Level, Stdio

_WORDS = {Level.INFO: "info", Level.WARNING: "warn", Level.ERROR: "error"}


class Record(Struct, frozen=True):
    """An entry with its values."""

    name: str
    """`NAME.logentry.NAMESPACE`."""
    severity: str
    at: Value
    """A datetime."""
    values: Mapping[str, Value]


def printed(sink: Stdio, record: Record) -> tuple[Level, str]:
    """Return the level of an entry and its line, as Mixer's stdio adapter writes it."""
    levels = dict(sink.levels)
    level = levels.get(record.severity, levels.get(record.severity.lower(), Level.INFO))
    own = {"level": _WORDS[level], "ts": _time(record.at), "instance": record.name}
    variables = {name: _plain(value) for name, value in record.values.items()}
    if sink.as_json:
        return level, _json(own | {name: value for name, value in variables.items() if name not in own})
    return level, "\t".join((own["ts"], own["level"], own["instance"], _json(variables)))


def forwarded(sink: Fluentd, record: Record) -> tuple[str, datetime, dict[str, Any]]:
    """Return an entry's tag, time and record; a variable `tag` is the tag instead of the entry's name, as in Mixer."""
    values = {
        name: value // timedelta(milliseconds=1)
        if sink.whole_milliseconds and isinstance(value, timedelta)
        else _plain(value)
        for name, value in record.values.items()
    }
    at = record.at if isinstance(record.at, datetime) else datetime.now(UTC)
    return str(values.pop("tag", record.name)), at, values | {"severity": record.severity}


def go_duration(value: timedelta) -> str:
    """Return a duration as Go prints it: `6.848ms`, `1.5s`, `250µs`, `0s`."""
    microseconds = value // timedelta(microseconds=1)
    if abs(microseconds) >= 1_000_000 or not microseconds:
        return duration_text(value)
    if abs(microseconds) < 1000:
        return f"{microseconds}µs"
    return f"{microseconds / 1000:.3f}".rstrip("0").rstrip(".") + "ms"


def _plain(value: Value) -> Any:
    match value:
        case timedelta():
            return go_duration(value)
        case datetime():
            return _time(value)
        case Mapping():
            return dict(value)
        case bool() | int() | float() | str():
            return value
    return str(value)


def _time(value: Value) -> str:
    assert isinstance(value, datetime)
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
