"""What Envoy writes down of a request or connection for Mixer's rules that log, and what such a line says. Pure.

Envoy writes what it knows at no cost, one JSON line to a file, in the moment a request has ended; the agent reads the
file, and makes the entries of all rules of it (agent/runtime/entry_log). So no rule asks for more than a line, whatever
it wants to know of callers, and nobody on the way of requests waits for anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Value
from agent.mesh.expressions.vocabulary import VOCABULARY
from agent.mesh.mixer_logs import HEADERS, LOGGED, LogRule, LogStream
from agent.translate import cel
from agent.translate.mixer_cel import IDENTITY, NoForm, in_cel
from agent.translate.mixer_peers import absent_source
from agent.translate.resource import packed

STREAM, ADDRESS, CALLER = "log", "from", "by"
"""Fields of each line: which stream it is of, the connection's own address, the URI in the caller's certificate."""
_START, _END = "%START_TIME%", "%EMIT_TIME%"
_MICROSECONDS = "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
_READ, _SENT = "%BYTES_RECEIVED%", "%BYTES_SENT%"

Read = Callable[[Any], Value | None]


def _text(said: Any) -> str:
    return str(said)


def _number(said: Any) -> int | None:
    return int(said) if isinstance(said, int | float) else None


def _time(said: Any) -> datetime:
    return datetime.fromisoformat(said).astimezone(UTC)


def _is_there(_said: Any) -> bool:
    return True


def _user(said: Any) -> str:
    return str(said).removeprefix(IDENTITY)


_SHARED: Mapping[str, tuple[str, Read]] = {
    "context.time": (_START, _time),
    "source.ip": ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", ip_address),
    "source.port": ("%DOWNSTREAM_DIRECT_REMOTE_PORT%", _number),
    "source.user": ("%DOWNSTREAM_PEER_URI_SAN%", _user),
    "source.principal": ("%DOWNSTREAM_PEER_URI_SAN%", _user),
    "destination.ip": ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", ip_address),
    "destination.port": ("%DOWNSTREAM_LOCAL_PORT%", _number),
    "destination.user": ("%DOWNSTREAM_LOCAL_URI_SAN%", _user),
    "destination.principal": ("%DOWNSTREAM_LOCAL_URI_SAN%", _user),
    "request.time": (_START, _time),
    "connection.id": ("%CONNECTION_ID%", _text),
    "connection.mtls": ("%DOWNSTREAM_PEER_FINGERPRINT_256%", _is_there),
    "connection.requested_server_name": ("%REQUESTED_SERVER_NAME%", _text),
}
_OF_REQUESTS: Mapping[str, tuple[str, Read]] = {
    "request.path": ("%REQ(:PATH)%", _text),
    "request.url_path": ("%PATH(NQ)%", _text),
    "request.host": ("%REQ(:AUTHORITY)%", _text),
    "request.method": ("%REQ(:METHOD)%", _text),
    "request.scheme": ("%REQ(:SCHEME)%", _text),
    "request.size": (_READ, _number),
    "request.total_size": ("%DOWNSTREAM_WIRE_BYTES_RECEIVED%", _number),
    "request.id": ("%REQ(x-request-id)%", _text),
    "request.useragent": ("%REQ(user-agent)%", _text),
    "request.referer": ("%REQ(referer)%", _text),
    "request.api_key": ("%REQ(x-api-key)%", _text),
    "response.code": ("%RESPONSE_CODE%", _number),
    "response.size": (_SENT, _number),
    "response.total_size": ("%DOWNSTREAM_WIRE_BYTES_SENT%", _number),
    "response.time": (_END, _time),
    "response.grpc_status": ("%GRPC_STATUS_NUMBER%", _text),
    "response.duration": (_MICROSECONDS, lambda said: timedelta(microseconds=said)),
}
_OF_CONNECTIONS: Mapping[str, tuple[str, Read]] = {
    "connection.duration": ("%DURATION%", lambda said: timedelta(milliseconds=said)),
    "connection.received.bytes": (_READ, _number),
    "connection.received.bytes_total": (_READ, _number),
    "connection.sent.bytes": (_SENT, _number),
    "connection.sent.bytes_total": (_SENT, _number),
}
_USERS = ("source.user", "source.principal")
_BY_CATALOG = frozenset(absent_source())
_COMMANDS = {"request.headers": "REQ", "response.headers": "RESP"}


class Streams(Struct, frozen=True):
    """What some rules write."""

    rules: tuple[LogRule, ...]
    requests: LogStream | None
    connections: LogStream | None


def streams_of(rules: tuple[LogRule, ...]) -> Streams:
    """Return what is written by rules that are for a workload."""
    return Streams(rules, _stream(rules, "http", _OF_CONNECTIONS), _stream(rules, "tcp", _OF_REQUESTS))


def _stream(rules: Iterable[LogRule], protocol: str, foreign: Iterable[str]) -> LogStream | None:
    known: dict[str, Value | None] = dict.fromkeys((*foreign, *(name for name in VOCABULARY if name not in LOGGED)))
    known |= {"context.protocol": protocol, "context.reporter.kind": "inbound", "context.reporter.local": True}
    if protocol == "tcp":
        known |= {**dict.fromkeys(HEADERS), "connection.event": "close", "request.time": None}
    else:
        known["connection.event"] = None
    left = tuple(found for rule in rules if (found := rule.within(known)) is not None)
    if not left:
        return None
    asks = any(one.name in _BY_CATALOG for rule in left for one in rule.attributes)
    return LogStream(sha256(repr((protocol, left)).encode()).hexdigest()[:16], left, asks)


def line_log(stream: LogStream, path: str) -> Any:
    """Return a log (envoy.config.accesslog.v3.AccessLog) to a file, or to standard output if `path` is empty."""
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.file" if path else "envoy.access_loggers.stdout")
    line = {STREAM: stream.key, "at": _START, ADDRESS: _SHARED["source.ip"][0], CALLER: _SHARED["source.user"][0]}
    for rule in stream.rules:
        for expression in (rule.match, *(each for _, entry in rule.writes for each in entry.expressions)):
            line |= _atoms(expression)
    config = file_pb2.FileAccessLog(path=path) if path else stream_pb2.StdoutAccessLog()
    config.log_format.json_format.update(line)
    log.typed_config.CopyFrom(packed(config))
    if wanted := _prefilter(stream.rules):
        log.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        log.filter.extension_filter.typed_config.CopyFrom(packed(cel_pb2.ExpressionFilter(expression=wanted)))
    return log


def _prefilter(rules: Iterable[LogRule]) -> str:
    """Return a condition for what is worth a line, in CEL; empty: everything may be."""
    found: cel.Cel = cel.FALSE
    for rule in rules:
        try:
            found = cel.either(found, in_cel(rule.match).holds)
        except NoForm:
            return ""
    return "" if isinstance(found, cel.Constant) else cel.text(found)


def _atoms(expression: Expression) -> dict[str, str]:
    """Return what Envoy must write so that this can be evaluated: field → format."""
    match expression:
        case Call(function="[]", operands=(Attribute(name=name), Literal(value=str(key)))) if name in HEADERS:
            return {_header_field(name, key): f"%{_COMMANDS[name]}({key.lower()})%"}
        case Attribute(name=name):
            atom = _known(name)
            return {name: atom[0]} if atom and name not in _USERS else {}
        case Call(operands=operands):
            return {field: value for operand in operands for field, value in _atoms(operand).items()}
    return {}


def _known(name: str) -> tuple[str, Read] | None:
    return _SHARED.get(name) or _OF_REQUESTS.get(name) or _OF_CONNECTIONS.get(name)


def _header_field(name: str, key: str) -> str:
    return f"{name}:{key.lower()}"


class Line:
    """One line as a source of attributes' values; `source`: what the catalog knows of the caller, if it was asked."""

    def __init__(self, said: Mapping[str, Any], source: Mapping[str, Value | None]) -> None:
        self._said, self._source = said, source

    @property
    def began(self) -> datetime:
        """Return when the request came, or the connection."""
        return _time(self._said["at"])

    def value(self, attribute: Attribute) -> Value | None:
        """Return an attribute's value, None if there is none; raises ValueError and TypeError on a foreign line."""
        name = attribute.name
        if name in HEADERS:
            prefix = f"{name}:"
            asked = {field: said for field, said in self._said.items() if field.startswith(prefix)}
            return _Headers(
                {field.removeprefix(prefix): str(said) for field, said in asked.items() if said is not None}
            )
        if name in _BY_CATALOG:
            return self._source.get(name)
        atom = _known(name)
        said = self._said.get(CALLER if name in _USERS else name)
        if name == "connection.mtls":
            return said is not None
        return None if atom is None or said is None else atom[1](said)


class _Headers(Mapping[str, str]):
    """Names of headers have no case."""

    def __init__(self, said: Mapping[str, str]) -> None:
        self._said = said

    def __getitem__(self, name: str) -> str:
        return self._said[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)
