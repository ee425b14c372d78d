"""gRPC servers as the CA's doors want them: their limits, health and reflection, and how they listen. Wiring only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from node_ca.config import Listener
from node_ca.door import Door
from node_ca.errors import ConfigError

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.max_send_message_length", 4 * 1024 * 1024),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.so_reuseport", 0),  # a second CA on this port must fail, not share it
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Streams past these are refused, cancelled ones that are not cleared away yet included (rapid reset).
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_connection_idle_ms", 60_000),
    # Whoever follows the bundle and vanishes without a word is noticed.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Agents ask every three seconds whether we are there still, to go to another CA in time.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.max_allowed_incoming_connections", 30_000),
)


def new_server(door: Door) -> Any:
    """Return a server whose calls all pass the door."""
    return grpc.aio.server(interceptors=[door], options=_OPTIONS)


async def add_health_and_reflection(server: Any, names: list[str]) -> Any:
    """Add gRPC's standard services for these; return what sets the health."""
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    for name in ("", *names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    return checks


def bind_port(server: Any, listener: Listener, name: str, credentials: Any) -> int:
    """Listen with TLS; return the port. Raises ConfigError."""
    try:
        return int(server.add_secure_port(listener.target, credentials))
    except RuntimeError as error:  # grpcio's own, for a port in use or an absent address
        raise ConfigError([f"{name}: cannot listen on {listener.target}: is it in use?"]) from error


def bind_socket(server: Any, path: Path) -> None:
    """Listen on a Unix socket, mode 0600; raises ConfigError."""
    before = os.umask(0o177)  # gRPC makes the socket; it must never be open to others, not for a moment
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise ConfigError([f"adminSocket: cannot listen on {path}: is its folder there and writable?"]) from error
    finally:
        os.umask(before)
