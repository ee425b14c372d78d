"""What ports accept: which of several that say it counts; how it stands in services.d and in Consul's catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from agent.adapters.consul.decode import decode_instances
from agent.adapters.consul.meta import registration
from agent.api.services import read_services
from agent.errors import ConfigError
from agent.mesh.authentication import PeerAuthentication, PeerModes
from agent.mesh.names import ENDPOINT_TYPE
from agent.mesh.routes import ObjectRef
from agent.mesh.security import SecurityRules
from agent.mesh.service import (
    Labels,
    MtlsMode,
    Port,
    PortModes,
    Protocol,
    Service,
    ServiceKey,
    annotated_modes,
    labels_of,
)
from agent.mesh.settings import MeshSettings
from agent.translate.plan import Planner
from tests.unit.mesh_samples import HTTP, OPTIONS, mesh, service, workload

STRICT, PERMISSIVE, DISABLED = MtlsMode.STRICT, MtlsMode.PERMISSIVE, MtlsMode.DISABLED
LABELS = (("app", "reviews"), ("version", "v1"))


def said(
    name: str, namespace: str, mode: MtlsMode | None, app: str = "", **ports: MtlsMode | None
) -> PeerAuthentication:
    selector = (("app", app),) if app else ()
    by_port = tuple((int(port.removeprefix("p")), value) for port, value in ports.items())
    return PeerAuthentication(ObjectRef("PeerAuthentication", namespace, name), selector, mode, by_port)


MESH, SHOP = said("a", "istio-system", STRICT), said("b", "shop", DISABLED)
UNSET = said("c", "shop", None)
REVIEWS = said("d", "shop", PERMISSIVE, "reviews", p80=STRICT, p81=None)


@pytest.mark.parametrize(
    ("rules", "port", "own", "expected"),
    [
        ((), 80, (), PERMISSIVE),
        ((), 80, ((80, DISABLED),), DISABLED),
        ((MESH,), 80, (), STRICT),
        ((MESH,), 80, ((81, DISABLED),), STRICT),
        ((MESH,), 80, ((80, DISABLED),), DISABLED),
        ((MESH, SHOP), 80, (), DISABLED),
        ((MESH, UNSET), 80, (), STRICT),
        ((MESH, SHOP, REVIEWS), 80, ((80, DISABLED),), STRICT),
        ((MESH, SHOP, REVIEWS), 81, (), PERMISSIVE),
        ((MESH, SHOP, REVIEWS), 81, ((81, DISABLED),), DISABLED),
        ((MESH, said("x", "shop", DISABLED, "other"), said("y", "istio-system", DISABLED, "reviews")), 80, (), STRICT),
        ((said("x", "other", DISABLED), said("y", "other", DISABLED, "reviews")), 80, (), PERMISSIVE),
        ((said("a", "shop", DISABLED), said("b", "shop", STRICT)), 80, (), DISABLED),
    ],
)
def test_the_narrowest_counts(
    rules: tuple[PeerAuthentication, ...], port: int, own: PortModes, expected: MtlsMode
) -> None:
    assert PeerModes(authentications=rules).mode("shop", LABELS, port, own) is expected


def test_what_has_no_effect_is_told() -> None:
    rules = (said("x", "istio-system", STRICT, "reviews"), SHOP, UNSET)
    assert [str(fault.subject) for fault in PeerModes(authentications=rules).faults] == [
        "PeerAuthentication/x.istio-system",
        "PeerAuthentication/c.shop",
    ]


@pytest.mark.parametrize("name", ["ratings", "ratings.service.consul", "ratings.default.svc.cluster.local"])
def test_excluded_services(name: str) -> None:
    modes = PeerModes.of(MeshSettings(mtls_excluded_services=(name,)), ())
    assert modes.excludes(ServiceKey("default", "ratings"))
    assert not modes.excludes(ServiceKey("shop", "ratings"))


def test_annotations_go_through_consul() -> None:
    service = "name: reviews\nport: 9080\nannotations: {auth.istio.io/9080: NONE, auth.istio.io/9081: MUTUAL_TLS}\n"
    (workload,) = read_services(service, "x.yaml", "10.0.0.1")
    assert workload.port_modes == ((9080, DISABLED), (9081, STRICT))
    ports = [Port(9080, "http", Protocol.HTTP)]
    meta = dict(registration(workload.service, ports, (), "default", port_modes=workload.port_modes).meta)
    assert all(key.replace("-", "").isalnum() for key in meta), "Consul takes no other letters"
    meta["hostmesh-auth-70000"], meta["hostmesh-auth-80"] = "NONE", "sometimes"
    entry = {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"ID": "i", "Port": 9080, "Meta": meta}}
    decoded = decode_instances("reviews", json.dumps([entry]).encode())
    assert decoded.instances[0].port_modes == workload.port_modes
    assert decoded.instances[0].labels == ()
    assert [fault.reason.partition(": ")[2][:20] for fault in decoded.faults] == [
        "auth.istio.io/70000:",
        "auth.istio.io/80: 's",
    ]


@pytest.mark.parametrize("annotations", ["{auth.istio.io/x: NONE}", "{auth.istio.io/80: none}", "{other: x}", "[a]"])
def test_wrong_annotations_are_refused(annotations: str) -> None:
    with pytest.raises(ConfigError):
        read_services(f"name: reviews\nport: 9080\nannotations: {annotations}\n", "x.yaml", "10.0.0.1")
    assert annotated_modes({"auth.istio.io/x": "NONE", "auth.istio.io/1": "PERMISSIVE"}) == ()


SELECTORS = st.sampled_from(((), (("app", "a"),), (("version", "v1"),), (("app", "a"), ("version", "v2"))))
AUTHENTICATIONS = st.lists(
    st.tuples(st.sampled_from(("default", "shop", "istio-system")), SELECTORS, st.sampled_from((STRICT, DISABLED))),
    max_size=6,
)


@given(AUTHENTICATIONS)
def test_callers_do_what_all_the_rules_together_say(said: list[tuple[str, Labels, MtlsMode]]) -> None:
    rules = tuple(
        PeerAuthentication(ObjectRef("PeerAuthentication", namespace, f"r{number}"), selector, mode)
        for number, (namespace, selector, mode) in enumerate(sorted(said, key=lambda one: one[0]))
    )
    places = [("default", "a"), ("default", "b"), ("shop", "a"), ("istio-system", "a")]
    members = [
        structs.replace(
            one, address=f"10.0.{number}.{one.address[-1]}", labels=labels_of({"app": app, **dict(one.labels)})
        )
        for number, (namespace, app) in enumerate(places)
        for one in service(app, 2, namespace=namespace).instances
    ]
    by_key = {one.service: [each for each in members if each.service == one.service] for one in members}
    services = [Service.from_instances(own, made) for own, made in by_key.items()]
    snapshot = structs.replace(mesh(services, workloads=(workload("own"),)), security=SecurityRules(rules))
    endpoints = Planner().plan(snapshot, OPTIONS).resources.of(ENDPOINT_TYPE)
    modes = PeerModes.of(snapshot.settings, rules)
    expected = {(one.address, modes.takes_tls(one, HTTP.number)) for one in members}
    assert {found for resource in endpoints.values() for found in _called(resource.value)} == expected


def _called(value: bytes) -> Iterator[tuple[str, bool]]:
    """Yield the addresses of endpoints, and whether they are called by mutual TLS."""
    for locality in endpoint_pb2.ClusterLoadAssignment.FromString(value).endpoints:
        for one in locality.lb_endpoints:
            yield one.endpoint.address.socket_address.address, bool(one.metadata.filter_metadata)
