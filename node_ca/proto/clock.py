"""What an answer with a certificate says of the CA's clock, part of the protocol."""

from __future__ import annotations

CLOCK = "hostmesh-ca-clock"
"""Trailing metadata: the CA's Unix time, seconds, so that a host knows if its own clock is wrong."""
