"""What ports speak: how it is declared, and what Envoys in front of workloads make of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from msgspec import structs

from agent.adapters.consul.decode import decode_instances
from agent.cli.ports import parse_ports
from agent.errors import UserError
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE
from agent.mesh.service import Port, Protocol
from agent.mesh.settings import MtlsMode
from agent.translate.plan import Planner
from tests.unit.mesh_samples import HTTP, OPTIONS, mesh, service, workload

AUTO = Port(7000, "auto", Protocol.AUTO)
WEB = Port(7001, "grpc-web", Protocol.GRPC_WEB)


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("http", "http"),
        ("http-web", "http"),
        ("http2-x", "http2"),
        ("HTTP", "http"),
        ("grpc", "grpc"),
        ("grpc-api", "grpc"),
        ("grpc-web", "grpc-web"),
        ("grpc-web-x", "grpc-web"),
        ("https-x", "https"),
        ("tls", "tls"),
        ("mongo-1", "mongo"),
        ("mysql", "mysql"),
        ("redis-a", "redis"),
        ("auto", "auto"),
        ("auto-x", "auto"),
        ("", "tcp"),
        ("httpx", "tcp"),
        ("postgres", "tcp"),
    ],
)
def test_a_name_says_the_protocol(name: str, protocol: str) -> None:
    assert Protocol.from_name(name) == protocol


def entry(port: int, **meta: str) -> bytes:
    found = {
        "Node": {"Node": "n", "Address": "10.0.0.1"},
        "Service": {"ID": "a-1", "Port": port, "Meta": {key.replace("_", "-"): value for key, value in meta.items()}},
        "Checks": [],
    }
    return json.dumps([found]).encode()


def test_udp_ports_of_the_catalog_are_left_out_and_told() -> None:
    decoded = decode_instances("a", entry(80, port_http="80/http", port_dns="53/udp"))
    assert [port.number for port in decoded.instances[0].ports] == [80]
    (fault,) = decoded.faults
    assert (fault.subject, "port 53: udp cannot go through the mesh" in fault.reason) == ("service a", True)
    only = decode_instances("a", entry(53, protocol="udp"))
    assert only.instances == ()
    assert "port 53: udp" in only.faults[0].reason
    assert decode_instances("a", entry(80, protocol="spdy")).instances[0].ports[0].protocol is Protocol.TCP


@pytest.mark.parametrize("argument", ["udp:53", "udp-dns:53"])
def test_register_refuses_udp(argument: str) -> None:
    with pytest.raises(UserError, match="udp cannot go through the mesh"):
        parse_ports([argument])


def inbound(mode: MtlsMode, *ports: Port) -> Any:
    services = [service("page", port=port) for port in ports[:1]]
    snapshot = mesh(services, workloads=(workload("page", *ports),))
    snapshot = structs.replace(snapshot, settings=structs.replace(snapshot.settings, mtls=mode))
    desired = Planner().plan(snapshot, OPTIONS)
    assert desired.resources.dangling() == []
    return listener_pb2.Listener.FromString(desired.resources.of(LISTENER_TYPE)["virtualInbound"].value)


def chains(listener: Any) -> dict[str, tuple[str, list[str], str]]:
    """Return what each chain of the port 7000 is for, and its last filter."""
    return {
        chain.name.removeprefix("inbound|7000||"): (
            chain.filter_chain_match.transport_protocol,
            list(chain.filter_chain_match.application_protocols),
            chain.filters[-1].name.rsplit(".", 1)[-1],
        )
        for chain in listener.filter_chains
        if chain.filter_chain_match.destination_port.value == 7000
    }


HCM, TCP = "http_connection_manager", "tcp_proxy"
FOUND = ["http/1.0", "http/1.1", "h2c"]


@pytest.mark.parametrize(
    ("mode", "expected", "seconds"),
    [
        (MtlsMode.STRICT, {"mtls-http": ("", ["hostmesh-http"], HCM), "mtls": ("", [], TCP)}, 5.0),
        (
            MtlsMode.PERMISSIVE,
            {
                "mtls-http": ("", ["hostmesh-http"], HCM),
                "mtls": ("", ["hostmesh"], TCP),
                "plain": ("", [], TCP),
                "plain-http": ("raw_buffer", FOUND, HCM),
                "plain-other": ("raw_buffer", [], TCP),
            },
            0.1,
        ),
        (
            MtlsMode.DISABLED,
            {
                "plain": ("", [], TCP),
                "plain-http": ("raw_buffer", FOUND, HCM),
                "plain-other": ("raw_buffer", [], TCP),
            },
            0.1,
        ),
    ],
)
def test_a_workload_whose_protocol_is_found_out(mode: MtlsMode, expected: dict[str, Any], seconds: float) -> None:
    listener = inbound(mode, AUTO)
    assert chains(listener) == expected
    wait = listener.listener_filters_timeout
    assert wait.seconds + wait.nanos / 1e9 == pytest.approx(seconds)
    assert listener.continue_on_listener_filters_timeout


def test_other_ports_of_the_host_are_not_looked_at_for_it() -> None:
    for mode, inspector in ((MtlsMode.STRICT, "tls_inspector"), (MtlsMode.DISABLED, "http_inspector")):
        listener = inbound(mode, AUTO, HTTP)
        (found,) = (each for each in listener.listener_filters if each.name.endswith(inspector))
        looked_at = found.filter_disabled.not_match.destination_port_range
        assert (looked_at.start, looked_at.end) == (7000, 7001)
        assert not any("inspector" in each.name for each in inbound(mode, HTTP).listener_filters)


def test_grpc_web_becomes_grpc_in_front_of_the_workload() -> None:
    desired = Planner().plan(mesh([service("page", port=WEB)], workloads=(workload("page", WEB),)), OPTIONS)
    listener = listener_pb2.Listener.FromString(desired.resources.of(LISTENER_TYPE)["virtualInbound"].value)
    for chain in listener.filter_chains:
        manager = http_connection_manager_pb2.HttpConnectionManager()
        assert chain.filters[0].typed_config.Unpack(manager)
        assert [each.name for each in manager.http_filters] == [
            "envoy.filters.http.grpc_web",
            "envoy.filters.http.router",
        ]
    for name in ("inbound|7001||", "outbound|7001||page.service.consul"):
        cluster = cluster_pb2.Cluster.FromString(desired.resources.of(CLUSTER_TYPE)[name].value)
        options = http_protocol_options_pb2.HttpProtocolOptions()
        (packed,) = cluster.typed_extension_protocol_options.values()
        assert packed.Unpack(options)
        assert options.explicit_http_config.HasField("http2_protocol_options")
