"""What an operator must never lose by a change on a host, looked at from the host itself: SSH, DNS and Consul.

Each probe tells whether it holds and gives up after PATIENCE_SECONDS. Changes nothing.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.store import KvConnection
from agent.errors import HostmeshError

PATIENCE_SECONDS = 2.0
_SSH_PORT = 22
_DNS_PORT = 53
_QUESTION = struct.pack(">HHHHHH", 0x4D48, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack(">HH", 2, 1)
"""Which are the name servers of the root: any server has something to say to that, if only that it refuses."""

Probe = Callable[[], bool]


def probes(address: str, consul: ConsulAddress, resolv_conf: Path = Path("/etc/resolv.conf")) -> Mapping[str, Probe]:
    """Return the probes by name; `address` is this host's own."""
    return {
        "ssh": lambda: ssh_answers(address),
        "dns": lambda: dns_answers(resolv_conf),
        "consul": lambda: consul_answers(consul),
    }


def ssh_answers(address: str) -> bool:
    """Tell whether an SSH server speaks on port 22."""
    try:
        with socket.create_connection((address, _SSH_PORT), timeout=PATIENCE_SECONDS) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def dns_answers(resolv_conf: Path) -> bool:
    """Tell whether one of this host's name servers answers; without any, the resolver asks 127.0.0.1."""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    servers = [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]
    return any(_answers(server) for server in servers or ["127.0.0.1"])


def _answers(server: str) -> bool:
    try:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_SECONDS)
            client.connect((server, _DNS_PORT))
            client.send(_QUESTION)
            return client.recv(512)[:2] == _QUESTION[:2]
    except OSError:
        return False


def consul_answers(address: ConsulAddress) -> bool:
    """Tell whether the local Consul agent answers and knows a leader."""
    connection = KvConnection(address)
    try:
        return bool(connection.call(connection.api.status.leader))
    except HostmeshError:
        return False
