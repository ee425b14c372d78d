"""Network namespaces for tests: hosts on one bridge, made and removed by the test; the machine's own stays untouched.

`with lan("a", "b") as hosts:` gives two hosts that reach each other; the bridge is in a namespace of its own. Not for
anything but tests (`agent/lab` has its own).
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.programs import TOOLS

TOOL_PATH = os.pathsep.join([str(TOOLS), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


@dataclass(frozen=True)
class Host:
    """One namespace with an address on the bridge."""

    netns: str
    v4: str
    v6: str

    def argv(self, argv: Sequence[str | Path], uid: int | None = None) -> list[str]:
        """Return the command line that runs argv in this namespace, as another user if uid is given."""
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid is not None else []
        return ["ip", "netns", "exec", self.netns, *user, *map(str, argv)]

    def run(
        self,
        *argv: str | Path,
        uid: int | None = None,
        check: bool = True,
        stdin: str | None = None,
        timeout: float = 20.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return it with its output as text; raises CalledProcessError if check."""
        done = subprocess.run(
            self.argv(argv, uid),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment(),
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {done.stderr}{done.stdout}")
        return done

    @contextmanager
    def running(self, *argv: str | Path, uid: int | None = None, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in the background; its whole process group is ended at the end of the block."""
        process = subprocess.Popen(self.argv(argv, uid), env=environment(), start_new_session=True, **options)
        try:
            yield process
        finally:
            end(process)


def environment() -> dict[str, str]:
    """Return the environment in which envoy, consul, iptables and dnsmasq are found."""
    return {**os.environ, "PATH": TOOL_PATH}


def end(process: subprocess.Popen[Any], seconds: float = 3.0) -> None:
    """End a process that leads its own process group: SIGTERM, after some seconds SIGKILL."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            break
        try:
            process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(seconds)


@contextmanager
def lan(*names: str, default_route: bool = False, subnet: int = 77) -> Iterator[dict[str, Host]]:
    """Make hosts 10.<subnet>.0.1, .2, … (fd00:<subnet>::1, …) on one bridge and remove all at the end, also on failure.

    Names are made unique, so tests may run side by side. With default_route the bridge (.254) is the gateway; it
    forwards nothing.
    """
    tag = uuid.uuid4().hex[:6]
    bridge = f"hmt-{tag}-br"
    hosts = {
        name: Host(f"hmt-{tag}-{name}", f"10.{subnet}.0.{number}", f"fd00:{subnet}::{number}")
        for number, name in enumerate(names, 1)
    }
    try:
        _namespace(bridge)
        _ip(bridge, "link add br0 type bridge")
        _ip(bridge, f"addr add 10.{subnet}.0.254/24 dev br0")
        _ip(bridge, f"addr add fd00:{subnet}::fe/64 dev br0 nodad")
        _ip(bridge, "link set br0 up")
        for number, host in enumerate(hosts.values(), 1):
            _attach(host, bridge, f"p{number}", subnet, default_route)
        yield hosts
    finally:
        for namespace in (*(host.netns for host in hosts.values()), bridge):
            _delete(namespace)


def _namespace(name: str) -> None:
    subprocess.run(["ip", "netns", "add", name], check=True, env=environment())
    _ip(name, "link set lo up")


def _attach(host: Host, bridge: str, port: str, subnet: int, default_route: bool) -> None:
    _namespace(host.netns)
    _ip(bridge, f"link add {port} type veth peer name eth0 netns {host.netns}")
    _ip(bridge, f"link set {port} master br0 up")
    _ip(host.netns, f"addr add {host.v4}/24 dev eth0")
    _ip(host.netns, f"addr add {host.v6}/64 dev eth0 nodad")
    _ip(host.netns, "link set eth0 up")
    if default_route:
        _ip(host.netns, f"route add default via 10.{subnet}.0.254")
        _ip(host.netns, f"-6 route add default via fd00:{subnet}::fe")


def _ip(namespace: str, command: str) -> None:
    subprocess.run(["ip", "-n", namespace, *command.split()], check=True, env=environment())


def _delete(namespace: str) -> None:
    """Kill what still runs in the namespace (it would keep it alive) and delete it; nothing if it does not exist."""
    pids = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, env=environment(), check=False
    )
    for pid in pids.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, env=environment(), check=False)
