"""plan(): what changes when something changes, what is left out, and that memory never shows in the result."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from msgspec import structs

from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, XDS_ORDER
from agent.mesh.routes import ServicePolicy
from agent.mesh.service import Health, Service
from agent.mesh.settings import MeshSettings, MtlsMode, OutboundTrafficPolicy
from agent.mesh.snapshot import Desired, MeshSnapshot, Resource
from agent.translate.plan import Planner, PlanOptions
from tests.unit.mesh_samples import CERTIFICATE, HTTP, MYSQL, OPTIONS, key, mesh, route, service, workload

REVIEWS, RATINGS, DB = key("reviews"), key("ratings"), key("mysql")


def sample(**options: Any) -> MeshSnapshot:
    """Return three services, two rules, one workload."""
    policies = {
        REVIEWS: ServicePolicy((route(REVIEWS, ("v1", 75), ("v2", 25)),)),
        DB: ServicePolicy(tcp=(route(DB, ("v1", 100)),)),
    }
    services = [service("reviews"), service("ratings"), service("mysql", port=MYSQL)]
    return mesh(services, policies, workloads=(workload("reviews", HTTP, MYSQL),), **options)


def plan(snapshot: MeshSnapshot, options: PlanOptions = OPTIONS) -> Desired:
    desired = Planner().plan(snapshot, options)
    assert desired.resources.dangling() == []
    return desired


def of(desired: Desired, type_url: str) -> dict[str, Resource]:
    return dict(desired.resources.of(type_url))


def flip(snapshot: MeshSnapshot, name: str, index: int, health: Health) -> MeshSnapshot:
    """Return the snapshot with one instance's health changed."""
    old = snapshot.services[key(name)]
    instances = list(old.instances)
    instances[index] = structs.replace(instances[index], health=health)
    services = {**snapshot.services, old.key: Service.from_instances(old.key, instances)}
    return structs.replace(snapshot, services=services)


def changed(before: Desired, after: Desired) -> list[tuple[str, str]]:
    """Return (type, name) of each resource that is another object than before."""
    return [
        (type_url.rsplit(".", 1)[-1], name)
        for type_url in XDS_ORDER
        for name in {*of(before, type_url), *of(after, type_url)}
        if of(before, type_url).get(name) is not of(after, type_url).get(name)
    ]


def test_health_flip_changes_only_the_endpoints_that_hold_the_instance() -> None:
    planner, snapshot = Planner(), sample()
    before = planner.plan(snapshot, OPTIONS)
    after = planner.plan(flip(snapshot, "reviews", 0, Health.CRITICAL), OPTIONS)
    own, subset = "outbound|9080||reviews.service.consul", "outbound|9080|version=v1|reviews.service.consul"
    assert set(changed(before, after)) == {("ClusterLoadAssignment", own), ("ClusterLoadAssignment", subset)}
    back = planner.plan(snapshot, OPTIONS)
    assert {r.version for r in of(back, ENDPOINT_TYPE).values()} == {
        r.version for r in of(before, ENDPOINT_TYPE).values()
    }


def test_flip_between_passing_and_warning_changes_nothing() -> None:
    planner, snapshot = Planner(), sample()
    before = planner.plan(snapshot, OPTIONS)
    assert changed(before, planner.plan(flip(snapshot, "reviews", 1, Health.WARNING), OPTIONS)) == []


def test_equal_snapshots_of_other_objects_give_the_same_resources() -> None:
    planner = Planner()
    assert changed(planner.plan(sample(), OPTIONS), planner.plan(sample(), OPTIONS)) == []


def test_last_critical_instance_leaves_an_empty_endpoint_resource_and_the_cluster_unchanged() -> None:
    planner, snapshot = Planner(), mesh([service("reviews", 1)])
    before = planner.plan(snapshot, OPTIONS)
    after = planner.plan(flip(snapshot, "reviews", 0, Health.CRITICAL), OPTIONS)
    name = "outbound|9080||reviews.service.consul"
    assert changed(before, after) == [("ClusterLoadAssignment", name)]
    assert not endpoint_pb2.ClusterLoadAssignment.FromString(of(after, ENDPOINT_TYPE)[name].value).endpoints


