"""The CA out of reach of a lab's hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from agent.lab.host import Host
from agent.lab.lab import Lab


@contextmanager
def unreachable_ca(lab: Lab, hosts: Iterable[Host] = ()) -> Iterator[None]:
    """Refuse all connections to the CA, those that are open too: as if it were gone, but for the time of a start.

    With `hosts` it is gone for these alone.
    """
    sources = ",".join(host.address for host in hosts)
    refused = ("-p", "tcp", *(("-s", sources) if sources else ()), "-m", "multiport", "--dports", "15012,15013")
    rule = ("INPUT", *refused, "-j", "REJECT", "--reject-with", "tcp-reset")
    lab["consul"].exec("iptables", "-I", *rule)
    try:
        yield
    finally:
        lab["consul"].exec("iptables", "-D", *rule)
