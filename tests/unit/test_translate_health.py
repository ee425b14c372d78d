"""Who gets traffic: what Consul's checks mean, and active checks by callers' Envoys."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.type.v3 import http_pb2
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from agent.adapters.consul.active_check import read, written
from agent.api.services import read_services
from agent.errors import ConfigError
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE
from agent.mesh.service import ActiveCheck, CheckKind, Health, Port, Protocol, Service
from agent.mesh.settings import MeshSettings, WarningInstances
from agent.mesh.snapshot import MeshSnapshot
from agent.translate.plan import Planner
from tests.unit.mesh_samples import OPTIONS, key, mesh, service, workload

WHOLE = "outbound|9080||reviews.service.consul"


def sample(health: Health, warning: WarningInstances) -> MeshSnapshot:
    """Return a mesh in which the first of three reviews is in that state."""
    reviews = service("reviews")
    first, *others = reviews.instances
    changed = Service.from_instances(key("reviews"), [structs.replace(first, health=health), *others])
    snapshot = mesh([changed, service("page")], workloads=(workload("page"),))
    return structs.replace(snapshot, settings=MeshSettings(warning_instances=warning))


@pytest.mark.parametrize(
    ("health", "warning", "served"),
    [
        (Health.PASSING, "drain", True),
        (Health.WARNING, "serve", True),
        (Health.WARNING, "drain", False),
        (Health.CRITICAL, "serve", False),
    ],
)
def test_which_instances_get_traffic(health: Health, warning: str, served: bool) -> None:
    snapshot = sample(health, WarningInstances(warning))
    endpoints = Planner().plan(snapshot, OPTIONS).resources.of(ENDPOINT_TYPE)[WHOLE].value
    assert (b"10.0.0.1" in endpoints) is served
    assert b"10.0.0.2" in endpoints


CHECK = ActiveCheck(CheckKind.HTTP, "/healthz", 9080, 0.5, 0.25, 2)
WEB, ADMIN = Port(9080, "http", Protocol.HTTP), Port(9090, "grpc", Protocol.GRPC)


def checked(check: ActiveCheck) -> tuple[Any, Any]:
    """Return (cluster, endpoints) of the port 9090 of a service with ports 9080 and 9090."""
    reviews = Service.from_instances(
        key("reviews"),
        [structs.replace(each, ports=(WEB, ADMIN), active_check=check) for each in service("reviews").instances],
    )
    resources = Planner().plan(mesh([reviews], workloads=(workload("page"),)), OPTIONS).resources
    name = WHOLE.replace("9080", "9090")
    return (
        cluster_pb2.Cluster.FromString(resources.of(CLUSTER_TYPE)[name].value),
        endpoint_pb2.ClusterLoadAssignment.FromString(resources.of(ENDPOINT_TYPE)[name].value),
    )


def test_every_cluster_of_a_service_looks_at_the_one_port() -> None:
    cluster, endpoints = checked(CHECK)
    (message,) = cluster.health_checks
    assert (message.interval.nanos, message.timeout.nanos, message.unhealthy_threshold.value) == (5e8, 25e7, 2)
    assert (message.http_health_check.path, message.http_health_check.host) == ("/healthz", "reviews.service.consul")
    assert message.http_health_check.codec_client_type == http_pb2.HTTP1
    assert cluster.ignore_health_on_host_removal
    assert cluster.common_lb_config.HasField("healthy_panic_threshold")
    ports = {e.endpoint.health_check_config.port_value for each in endpoints.endpoints for e in each.lb_endpoints}
    assert ports == {9080}


def test_a_grpc_check_and_none() -> None:
    cluster, endpoints = checked(ActiveCheck(CheckKind.GRPC, "shop.Cart", 9090))
    assert cluster.health_checks[0].grpc_health_check.service_name == "shop.Cart"
    assert not endpoints.endpoints[0].lb_endpoints[0].endpoint.HasField("health_check_config")
    cluster, _ = checked(ActiveCheck())
    assert not cluster.health_checks
    assert not cluster.ignore_health_on_host_removal


@given(
    st.builds(
        ActiveCheck,
        st.sampled_from([CheckKind.HTTP]),
        st.from_regex(r"/[!-~]{0,255}", fullmatch=True),
        st.integers(1, 65535),
        st.floats(0.1, 3600),
        st.floats(0.001, 3600),
        st.integers(1, 100),
    )
    | st.builds(ActiveCheck, st.just(CheckKind.GRPC), st.from_regex(r"[ -~]{0,128}", fullmatch=True), st.just(7))
    | st.just(ActiveCheck(CheckKind.TCP, "", 7))
)
def test_what_is_written_into_the_catalog_is_read_back(check: ActiveCheck) -> None:
    assert read(written(check), 1) == check


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "{}", '{"http": "x"}', '{"http": "/", "tcp": true}', '{"http": "/", "interval": 0}', '{"port": 1}'],
)
def test_a_check_of_the_catalog_that_cannot_be_read(text: str) -> None:
    assert "hostmesh-active-check" in str(read(text, 1))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{http: /healthz}", ActiveCheck(CheckKind.HTTP, "/healthz", 9080)),
        ("{grpc: '', port: 9090, interval: 250ms}", ActiveCheck(CheckKind.GRPC, "", 9090, 0.25)),
        ("{tcp: true, timeout: 2s, failures: 3}", ActiveCheck(CheckKind.TCP, "", 9080, 1.0, 2.0, 3)),
        ("{grpc: ''}", "activeCheck: port 9080 speaks http: a gRPC check needs one that speaks grpc or http2"),
        ("{tcp: true, http: /}", "activeCheck: give one of"),
        ("{}", "activeCheck: give one of"),
        ("{http: healthz}", "activeCheck.http:"),
        ("{http: /, port: 1}", "activeCheck: 1 is none of its ports (9080, 9090)"),
        ("{http: /, interval: 10ms}", "activeCheck.interval: 10ms is too short"),
    ],
)
def test_services_d(written: str, expected: ActiveCheck | str) -> None:
    text = f"{{name: a, ports: [{{name: http, port: 9080}}, {{name: grpc, port: 9090}}], activeCheck: {written}}}"
    if isinstance(expected, ActiveCheck):
        assert read_services(text, "f.yaml", "10.0.0.1")[0].active_check == expected
    else:
        with pytest.raises(ConfigError) as refused:
            read_services(text, "f.yaml", "10.0.0.1")
        assert expected in str(refused.value)
