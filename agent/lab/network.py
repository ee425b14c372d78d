"""The lab's network: a namespace with a bridge, and one for each host with a cable to it.

Every link is made inside the lab's namespaces, so nothing ever appears in the default one.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from pathlib import Path

from agent.errors import HostError
from agent.lab.plan import LabPlan

NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def create_network(plan: LabPlan) -> None:
    """Make the namespaces, the bridge and the cables; raises HostError."""
    for namespace in plan.namespaces:
        _ip("netns", "add", namespace)
    bridge = ["link set lo up", "link add br0 type bridge", "link set br0 up"]
    for number, host in enumerate(plan.hosts):
        port = f"port{number}"
        bridge.append(f"link add {port} type veth peer name eth0 netns {plan.namespace(host.name)}")
        bridge.append(f"link set {port} master br0 up")
    _ip_batch(plan.name, bridge)
    length = plan.subnet.partition("/")[2]
    for host in plan.hosts:
        address = f"addr add {plan.address(host.name)}/{length} dev eth0"
        _ip_batch(plan.namespace(host.name), ["link set lo up", address, "link set eth0 up"])


def inode_of(namespace: str) -> int | None:
    """Return the namespace's inode number, which its processes' /proc/PID/ns/net have too; None if there is none."""
    try:
        status = os.stat(NAMESPACES / namespace)
    except FileNotFoundError:
        return None
    # A name whose mount is gone (the machine lost power between two steps) is a plain file on /run.
    return None if status.st_dev == os.stat(NAMESPACES).st_dev else status.st_ino


def exists(namespace: str) -> bool:
    """Tell whether the name is taken."""
    return (NAMESPACES / namespace).exists()


def delete_namespace(namespace: str) -> None:
    """Remove a network namespace's name; nothing if there is none. Raises HostError."""
    if exists(namespace):
        _ip("netns", "delete", namespace)


def enter(namespace: Path) -> None:
    """Move the calling thread (and what it starts later) into a network namespace; raises HostError."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns is Python 3.12's
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"{namespace}: cannot be opened: {error.strerror}") from error
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise HostError(f"{namespace}: cannot be entered: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def connect(namespace: str, address: tuple[str, int], timeout: float) -> socket.socket:
    """Return a connection made inside a namespace (a socket stays where it was made); raises OSError."""
    result: list[socket.socket | BaseException] = []

    def run() -> None:
        try:
            enter(NAMESPACES / namespace)
            result.append(socket.create_connection(address, timeout))
        except (OSError, HostError) as error:
            result.append(error)

    thread = threading.Thread(target=run)  # a namespace is a property of a thread; this one ends with the call
    thread.start()
    thread.join()
    if isinstance(result[0], HostError):
        raise ConnectionError(str(result[0]))
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments], None)


def _ip_batch(namespace: str, commands: list[str]) -> None:
    _run(["ip", "-n", namespace, "-batch", "-"], "".join(f"{command}\n" for command in commands))


def _run(argv: list[str], stdin: str | None) -> None:
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit {done.returncode}"
        raise HostError(f"lab: `{' '.join(argv)}` failed: {reason}")
