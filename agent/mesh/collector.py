"""Collectors of traces (the mesh settings `tracing` and `extensionProviders`). Pure.

The fields are Istio's, by its names: what a setting holds is read straight into these types.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct, field

_HOST = Annotated[str, Meta(pattern=r"^([a-z0-9-]+/)?[0-9A-Za-z_][0-9A-Za-z._:-]{0,252}$")]
_PORT = Annotated[int, Meta(ge=1, le=65535)]
_PATH = Annotated[str, Meta(pattern="^/[!-~]{0,1024}$")]
_HEADER = Annotated[str, Meta(pattern="^[0-9A-Za-z!#$%&'*+.^_|~`-]{1,256}$")]
_VALUE = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,4096}$")]
_TEXT = Annotated[str, Meta(min_length=1, max_length=4096)]
_DURATION = Annotated[str, Meta(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))$")]
_LENGTH = Annotated[int, Meta(ge=0, le=65536)]
_PERCENT = Annotated[float, Meta(ge=0, le=100)]
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_PATH = 256
"""Istio's and Envoy's own default."""


class TagSource(StrEnum):
    """Where the value of a span's tag is from."""

    LITERAL = "literal"
    ENVIRONMENT = "environment"
    """A variable of Envoy's own environment."""
    HEADER = "header"
    FORMATTER = "formatter"
    """A format as in Envoy's access logs."""


class SpanTag(Struct, frozen=True):
    """A tag that spans bear."""

    source: TagSource
    value: str
    """The value itself, a variable's or header's name, or a format."""
    default: str = ""
    """Where the variable or header is not there; empty: then there is no tag."""


class TraceContext(StrEnum):
    """Which headers say which trace a request belongs to."""

    B3 = "USE_B3"
    B3_AND_W3C = "USE_B3_WITH_W3C_PROPAGATION"


class Collector(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """What all kinds have."""

    service: _HOST
    """A service of the mesh, or a name or an address outside of it; `NAMESPACE/HOST` is understood."""
    port: _PORT
    max_tag_length: _LENGTH | None = None
    """Of a request's path in its span."""

    @property
    def host(self) -> str:
        """Return the host name or address."""
        return self.service.rpartition("/")[2]


class Zipkin(Collector, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One that takes Zipkin's JSON (v2); Jaeger does, too."""

    enable_64bit_trace_id: bool = field(default=False, name="enable64bitTraceId")
    path: _PATH = "/api/v2/spans"
    trace_context_option: TraceContext = TraceContext.B3


class OtlpHeader(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A header that reports bear."""

    name: _HEADER
    value: _VALUE


class OtlpHttp(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Reports by HTTP, in protobuf."""

    path: _PATH = "/v1/traces"
    timeout: _DURATION = "3s"
    headers: tuple[OtlpHeader, ...] = ()

    @property
    def seconds(self) -> float:
        """Return how long a report may take, in seconds."""
        unit = self.timeout.lstrip("0123456789.")
        return float(self.timeout.removesuffix(unit)) * _UNITS[unit]


class OpenTelemetry(Collector, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One that takes OTLP: by gRPC, or by HTTP where that is given."""

    http: OtlpHttp | None = None


class LiteralTag(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A value as it stands."""

    value: _TEXT


class EnvironmentTag(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A variable of Envoy's environment."""

    name: _TEXT
    default_value: str = ""


class HeaderTag(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A header of the request."""

    name: _HEADER
    default_value: str = ""


class CustomTag(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A tag that spans bear: one of these."""

    literal: LiteralTag | None = None
    environment: EnvironmentTag | None = None
    header: HeaderTag | None = None

    @property
    def tags(self) -> tuple[SpanTag, ...]:
        """Return what is given: one, if it is right."""
        named = ((TagSource.ENVIRONMENT, self.environment), (TagSource.HEADER, self.header))
        return (
            *((SpanTag(TagSource.LITERAL, self.literal.value),) if self.literal else ()),
            *(SpanTag(source, one.name, one.default_value) for source, one in named if one is not None),
        )


class MeshTracing(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """The mesh's own collector and what holds where no Telemetry says otherwise. Without a collector nothing is traced.

    By the names `zipkin` and `opentelemetry` Telemetry objects can mean it, too.
    """

    zipkin: Zipkin | None = None
    """Collector that spans are sent to by Zipkin's protocol: `{service, port}`."""
    opentelemetry: OpenTelemetry | None = None
    """Collector that spans are sent to by OTLP: `{service, port}`, and `http: {}` if not by gRPC."""
    sampling: _PERCENT = 1.0
    """Percent of the requests without a trace of their own that get one."""
    max_path_tag_length: _LENGTH = _LONGEST_PATH
    """Longest path in a span, in bytes."""
    custom_tags: dict[_TEXT, CustomTag] = {}
    """Tags of every span: `{name: {literal: {value}}}`, or `environment`, `header`: `{name, defaultValue}`."""

    @property
    def collector(self) -> Zipkin | OpenTelemetry | None:
        """Return the one that is given."""
        return self.zipkin or self.opentelemetry

    @property
    def span_tags(self) -> tuple[tuple[str, SpanTag], ...]:
        """Return the tags by name."""
        return tuple((name, tag) for name, one in sorted(self.custom_tags.items()) for tag in one.tags)
