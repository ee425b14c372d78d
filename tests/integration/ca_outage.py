"""The CA out of reach of a lab's hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.lab.lab import Lab


@contextmanager
def unreachable_ca(lab: Lab) -> Iterator[None]:
    """Refuse all connections to the CA, those that are open too: as if it were gone, but for the time of a start."""
    ports = ("-p", "tcp", "-m", "multiport", "--dports", "15012,15013", "-j", "REJECT", "--reject-with", "tcp-reset")
    lab["consul"].exec("iptables", "-I", "INPUT", *ports)
    try:
        yield
    finally:
        lab["consul"].exec("iptables", "-D", "INPUT", *ports)
