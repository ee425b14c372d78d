"""Listeners and clients for interception tests: a listener tells who reached which socket, and for what address."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from agent.adapters.command import SystemRunner
from agent.adapters.netfilter.interception import Interception
from agent.translate.netfilter import CALLERS_V6, NetfilterOptions, NetfilterText, OutboundMode, ruleset
from tests.integration.netns import Host
from tests.waiting import wait_for

PROXY = 1337
USER = 1000
V4 = IPv4Network("240.240.0.0/16")
V6 = IPv6Network("fdf0:240:240::/112")
VIPS = ("240.240.3.7", "fdf0:240:240::7")

PYTHON = (str(Path(sys.base_prefix) / "bin" / "python3"), "-I", "-c")
"""Python that any user can run (the project's own may lie in a private folder)."""

LISTENER = """
import json, socket, struct, sys, threading

def original(connection, family):
    try:
        if family == socket.AF_INET:
            data = connection.getsockopt(socket.IPPROTO_IP, 80, 16)
            address = socket.inet_ntoa(data[4:8])
        else:
            data = connection.getsockopt(socket.IPPROTO_IPV6, 80, 28)
            address = socket.inet_ntop(family, data[8:24])
        return [address, struct.unpack(">H", data[2:4])[0]]
    except OSError:
        return list(connection.getsockname()[:2])

def serve(connection, family, port):
    with connection:
        line = json.dumps({"port": port, "original": original(connection, family), "peer": connection.getpeername()[0]})
        connection.sendall(line.encode() + b"\\n")
        while data := connection.recv(1000):
            connection.sendall(data)

def listen(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((address, port))
        server.listen()
        while True:
            threading.Thread(target=serve, args=(server.accept()[0], family, port), daemon=True).start()

for number in sys.argv[2:]:
    for address in sys.argv[1].split(","):
        threading.Thread(target=listen, args=(address, int(number))).start()
"""

CLIENT = """
import json, socket, sys, time
results = []
for target in sys.argv[1:]:
    address, _, port = target.rpartition("|")
    started = time.monotonic()
    try:
        with socket.create_connection((address, int(port)), timeout=4) as connection:
            result = json.loads(connection.makefile().readline())
    except OSError as error:
        result = {"error": type(error).__name__}
    results.append(result | {"seconds": time.monotonic() - started})
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Reached:
    """What a connection attempt led to."""

    port: int | None
    """The listener's own port; None: not connected."""
    original: tuple[str, int] | None
    peer: str
    """The caller's address as the listener sees it."""
    error: str
    seconds: float

    @property
    def refused(self) -> bool:
        """Tell whether it failed, and at once."""
        return self.error == "ConnectionRefusedError" and self.seconds < 0.5


def connect(host: Host, *targets: tuple[str, int], uid: int = USER) -> list[Reached]:
    """Connect to each address and port from this host as this user, and return what was reached."""
    done = host.run(*PYTHON, CLIENT, *(f"{address}|{port}" for address, port in targets), uid=uid, timeout=30)
    return [
        Reached(
            result.get("port"),
            (result["original"][0], result["original"][1]) if "original" in result else None,
            result.get("peer", ""),
            result.get("error", ""),
            result["seconds"],
        )
        for result in json.loads(done.stdout)
    ]


@contextmanager
def listening(host: Host, loopback: tuple[int, ...] = (), everywhere: tuple[int, ...] = ()) -> Iterator[None]:
    """Listen on these ports, IPv4 and IPv6, on loopback or on all addresses."""
    with ExitStack() as stack:
        for addresses, ports in (("127.0.0.1,::1", loopback), ("0.0.0.0,::", everywhere)):
            if ports:
                stack.enter_context(host.running(*PYTHON, LISTENER, addresses, *map(str, ports)))
        wanted = 2 * (len(loopback) + len(everywhere))
        wait_for(lambda: len(host.run("ss", "-Hltn").stdout.splitlines()) >= wanted)
        yield


def rules(inbound: tuple[int, ...] = (), outbound: OutboundMode = OutboundMode.MESH, **more: Any) -> NetfilterText:
    """Return the text for a host whose proxy is user 1337."""
    return ruleset(NetfilterOptions(PROXY, V4, V6, inbound, outbound, **more))


def interception(host: Host, *prefix: str) -> Interception:
    """Return the adapter, working in this host's namespace (through a further command, if one is given)."""
    return Interception(SystemRunner((*host.argv(()), *prefix)), (V4, V6, CALLERS_V6))
