"""The table of proxies, from status documents alone."""

from __future__ import annotations

from msgspec.structs import replace

from agent.cli.proxy_status import life, merge, status_table
from agent.mesh.routes import Fault
from agent.mesh.status import CertificateStatus, NodeStatus, ProxyStatus, ScopeStatus

NOW = 1_000_000.0


PROXY = ProxyStatus(connected=True, version="1.40.0", config_revision=12, acked_revision=12)


def node(name: str, proxy: ProxyStatus = PROXY, faults: tuple[Fault, ...] = (), life: float = 3700.0) -> NodeStatus:
    certificate = CertificateStatus("spiffe://cluster.local/ns/default/sa/x", "1", NOW + life)
    return NodeStatus(
        name, agent_version="0.1.0", updated_at=NOW, proxy=proxy, certificates=(certificate,), faults=faults
    )


def test_the_table() -> None:
    refused = (Fault("listener 0.0.0.0_9080", "bad\nfield"),)
    statuses = [
        node("a"),
        node("b", replace(PROXY, acked_revision=9)),
        node("c", replace(PROXY, nacks=refused), (Fault("RouteRule/x.default", "unknown host"),)),
        node("d", replace(PROXY, connected=False, last_exit="signal 9"), life=-1.0),
    ]
    assert status_table(statuses, NOW) == (
        "NODE  PROXY          REVISION   ENVOY   CERTIFICATE  FAULTS\n"
        "a     SYNCED         12         1.40.0  1h1m         -\n"
        "b     SENT           9 (of 12)  1.40.0  1h1m         -\n"
        "c     NACK           12         1.40.0  1h1m         listener 0.0.0.0_9080: bad field\n"
        "                                                     RouteRule/x.default: unknown host\n"
        "d     NOT CONNECTED  -          1.40.0  EXPIRED      Envoy ended: signal 9"
    )


def test_scopes_are_shown_where_there_are_any() -> None:
    limited = replace(
        node("b", faults=(Fault("x", "one"), Fault("x", "two"))), scope=ScopeStatus("Sidecar/s.shop", 3, 12)
    )
    assert status_table([node("a"), limited], NOW) == (
        "NODE  PROXY   REVISION  ENVOY   CERTIFICATE  SCOPE             FAULTS\n"
        "a     SYNCED  12        1.40.0  1h1m         all               -\n"
        "b     SYNCED  12        1.40.0  1h1m         3 of 12 (s.shop)  x: one\n"
        "                                                               x: two"
    )


def test_a_node_with_proxied_instances_and_no_status_is_not_connected() -> None:
    merged = merge([node("b")], {"a": "10.0.0.1", "b": "10.0.0.2"})
    assert [(status.node, status.state) for status in merged] == [("a", "NOT CONNECTED"), ("b", "SYNCED")]
    assert "its agent reports nothing" in status_table(merged, NOW)


def test_the_life_of_a_certificate() -> None:
    assert [life(seconds) for seconds in (0.4, 59, 60, 3661, 90_000, 172_800)] == [
        "0s",
        "59s",
        "1m",
        "1h1m",
        "1d1h",
        "2d",
    ]
