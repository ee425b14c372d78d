"""Protobuf messages → xDS resources, and the few message parts that every builder needs. Pure."""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from envoy.config.core.v3 import address_pb2, config_source_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message

from agent.mesh.snapshot import Reference, Resource

VERSION_LENGTH = 16
UNIX = "unix://"
NEVER = duration_pb2.Duration()
"""A timeout of zero, which Envoy takes as none."""
ADS = config_source_pb2.ConfigSource(
    ads=config_source_pb2.AggregatedConfigSource(),
    resource_api_version=config_source_pb2.V3,
    # Wait for as long as it takes: the 15 s default would let Envoy serve without routes or certificates.
    initial_fetch_timeout=NEVER,
)


def resource(type_url: str, name: str, message: Message, references: Iterable[Reference] = ()) -> Resource:
    """Return the resource of a message."""
    value = serialized(message)
    return Resource(type_url, name, version(value), value, frozenset(references))


def serialized(message: Message) -> bytes:
    """Return the message's bytes, the same every time."""
    value: bytes = message.SerializeToString(deterministic=True)
    return value


def version(content: bytes) -> str:
    """Return the version of what this tells from all else."""
    return sha256(content).hexdigest()[:VERSION_LENGTH]


def packed(message: Message) -> any_pb2.Any:
    """Return the message as an Any, byte for byte the same every time."""
    wrapped = any_pb2.Any()
    wrapped.Pack(message, deterministic=True)
    return wrapped


def seconds(value: float) -> duration_pb2.Duration:
    """Return a duration."""
    whole = int(value)
    return duration_pb2.Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def socket_address(address: str, port: int) -> Any:
    """Return a TCP address (envoy.config.core.v3.Address)."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def any_address(address: str, port: int) -> Any:
    """Return a TCP address, or that of a Unix socket (`unix://PATH`), which has no port."""
    if address.startswith(UNIX):
        return address_pb2.Address(pipe=address_pb2.Pipe(path=address.removeprefix(UNIX)))
    return socket_address(address, port)


@functools.lru_cache(maxsize=100_000)
def is_ip(address: str) -> bool:
    """Tell whether this is an IPv4 or IPv6 address and not a host name (EDS takes addresses only)."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address)
        except (OSError, ValueError):
            continue
        return True
    return False
