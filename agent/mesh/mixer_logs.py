"""What Mixer's rules write about requests and connections, and where to: logentry by stdio and fluentd. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Expression, Literal, Nothing, Type, Value, attributes
from agent.mesh.mixer import folded, workload_attributes
from agent.mesh.routes import ObjectRef
from agent.mesh.service import Labels, ServiceKey


class Level(IntEnum):
    """How grave an entry is, for stdio."""

    INFO = 0
    WARNING = 1
    ERROR = 2


class Stdio(Struct, frozen=True):
    """A handler that writes into the agent's own log, the journal."""

    handler: str
    """`NAME.KIND.NAMESPACE`."""
    levels: tuple[tuple[str, Level], ...]
    """By an entry's severity; any other is INFO."""
    as_json: bool = True
    lowest: Level = Level.INFO
    """Entries below that are left out."""


class Fluentd(Struct, frozen=True):
    """A handler that sends to a server by fluentd's forward protocol."""

    handler: str
    host: str
    port: int
    whole_milliseconds: bool = False
    """Durations are numbers."""
    waiting_entries: int = 1024
    """So many may wait while others are on their way."""
    batch_bytes: int = 8 * 2**20
    interval: float = 1.0
    """Seconds between two batches."""
    timeout: float = 60.0
    """Seconds until a batch that nobody has taken is lost."""


Sink = Stdio | Fluentd


class LogEntry(Struct, frozen=True):
    """One kind of line."""

    name: str
    """`NAME.logentry.NAMESPACE`."""
    severity: Expression
    time: Expression
    variables: tuple[tuple[str, Expression], ...]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Return everything that it asks for."""
        return (self.severity, self.time, *(value for _, value in self.variables))


class LogRule(Struct, frozen=True):
    """One rule: where it holds, each entry is written."""

    origin: ObjectRef
    match: Expression
    writes: tuple[tuple[Sink, LogEntry], ...]

    def within(self, known: Mapping[str, Value | None]) -> LogRule | None:
        """Return what is left of it where this much is known (None: absent); None if it never holds."""
        match = folded(self.match, known)
        if isinstance(match, Nothing) or match == Literal(False, Type.BOOL):
            return None
        return LogRule(self.origin, match, tuple((sink, _entry_within(entry, known)) for sink, entry in self.writes))

    @property
    def attributes(self) -> Iterator[Attribute]:
        """Yield every attribute that it asks for."""
        yield from attributes(self.match)
        for _, entry in self.writes:
            for expression in entry.expressions:
                yield from attributes(expression)


def _entry_within(entry: LogEntry, known: Mapping[str, Value | None]) -> LogEntry:
    variables = tuple((name, folded(value, known)) for name, value in entry.variables)
    return LogEntry(entry.name, folded(entry.severity, known), folded(entry.time, known), variables)


def logs_for_workload(rules: Iterable[LogRule], service: ServiceKey, labels: Labels, root: str) -> tuple[LogRule, ...]:
    """Return what is written of requests to a workload: by rules of its own and of the root namespace."""
    known = workload_attributes("destination", service, labels)
    near = (rule for rule in rules if rule.origin.namespace in (service.namespace, root))
    return tuple(left for rule in near if (left := rule.within(known)) is not None)


class LogStream(Struct, frozen=True):
    """What is written of the requests (or connections) of a workload, by all rules."""

    key: str
    rules: tuple[LogRule, ...]
    asks_callers: bool
    """They ask what the catalog knows of who called."""


class EntryLogs(Struct, frozen=True):
    """What the agent makes of the lines that Envoy writes."""

    streams: tuple[LogStream, ...] = ()
    callers: Mapping[tuple[str, str], Mapping[str, Value | None]] = {}
    """By address and SPIFFE ID what the catalog knows of a caller, where a rule asks."""
    verified: bool = True
    """Callers have certificates; False: the address is all there is, and the name is empty."""

    @property
    def servers(self) -> tuple[Fluentd, ...]:
        """Return everybody that entries are sent to."""
        sinks = (sink for stream in self.streams for rule in stream.rules for sink, _ in rule.writes)
        return tuple(sorted({sink for sink in sinks if isinstance(sink, Fluentd)}, key=lambda sink: sink.handler))


_PEERS = ("labels", "service", "service.host", "service.name", "service.namespace", "name", "namespace")
_WORKLOADS = ("workload.name", "workload.namespace", "ip", "port", "user", "principal")
_OF_REQUESTS = (
    *("path", "url_path", "host", "method", "scheme", "size", "total_size", "time", "headers", "id"),
    *("useragent", "referer", "api_key"),
)
_OF_RESPONSES = ("code", "size", "total_size", "duration", "time", "headers", "grpc_status")
_OF_CONNECTIONS = (
    *("id", "event", "mtls", "duration", "requested_server_name", "received.bytes", "received.bytes_total"),
    *("sent.bytes", "sent.bytes_total"),
)
LOGGED = frozenset(
    {
        *(f"{side}.{name}" for side in ("source", "destination") for name in (*_PEERS, *_WORKLOADS)),
        "source.serviceAccount",
        *(f"request.{name}" for name in _OF_REQUESTS),
        *(f"response.{name}" for name in _OF_RESPONSES),
        *(f"connection.{name}" for name in _OF_CONNECTIONS),
        *("context.protocol", "context.time", "context.reporter.kind", "context.reporter.local"),
    }
)
"""The attributes that are known once a request has been answered, or a connection has ended."""
HEADERS = ("request.headers", "response.headers")
"""Of which single ones can be asked for."""