def test_rotation_changes_only_the_secret() -> None:
    planner, snapshot = Planner(), sample()
    before = planner.plan(snapshot, OPTIONS)
    renewed = {identity: structs.replace(CERTIFICATE, chain_pem=b"new") for identity in snapshot.certificates}
    after = planner.plan(structs.replace(snapshot, certificates=renewed), OPTIONS)
    assert [kind for kind, _ in changed(before, after)] == ["Secret"]


def test_result_never_depends_on_what_was_planned_before() -> None:
    dice, planner, snapshot = random.Random(7), Planner(), sample()
    for _ in range(40):
        name = dice.choice(["reviews", "ratings", "mysql"])
        match dice.randrange(5):
            case 0:
                routes = (route(key(name), (dice.choice(["v1", "v2", "v9"]), 100)),)
                policy = ServicePolicy(routes, dice.random() < 0.7, (), routes, routes)
                snapshot = structs.replace(snapshot, policies={**snapshot.policies, key(name): policy})
            case 1:
                mode = dice.choice(list(MtlsMode))
                snapshot = structs.replace(snapshot, settings=MeshSettings(mtls=mode, trust_domain="a.b"))
            case 2:
                services = {k: v for k, v in sample().services.items() if k.name == name or dice.random() < 0.7}
                snapshot = structs.replace(snapshot, services=services)
            case 3:
                certificates = {} if dice.random() < 0.5 else sample().certificates
                snapshot = structs.replace(snapshot, certificates=certificates)
            case _ if key(name) in snapshot.services:
                snapshot = flip(snapshot, name, 0, dice.choice(list(Health)))
        assert planner.plan(snapshot, OPTIONS) == plan(snapshot)


def test_strict_without_a_certificate_never_speaks_plain_text() -> None:
    desired = plan(sample(mtls=MtlsMode.STRICT, certified=False))
    inbound = listener_pb2.Listener.FromString(of(desired, LISTENER_TYPE)["virtualInbound"].value)
    assert [(chain.name, len(chain.filters)) for chain in inbound.filter_chains] == [("closed", 0)]
    assert not inbound.HasField("default_filter_chain")
    for held in of(desired, ENDPOINT_TYPE).values():
        assert not endpoint_pb2.ClusterLoadAssignment.FromString(held.value).endpoints, held.name


def test_permissive_without_a_certificate_speaks_plain_text_meanwhile() -> None:
    desired = plan(sample(certified=False))
    inbound = listener_pb2.Listener.FromString(of(desired, LISTENER_TYPE)["virtualInbound"].value)
    assert {chain.name for chain in inbound.filter_chains} == {"inbound|3306||plain", "inbound|9080||plain"}
    for held in of(desired, CLUSTER_TYPE).values():
        assert not cluster_pb2.Cluster.FromString(held.value).transport_socket_matches
    assert of(desired, SECRET_TYPE) == {}


@pytest.mark.parametrize(
    ("mode", "chains", "seconds"),
    [
        (MtlsMode.STRICT, ["inbound|9080||mtls"], 0.0),
        (MtlsMode.PERMISSIVE, ["inbound|9080||mtls", "inbound|9080||plain"], 5.0),
        (MtlsMode.DISABLED, ["inbound|9080||plain"], 0.0),
    ],
)
def test_inbound_chains_by_mode(mode: MtlsMode, chains: list[str], seconds: float) -> None:
    desired = plan(mesh([service("reviews")], workloads=(workload("reviews"),), mtls=mode))
    inbound = listener_pb2.Listener.FromString(of(desired, LISTENER_TYPE)["virtualInbound"].value)
    assert [chain.name for chain in inbound.filter_chains] == chains
    assert inbound.listener_filters_timeout.ToTimedelta().total_seconds() == seconds
    assert [chain.HasField("transport_socket") for chain in inbound.filter_chains] == [
        c.endswith("mtls") for c in chains
    ]


def test_only_accounts_that_serve_mutual_tls_are_believed() -> None:
    """Of an instance that is not proxied nobody can say who it is: its account must not open a door."""
    mixed = service("reviews", 2)
    instances = (
        structs.replace(mixed.instances[0], service_account="bookinfo-reviews"),
        structs.replace(mixed.instances[1], service_account="default", proxied=False),
    )
    desired = plan(mesh([Service(mixed.key, mixed.ports, instances)], workloads=(workload("x"),)))
    value = of(desired, CLUSTER_TYPE)["outbound|9080||reviews.service.consul"].value
    assert b"spiffe://cluster.local/ns/default/sa/bookinfo-reviews" in value
    sockets = cluster_pb2.Cluster.FromString(value).transport_socket_matches[0].transport_socket.typed_config.value
    # Once: as the client's own certificate.
    assert sockets.count(b"spiffe://cluster.local/ns/default/sa/default") == 1


