"""Servers that rules name (the mesh setting `extensionProviders`): authorizers, which decide, and collectors. Pure.

The fields are Istio's, by its names: what the setting holds is read straight into these types.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import fields

from agent.mesh.access_log import FileAccessLog
from agent.mesh.collector import OpenTelemetry, Zipkin

_PORT = Annotated[int, Meta(ge=1, le=65535)]
_STATUS = Annotated[str, Meta(pattern="^(20[0-8]|226|30[0-578]|40[0-9]|41[0-7]|42[1-4689]|431|50[0-8]|51[01])$")]
"""Envoy knows these."""
_HEADER = Annotated[str, Meta(pattern="^[0-9A-Za-z!#$%&'*+.^_|~`-]{1,256}$")]
_VALUE = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{0,4096}$")]
_DURATION = Annotated[str, Meta(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))$")]
_NAME = Annotated[str, Meta(min_length=1, max_length=253)]
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class RequestBody(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How much of the request's body the authorizer gets."""

    max_request_bytes: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)]
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


class Authorizer(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """What both kinds have."""

    service: _NAME
    """A host of the mesh; `NAMESPACE/HOST` is understood."""
    port: _PORT
    timeout: _DURATION = "10m"
    """Istio's default."""
    fail_open: bool = False
    """Requests pass while it cannot be asked."""
    status_on_error: _STATUS = "403"
    clear_route_cache: bool = False
    include_request_body_in_check: RequestBody | None = None

    @property
    def seconds(self) -> float:
        """Return how long it may take, in seconds."""
        unit = self.timeout.lstrip("0123456789.")
        return float(self.timeout.removesuffix(unit)) * _UNITS[unit]

    @property
    def host(self) -> str:
        """Return the service's host name."""
        return self.service.rpartition("/")[2]


class GrpcAuthorizer(Authorizer, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One that speaks envoy.service.auth.v3.Authorization."""


class HttpAuthorizer(Authorizer, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One that gets each request by HTTP, without its body; 200 lets it pass."""

    path_prefix: Annotated[str, Meta(pattern="^(/[!-~]{0,1024})?$")] = ""
    include_request_headers_in_check: tuple[_HEADER, ...] = ()
    include_additional_headers_in_check: dict[_HEADER, _VALUE] = {}
    headers_to_upstream_on_allow: tuple[_HEADER, ...] = ()
    headers_to_downstream_on_deny: tuple[_HEADER, ...] = ()
    headers_to_downstream_on_allow: tuple[_HEADER, ...] = ()


class ExtensionProvider(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One entry of the setting: a name that rules use, and one kind of server."""

    name: _NAME
    envoy_ext_authz_grpc: GrpcAuthorizer | None = None
    envoy_ext_authz_http: HttpAuthorizer | None = None
    zipkin: Zipkin | None = None
    opentelemetry: OpenTelemetry | None = None
    envoy_file_access_log: FileAccessLog | None = None

    @property
    def authorizer(self) -> GrpcAuthorizer | HttpAuthorizer | None:
        """Return whom AuthorizationPolicies with CUSTOM can name."""
        return self.envoy_ext_authz_grpc or self.envoy_ext_authz_http

    @property
    def collector(self) -> Zipkin | OpenTelemetry | None:
        """Return where Telemetry objects can have traces sent to."""
        return self.zipkin or self.opentelemetry

    @property
    def kinds(self) -> tuple[str, ...]:
        """Return what is given: one, if it is right."""
        return tuple(field.encode_name for field in fields(self)[1:] if getattr(self, field.name) is not None)
