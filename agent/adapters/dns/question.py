"""Asks one name server one question over UDP (RFC 1035), and whether this host's programs get the mesh's names at all.

Blocks for a second at most for each question; for a thread of its own, or the command line.
"""

from __future__ import annotations

import re
import secrets
import socket
import struct
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from msgspec import Struct

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_STUB = "127.0.0.53"
PATIENCE_SECONDS = 1.0
DNS_PORT = 53
CLUSTER = ".svc.cluster.local"
_A, _TXT, _INTERNET, _CHAOS = 1, 16, 1, 3
_MENDS = {
    "unbound": "hostmesh dns forward unbound",
    "bind": "hostmesh dns forward bind",
    "systemd-resolved": "systemctl start hostmesh-resolved",
    "dnsmasq": "let it read /etc/dnsmasq.d/hostmesh.conf (systemctl restart dnsmasq)",
}


class Unknown(Struct, frozen=True):
    """A name server of this host that doesn't know a name of the mesh."""

    server: str
    program: str
    """dnsmasq, unbound, bind, systemd-resolved, or "another name server"."""
    name: str

    @property
    def mend(self) -> str:
        """Return what makes it know the mesh's names."""
        return f"{_MENDS.get(self.program, 'forward the zones of `hostmesh dns forward bind` there')} (docs/names.md)"

    def __str__(self) -> str:
        return f"{self.program} at {self.server} answers this host's programs and does not know {self.name}"


def local_server(resolv_conf: Path = RESOLV_CONF) -> str:
    """Return the name server that programs ask first if it is on this host, "" if it is not."""
    try:
        lines = [line.split() for line in resolv_conf.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    first = next((words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"), "127.0.0.1")
    try:
        return first if ip_address(first).is_loopback else ""
    except ValueError:
        return ""


def knows(server: str, hosts: str) -> bool | Unknown:
    """Tell whether that server knows the names of a hosts file; False: it does not answer, or there are none.

    One name is asked for: the fully qualified one of the first service.
    """
    for line in hosts.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        name = next((name for name in names if name.endswith(CLUSTER)), None)
        if name is None or ":" in address:
            continue
        answered = _ask(server, name, _A, _INTERNET)
        if answered is None:
            return False
        return IPv4Address(address).packed in answered or Unknown(server, _program(server), name)
    return False


def _program(server: str) -> str:
    """Return which program it is, as it says itself (the name `version.bind` of the class CHAOS)."""
    if server == RESOLVED_STUB:
        return "systemd-resolved"
    for data in _ask(server, "version.bind", _TXT, _CHAOS) or ():
        text = data[1:].decode("ascii", "replace")
        if found := re.match(r"dnsmasq|unbound", text):
            return found[0]
        if re.match(r"9\.\d+\.", text):
            return "bind"
    return "another name server"


def _ask(server: str, name: str, kind: int, scope: int) -> list[bytes] | None:
    """Return the data of the answers of that type, or None if there is no answer in time."""
    number = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b"."))
    question = struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, scope)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_SECONDS)
        try:
            client.connect((server, DNS_PORT))
            client.send(question)
            reply = client.recv(4096)
            return _answers(reply, kind) if reply[:2] == question[:2] else None
        except (OSError, struct.error, IndexError):
            return None


def _answers(reply: bytes, kind: int) -> list[bytes]:
    """Return the data of the records of that type; raises IndexError and struct.error if the reply is cut short."""
    (count,) = struct.unpack_from(">H", reply, 6)
    at, found = _after_name(reply, 12) + 4, []
    for _ in range(count):
        at = _after_name(reply, at)
        answered, _, _, size = struct.unpack_from(">2HIH", reply, at)
        if answered == kind:
            found.append(reply[at + 10 : at + 10 + size])
        at += 10 + size
    return found


def _after_name(reply: bytes, at: int) -> int:
    while reply[at]:
        if reply[at] >= 0xC0:
            return at + 2
        at += reply[at] + 1
    return at + 1
