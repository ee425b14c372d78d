"""The outside of a lab for tests: servers that the mesh knows nothing of, and what an application gets from them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.lab.host import Host
from agent.lab.lab import Lab
from tests.integration.meshlab import APP_UID, forget_rules, hostmesh
from tests.mesh_certificates import TestAuthority
from tests.waiting import wait_for

HERE = Path(__file__).parent
SUBNET, OUTSIDE = "10.78.31.0/24", "10.78.31.13"
GREETING = "hello from outside"
SECOND = "10.78.31.113"
"""Another address of the outside: nothing is known of it but by rules."""
NAMES = ("outside.example", "wild.example", "other.example", "stranger.example")
"""What the outside's DNS server knows; the stranger has no certificate of its own."""


def start_outside(host: Host, certificates: Path) -> None:
    """Start what the mesh knows nothing of: a web server, a server that speaks first, a DNS server for both."""
    authority = TestAuthority()
    for name in ("outside.example", "*.wild.example", "other.example"):
        authority.write_for_host(certificates / name, name)
    assert host.address == OUTSIDE
    host.exec("ip", "address", "add", f"{SECOND}/24", "dev", "eth0")
    host.start("web", (sys.executable, str(HERE / "outside_server.py"), str(certificates), "0.0.0.0"), 0)
    host.start("greeter", (sys.executable, str(HERE / "greeter.py"), "9080", "outside"), 0)
    names = [f"--address=/{name}/{OUTSIDE}" for name in NAMES]
    dns = ("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root")
    host.start("dns", (*dns, "--pid-file=", "--bind-interfaces", f"--listen-address={OUTSIDE}", *names), 0)


@contextmanager
def rules(lab: Lab, text: str) -> Iterator[None]:
    """Have these rules in force until the block ends; then none are."""
    hostmesh(lab, "apply", "-f", "-", stdin=text)
    try:
        yield
    finally:
        forget_rules(lab)


def call(host: Host, url: str, *options: str, seconds: int = 8) -> tuple[str, Any]:
    """Return status and JSON body of a request that an application makes; 000 if there is no answer."""
    argv = ["curl", "-s", "-m", str(seconds), "-w", "\n%{http_code}", *options, url]
    body, _, status = host.exec(*argv, uid=APP_UID, check=False).stdout.rpartition("\n")
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body


def wait_for_call(host: Host, url: str, status: str, *options: str) -> Any:
    """Return the body of the first answer with that status."""
    found: list[Any] = []

    def answers() -> bool:
        got, body = call(host, url, *options)
        found[:] = [body]
        return got == status

    wait_for(answers, f"{url} answers {status}: {found}")
    return found[0]