def test_what_cannot_be_had_is_left_out_and_named() -> None:
    odd = service("odd", 2)
    named = Service(odd.key, odd.ports, (structs.replace(odd.instances[0], address="db.example"), odd.instances[1]))
    policies = {
        REVIEWS: ServicePolicy(
            (route(key("gone"), name="to-gone"), route(REVIEWS, ("v1", 100), port=1, name="to-port"))
        ),
    }
    desired = plan(mesh([service("reviews"), named], policies, workloads=(workload("a"), workload("b"))))
    reasons = {fault.subject: fault.reason for fault in desired.faults}
    assert "no service gone.default" in reasons["RouteRule/to-gone.default"]
    assert "has no port 1 (it has 9080)" in reasons["RouteRule/to-port.default"]
    assert "'db.example' is not an IP address" in reasons["service odd.default"]
    assert "another service of this host has that port" in reasons["service b.default"]
    name = "outbound|9080||odd.service.consul"
    endpoints = endpoint_pb2.ClusterLoadAssignment.FromString(of(desired, ENDPOINT_TYPE)[name].value).endpoints
    assert len(endpoints[0].lb_endpoints) == 1


def test_no_domain_is_given_twice_whatever_the_catalog_says() -> None:
    names = ["reviews", "Reviews", "reviews.default", "240.240.0.1", "a b", "*", "x\n", "a"]
    services = [service(name, 1) for name in names] + [service("reviews.default.svc", 1, namespace="cluster")]
    desired = plan(mesh(services))
    table = of(desired, ROUTE_TYPE)["9080"].value
    domains = [d.lower() for host in route_pb2.RouteConfiguration.FromString(table).virtual_hosts for d in host.domains]
    assert len(domains) == len(set(domains))
    assert domains.count("*") == 1
    assert not [domain for domain in domains if " " in domain or "\n" in domain]


def test_registry_only_lets_nothing_unknown_through() -> None:
    snapshot = sample()
    settings = MeshSettings(outbound_traffic_policy=OutboundTrafficPolicy.REGISTRY_ONLY)
    desired = plan(structs.replace(snapshot, settings=settings))
    held = [*of(desired, LISTENER_TYPE).values(), *of(desired, ROUTE_TYPE).values()]
    assert not [r.name for r in held if (CLUSTER_TYPE, "PassthroughCluster") in r.references]


def test_bound_listeners_are_one_to_a_port() -> None:
    services = [
        service("a", port=MYSQL),
        service("b", port=MYSQL),
        service("c", port=structs.replace(HTTP, number=3306)),
    ]
    desired = plan(mesh(services), PlanOptions(intercepted=False, bind_outbound="127.0.0.2"))
    assert list(of(desired, LISTENER_TYPE)) == ["127.0.0.2_3306"]
    assert [fault.subject for fault in desired.faults] == ["service a.default", "service b.default"]
    assert desired.netfilter_v4 == ""


def test_captured_ports_are_those_of_the_proxied_workloads() -> None:
    proxied, bare = workload("a", HTTP), workload("b", MYSQL, proxied=False)
    assert "9080" in plan(mesh([], workloads=(proxied, bare))).netfilter_v4
    assert "3306" not in plan(mesh([], workloads=(proxied, bare))).netfilter_v4
    none = structs.replace(OPTIONS, capture_inbound=False)
    assert "9080" not in plan(mesh([], workloads=(proxied,)), none).netfilter_v4


def test_a_thousand_services_plan_quickly() -> None:
    """Loose bounds for a busy machine; the figures are in docs/performance.md."""
    snapshot = mesh([service(f"s-{number}", 10) for number in range(1000)], workloads=(workload("s-0"),))
    planner = Planner()
    started = time.process_time()
    planner.plan(snapshot, OPTIONS)
    assert time.process_time() - started < 2
    started = time.process_time()
    planner.plan(flip(snapshot, "s-7", 3, Health.CRITICAL), OPTIONS)
    assert time.process_time() - started < 0.2
