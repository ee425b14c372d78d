"""What Mixer's rules measure of requests and connections, and where to: metric by prometheus and statsd. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum

from msgspec import Struct, structs

from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Nothing, Type, Value
from agent.mesh.mixer import folded, workload_attributes
from agent.mesh.routes import ObjectRef
from agent.mesh.service import Labels, ServiceKey


class MetricKind(StrEnum):
    """What becomes of the values."""

    COUNTER = "COUNTER"
    """They are added."""
    GAUGE = "GAUGE"
    """The newest stands; of those that have come together, their mean."""
    DISTRIBUTION = "DISTRIBUTION"
    """They are counted in buckets."""


class Outlet(Struct, frozen=True):
    """How a handler shows an instance."""

    handler: str
    """`NAME.KIND.NAMESPACE`."""
    name: str
    """The metric's in Prometheus; for statsd its template, or the instance's name."""
    kind: MetricKind
    help: str = ""
    labels: tuple[str, ...] = ()
    """In their order; of statsd all dimensions that the template names."""
    bounds: tuple[float, ...] = ()
    server: Statsd | None = None
    """None: Prometheus, which comes by itself."""


class Statsd(Struct, frozen=True):
    """A server that takes metrics by UDP."""

    host: str
    port: int
    prefix: str = ""
    flush_seconds: float = 0.3
    flush_bytes: int = 512
    sampling: float = 1.0


class Measured(Struct, frozen=True):
    """An instance of the template metric."""

    name: str
    """`NAME.metric.NAMESPACE`."""
    value: Expression
    dimensions: tuple[tuple[str, Expression], ...]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Return what must be known of each request, less its value."""
        return tuple(value for _, value in self.dimensions)


class MetricRule(Struct, frozen=True):
    """One rule: where it holds, each value is reported."""

    origin: ObjectRef
    match: Expression
    reports: tuple[tuple[Outlet, Measured], ...]

    def within(self, known: Mapping[str, Value | None]) -> MetricRule | None:
        """Return what is left of it where this much is known (None: absent); None if it never holds."""
        match = folded(self.match, known)
        if isinstance(match, Nothing) or match == Literal(False, Type.BOOL):
            return None
        return MetricRule(self.origin, match, tuple((to, _within(measured, known)) for to, measured in self.reports))


def _within(measured: Measured, known: Mapping[str, Value | None]) -> Measured:
    dimensions = tuple((name, folded(value, known)) for name, value in measured.dimensions)
    return structs.replace(measured, value=folded(measured.value, known), dimensions=dimensions)


def metrics_for_workload(
    rules: Iterable[MetricRule], service: ServiceKey, labels: Labels, root: str
) -> tuple[MetricRule, ...]:
    """Return what is reported of requests to a workload: by rules of its own and of the root namespace."""
    known = workload_attributes("destination", service, labels)
    near = (rule for rule in rules if rule.origin.namespace in (service.namespace, root))
    return tuple(left for rule in near if (left := rule.within(known)) is not None)


MEASURED = {
    "response.duration": "http",
    "request.size": "http",
    "response.size": "http",
    "connection.duration": "tcp",
    "connection.received.bytes": "tcp",
    "connection.received.bytes_total": "tcp",
    "connection.sent.bytes": "tcp",
    "connection.sent.bytes_total": "tcp",
}
"""What each request or connection has its own amount of, and which of the two."""
HEADERS = ("request.headers", "response.headers")
"""Of which single ones can be asked for."""
_PEERS = ("labels", "service", "service.host", "service.name", "service.namespace", "name", "namespace")
_WORKLOADS = ("workload.name", "workload.namespace", "ip", "user", "principal")
ALWAYS_THERE = frozenset(
    {
        *(f"{side}.{name}" for side in ("source", "destination") for name in (*_PEERS, *_WORKLOADS)),
        *("source.serviceAccount", "destination.port", "response.code", "connection.mtls"),
        *("context.protocol", "context.reporter.kind", "context.reporter.local", "context.proxy_error_code"),
    }
)
"""What is known of all that is counted."""
ASKED_FOR = frozenset(
    {
        *("request.path", "request.url_path", "request.host", "request.method", "request.scheme"),
        *("request.useragent", "request.referer", "request.api_key", "response.grpc_status"),
        *("connection.requested_server_name", *HEADERS),
    }
)
"""What is counted apart only where a rule asks for it: clients choose it, and so how much there is to count."""
COUNTABLE = ALWAYS_THERE | ASKED_FOR


def measured_attribute(expression: Expression) -> Attribute | None:
    """Return the attribute whose amount a value is (`response.size | 0`: it is always there)."""
    match expression:
        case Attribute(name=name) if name in MEASURED:
            return expression
        case Call(function="|", operands=(left, _)):
            return measured_attribute(left)
    return None


def asked_for(expressions: Iterable[Expression]) -> Iterator[tuple[str, str]]:
    """Yield what requests are told apart by beside what is always there: (attribute, header or "")."""
    for expression in expressions:
        match expression:
            case Call(function="[]", operands=(Attribute(name=name), Literal(value=key))) if name in HEADERS:
                yield name, str(key)
            case Attribute(name=name) if name in ASKED_FOR:
                yield name, ""
            case Call(operands=operands):
                yield from asked_for(operands)
