"""Access logs: what is written of every request and connection, and by which name Telemetry objects mean it. Pure.

The names are Istio's: the mesh settings `accessLogFile`, `accessLogEncoding` and `accessLogFormat`, and the provider
`envoyFileAccessLog` of `extensionProviders`. What is written goes to the host's journal, whatever file is named there.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

STDOUT = "/dev/stdout"
"""The one file that can be named: the journal."""
ENVOY = "envoy"
"""The provider that is always there, as the mesh's settings have it."""


class Encoding(StrEnum):
    """What a line is."""

    TEXT = "TEXT"
    JSON = "JSON"


class LogFormat(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One of the two."""

    text: str = ""
    labels: dict[str, str] = {}
    """Of a JSON object."""


class FileAccessLog(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A provider that Telemetry objects can name."""

    path: str
    log_format: LogFormat | None = None


class LineFormat(Struct, frozen=True):
    """How a line looks: a text, or fields of a JSON object."""

    text: str = ""
    fields: tuple[tuple[str, str], ...] = ()


_TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    '%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% '
    '%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
_FIELDS = {
    "authority": "%REQ(:AUTHORITY)%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_peer_uri_san": "%DOWNSTREAM_PEER_URI_SAN%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "duration": "%DURATION%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "route_name": "%ROUTE_NAME%",
    "start_time": "%START_TIME%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "user_agent": "%REQ(USER-AGENT)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
}
"""Istio's own (text and JSON), and in JSON who the caller is."""


def line_format(text: str = "", fields: dict[str, Any] | None = None, encoding: Encoding = Encoding.TEXT) -> LineFormat:
    """Return a line's format; what is not said is Istio's."""
    if text:
        return LineFormat(text if text.endswith("\n") else f"{text}\n")
    if fields or encoding is Encoding.JSON:
        return LineFormat("", tuple(sorted((fields or _FIELDS).items())))
    return LineFormat(_TEXT)
