"""Whether a lab may come up on this machine: questions before anything is changed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Collection
from pathlib import Path

from agent.errors import HostError, UserError
from agent.lab.programs import SEARCH_PATH

_XDS_SOCKET = Path("/run/hostmesh/xds.sock")
_AGENT_YAML = Path("/etc/hostmesh/agent.yaml")
_CERTIFICATES = Path("/var/lib/hostmesh/certificates")


def require_root() -> None:
    """Raise UserError unless this is root: namespaces need it."""
    if os.geteuid() != 0:
        raise UserError("lab: needs root (network namespaces, iptables): run it with sudo")


def require_not_enrolled() -> None:
    """Raise UserError on a host that is itself part of a mesh: the operator would mix up the two."""
    reason = _enrolled_by()
    if reason:
        raise UserError(f"lab: this host is itself enrolled in a mesh ({reason}); use another machine for the lab")


def require_free_ports(ports: Collection[tuple[int, str]]) -> None:
    """Raise UserError if one of the ports (with the option that sets it) is in use on the loopback address."""
    for port, option in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise UserError(
                    f"lab: 127.0.0.1:{port}: {error.strerror}; choose another port with {option}"
                ) from error


def _enrolled_by() -> str:
    if _accepts(_XDS_SOCKET):
        return f"{_XDS_SOCKET} is served"
    if _AGENT_YAML.exists() and (pid := _agent_pid()):
        return f"{_AGENT_YAML} is there and hostmesh-agent runs as pid {pid}"
    if _CERTIFICATES.is_dir() and any(_CERTIFICATES.iterdir()):
        return f"it has certificates in {_CERTIFICATES}"
    if "HOSTMESH_" in _rules():
        return "iptables has HOSTMESH chains"
    return ""


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _agent_pid() -> int | None:
    """Return the pid of a hostmesh-agent in our own network namespace (a lab's agents are in others)."""
    own = os.stat("/proc/self/ns/net").st_ino
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")[:3]
            inode = os.stat(f"/proc/{entry}/ns/net").st_ino
        except OSError:  # ended meanwhile
            continue
        if inode == own and any(word.endswith(b"/hostmesh-agent") for word in words):
            return int(entry)
    return None


def _rules() -> str:
    """Return the live rules of both families (`iptables-save` lists what is there and makes nothing)."""
    text = ""
    for name in ("iptables-save", "ip6tables-save"):
        program = shutil.which(name, path=SEARCH_PATH)
        if program is None:
            continue
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostError(f"lab: `{name}` failed: {' '.join(done.stderr.split())}")
        text += done.stdout
    return text
