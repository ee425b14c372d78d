"""Calling the next application: where it is, which headers go along, how long to wait. Knows nothing of any mesh.

Every call opens its own connection (no pooling), so that each one is routed anew.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FORWARDED_HEADERS = (
    "x-request-id",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "sw8",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
    "jwt",
)


@dataclass(frozen=True)
class Backend:
    """The address of another application."""

    host: str
    port: int

    @classmethod
    def from_environment(cls, name: str, environment: Mapping[str, str] = os.environ) -> Backend:
        """Return where `name` is: {NAME}_HOSTNAME, {NAME}_SERVICE_PORT and the suffix SERVICES_DOMAIN."""
        host = environment.get(f"{name.upper()}_HOSTNAME") or name
        domain = environment.get("SERVICES_DOMAIN", "").strip(".")
        port = int(environment.get(f"{name.upper()}_SERVICE_PORT") or "9080")
        return cls(f"{host}.{domain}" if domain else host, port)


@dataclass(frozen=True)
class Reply:
    """What came back: `value` is the JSON document of a 200, else None; status 0 means no answer at all."""

    status: int
    value: Any = None
    served_by: str = ""


def forwarded(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request (names in lower case) that go along to the next application."""
    return {name: headers[name] for name in FORWARDED_HEADERS if name in headers}


def get_json(backend: Backend, path: str, headers: Mapping[str, str], timeout: float) -> Reply:
    """Return the reply to a GET; timeout in seconds for the connection and for each read. Raises nothing."""
    connection = http.client.HTTPConnection(backend.host, backend.port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Accept": "application/json", **headers, "Connection": "close"})
        response = connection.getresponse()
        body = response.read()
        served_by = response.getheader("x-served-by", "")
        value = json.loads(body) if response.status == http.client.OK else None
        return Reply(response.status, value, served_by)
    except (OSError, http.client.HTTPException, ValueError):
        return Reply(0)
    finally:
        connection.close()
