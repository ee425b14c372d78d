"""The CA's metrics port is for IPv4 and IPv6 alike."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest

from node_ca.metrics import Metrics, MetricsPort


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_every_address_means_both_families() -> None:
    port = MetricsPort(Metrics())
    await port.start("::", 0)
    try:
        for host in ("127.0.0.1", "[::1]"):
            url = f"http://{host}:{port.port}/healthz"
            with await asyncio.to_thread(urllib.request.urlopen, url, timeout=10) as answer:
                assert answer.read() == b"ok\n"
                assert answer.headers["Date"], "hostmesh doctor compares clocks by it"
    finally:
        await port.stop()
