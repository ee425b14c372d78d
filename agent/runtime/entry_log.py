"""Makes log entries of the lines that Envoy writes for Mixer's rules, and hands them on; passes on access logs.

Beside the way of requests: Envoy writes to a file whatever happens here. What cannot be made, or handed on, is counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from agent.adapters.fluentd import Forwarder
from agent.adapters.proxy.log_follow import EnvoyLog
from agent.config import Config
from agent.mesh.expressions.evaluate import fold
from agent.mesh.expressions.tree import Expression, Literal, Value
from agent.mesh.mixer_logs import EntryLogs, Fluentd, Level, LogEntry, LogRule, LogStream, Sink, Stdio
from agent.mesh.routes import Fault
from agent.runtime.host_options import access_log_file, entry_log_file, log_sockets
from agent.runtime.log_setup import FIELDS
from agent.translate.log_lines import ADDRESS, CALLER, STREAM, Line
from agent.translate.log_record import Record, forwarded, printed
from agent.translate.log_servers import log_socket

_log, _access = logging.getLogger("entries"), logging.getLogger("access")
_LEVELS = {Level.INFO: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}
MAX_OLD_STREAMS = 100
"""Of rules that have changed: their last lines come when the new ones are there already."""
UNREADABLE, WORTHLESS = "unreadable line", "no value"


class EntryLog:
    """Everything that Mixer's rules log on this host."""

    def __init__(
        self,
        path: Path,
        access_path: Path,
        places: Path,
        sockets: Path,
        on_faults: Callable[[tuple[Fault, ...]], None],
    ) -> None:
        """`places`: the folder in which it is kept how far the two files were read."""
        self._file = EnvoyLog(path, places / "entries.read", self._tell)
        self._access = EnvoyLog(access_path, places / "access.read", _tell_access)
        self._sockets = sockets
        self._on_faults = on_faults
        self._streams: dict[str, LogStream] = {}
        self._logs = EntryLogs()
        self._known, self._changed = asyncio.Event(), asyncio.Event()
        self._senders: dict[Fluentd, Forwarder] = {}
        self._reasons: dict[str, str] = {}
        self._written: Counter[tuple[str, str]] = Counter()
        """By handler and what became of its entries."""

    def follow(self, logs: EntryLogs) -> None:
        """Write what these say from now on."""
        if logs is self._logs:
            return
        self._logs = logs
        new = {stream.key: stream for stream in logs.streams}
        old = [(key, stream) for key, stream in self._streams.items() if key not in new]
        self._streams = {**dict(old[-MAX_OLD_STREAMS:]), **new}
        self._known.set()
        self._changed.set()

    async def run(self) -> None:
        """Read what Envoy writes once it is known what that means, and send what is to be sent, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._access.follow())
            tasks: dict[Fluentd, asyncio.Task[None]] = {}
            while True:
                await self._changed.wait()
                self._changed.clear()
                wanted = set(self._logs.servers)
                for server in tasks.keys() - wanted:
                    tasks.pop(server).cancel()
                    self._forget(self._senders.pop(server))
                for server in wanted - tasks.keys():
                    sender = self._senders[server] = self._sender(server)
                    tasks[server] = group.create_task(sender.run(), name=server.handler)

    def counts(self) -> Iterator[tuple[str, str, int]]:
        """Yield how many entries of each handler were written, sent or lost since the agent started."""
        counted = Counter(self._written)
        for server, sender in self._senders.items():
            counted[server.handler, "sent"] += sender.sent
            counted[server.handler, "lost"] += sender.lost
        counted["", "lost"] += self._file.lost + self._access.lost
        yield from ((handler, result, number) for (handler, result), number in sorted(counted.items()))

    async def _read(self) -> None:
        await self._known.wait()
        await self._file.follow()

    def _sender(self, server: Fluentd) -> Forwarder:
        return Forwarder(
            server, Path(log_socket(str(self._sockets), server)), lambda reason: self._note(server, reason)
        )

    def _forget(self, sender: Forwarder) -> None:
        """Keep the numbers of a handler that is gone, or another one now."""
        self._written[sender.server.handler, "sent"] += sender.sent
        self._written[sender.server.handler, "lost"] += sender.lost
        self._note(sender.server, None)

    def _note(self, server: Fluentd, reason: str | None) -> None:
        said = f"fluentd at {server.host}:{server.port} {reason}; what is too much to wait is lost" if reason else ""
        if said == self._reasons.get(server.handler, ""):
            return
        self._reasons[server.handler] = said
        self._on_faults(tuple(Fault(handler, text) for handler, text in sorted(self._reasons.items()) if text))

    def _tell(self, text: str) -> None:
        """Make the entries of one line."""
        try:
            said = msgspec.json.decode(text)
            stream = self._streams.get(said[STREAM])
            if stream is None:
                raise ValueError
            caller = (said[ADDRESS], (said[CALLER] or "") if self._logs.verified else "")
            line = Line(said, self._logs.callers.get(caller, {}))
            for rule in stream.rules:
                self._apply(rule, line)
        except (ValueError, TypeError, KeyError, LookupError):
            self._written["", UNREADABLE] += 1

    def _apply(self, rule: LogRule, line: Line) -> None:
        if _value(rule.match, line) is not True:
            return
        for sink, entry in rule.writes:
            record = _record(entry, line)
            if record is None:
                self._written[sink.handler, WORTHLESS] += 1
            else:
                self._write(sink, record)

    def _write(self, sink: Sink, record: Record) -> None:
        match sink:
            case Stdio():
                level, text = printed(sink, record)
                if level >= sink.lowest:
                    fields = {"HOSTMESH_INSTANCE": record.name}
                    _log.log(_LEVELS[level], "%s", text, extra={FIELDS: fields})
                    self._written[sink.handler, "written"] += 1
            case Fluentd():
                sender = self._senders.get(sink)
                if sender is None:
                    self._written[sink.handler, "lost"] += 1
                else:
                    sender.put(*forwarded(sink, record))


def _tell_access(line: str) -> None:
    """Pass on a line of an access log."""
    if line.strip():
        _access.info("%s", line, extra={FIELDS: {"SYSLOG_IDENTIFIER": "envoy-access"}})


def _record(entry: LogEntry, line: Line) -> Record | None:
    """Return an entry with its values; None if one has none, as in Mixer."""
    values: dict[str, Value] = {}
    for name, expression in entry.variables:
        value = _value(expression, line)
        if value is None:
            return None
        values[name] = value
    severity, at = _value(entry.severity, line), _value(entry.time, line)
    return Record(entry.name, str(severity or ""), line.began if at is None else at, values)


def _value(expression: Expression, line: Line) -> Value | None:
    left = fold(expression, line.value)
    return left.value if isinstance(left, Literal) else None


def entry_log_of(config: Config, on_faults: Callable[[tuple[Fault, ...]], None]) -> EntryLog:
    """Return that of a host with this configuration."""
    sockets = log_sockets(config)
    return EntryLog(entry_log_file(config), access_log_file(config), sockets, sockets, on_faults)
