"""Sidecars: whose they are, what they leave of a mesh, and what an Envoy is given of that."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from agent.api.envelope import Document
from agent.api.lowering.lower import lower
from agent.api.lowering.sidecar import lower_sidecar
from agent.api.validate import find_problems
from agent.mesh import names
from agent.mesh.routes import ObjectRef
from agent.mesh.scope import Scope
from agent.mesh.selection import Selection
from agent.mesh.service import Outside, Port, Protocol, Resolution, Service, ServiceKey
from agent.mesh.settings import MeshSettings, OutboundTrafficPolicy
from agent.mesh.sidecar import EgressListener, HostPattern, Sidecar, sidecar_for, sidecar_of_host
from agent.mesh.snapshot import Desired, MeshSnapshot
from agent.translate.facts import Security
from agent.translate.plan import Planner
from agent.translate.served import inbound_ports
from tests.unit.api_samples import mutated, one
from tests.unit.mesh_samples import OPTIONS, key, mesh, service, workload

HEAD = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s}\nspec:\n  "


def sidecar(spec: str, namespace: str = "default") -> Sidecar:
    return lower_sidecar(one(f"{HEAD}{spec}\n", namespace))


def egress(*hosts: str, namespace: str = "default") -> Sidecar:
    return sidecar(f"egress: [{{hosts: {json.dumps(hosts)}}}]", namespace)


ENTRY = Outside("ServiceEntry/e.shop", Resolution.STATIC, namespaces=("shop",))
OUTSIDE = Service(ServiceKey("", "api.example.com"), (Port(80, "http", Protocol.HTTP),), (), ENTRY)


@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("./*", {"reviews.default"}),
        ("*/*", {"reviews.default", "cart.shop", "api.example.com"}),
        ("shop/*", {"cart.shop", "api.example.com"}),
        ("~/*", set()),
        ("./reviews.default.svc.cluster.local", {"reviews.default"}),
        ("./reviews.service.consul", {"reviews.default"}),
        ("./Reviews.Default.svc.cluster.local.", {"reviews.default"}),
        ("./ratings.default.svc.cluster.local", set()),
        ("default/cart.shop.svc.cluster.local", set()),
        ("*/cart.shop.svc.cluster.local", {"cart.shop"}),
        ("*/*.shop.svc.cluster.local", {"cart.shop"}),
        ("*/*.example.com", {"api.example.com"}),
        ("default/*.example.com", set()),
    ],
)
def test_which_services_a_host_means(host: str, seen: set[str]) -> None:
    services = {each.key: each for each in (service("reviews"), service("cart", namespace="shop"), OUTSIDE)}
    scope = Scope.of(egress(host), services, {})
    assert {str(name) for name in services if name not in scope.unseen} == seen


def test_whose_a_sidecar_is() -> None:
    def made(name: str, namespace: str, selector: tuple[tuple[str, str], ...] | None = None) -> Sidecar:
        return Sidecar(ObjectRef("Sidecar", namespace, name), selector)

    root, whole, own = made("r", "istio-system"), made("w", "shop"), made("o", "shop", (("app", "cart"),))
    selecting_root = made("s", "istio-system", (("app", "cart"),))
    every = (root, selecting_root, own, whole)
    assert sidecar_for(every, "shop", (("app", "cart"), ("version", "v1"))) is own
    assert sidecar_for(every, "shop", (("app", "other"),)) is whole
    assert sidecar_for(every, "default", (("app", "cart"),)) is root
    assert sidecar_for(every, "istio-system", (("app", "cart"),)) is selecting_root
    assert sidecar_for((own,), "default", ()) is None
    assert sidecar_of_host((root,), ()) is root
    assert sidecar_of_host((root,), (workload("istio-ingress"),)) is None, "a gateway has no Sidecar"


def test_ports_of_listeners() -> None:
    spec = "egress: [{port: {number: 9080, protocol: HTTP}, hosts: [./a.b]}, {hosts: ['*/*']}]"
    ports = (Port(9080, "http", Protocol.HTTP), Port(9090, "http-x", Protocol.HTTP))
    limited = sidecar(spec)
    assert [port.number for port in limited.ports_of(Service(key("reviews"), ports, ()))] == [9090]
    named = structs.replace(OUTSIDE, key=ServiceKey("", "a.b"), ports=ports)
    own = structs.replace(named, outside=Outside("x", Resolution.STATIC, namespaces=("default",)))
    assert [port.number for port in limited.ports_of(own)] == [9080, 9090]
    assert Scope.of(limited, {own.key: own}, {}).ports_of(own) == ports


def planned(snapshot: MeshSnapshot, limiting: Sidecar | None) -> Desired:
    own = [each.service for each in snapshot.workloads]
    scope = Scope.of(limiting, snapshot.services, snapshot.policies, own)
    sidecars = (limiting,) if limiting else ()
    limited = structs.replace(snapshot, services=scope.limit(snapshot.services), scope=scope, sidecars=sidecars)
    return Planner().plan(limited, OPTIONS)


RULE = one(
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r}\nspec:\n"
    "  hosts: [reviews]\n  http: [{route: [{destination: {host: ratings}}]}]\n"
)


def test_what_is_out_of_scope_is_not_planned_but_where_routes_lead() -> None:
    services = [service(name) for name in ("reviews", "ratings", "details", "page")]
    policies = lower([RULE], [each.key for each in services]).policies
    snapshot = mesh(services, policies, workloads=(workload("page"),))
    desired = planned(snapshot, egress("./reviews.default.svc.cluster.local"))
    clusters = desired.resources.of(names.CLUSTER_TYPE)
    outbound = {name.split("|")[3].split(".")[0] for name in clusters if name.startswith("outbound|")}
    assert outbound == {"reviews", "ratings", "page"}, "its own service stays: it says where the host is"
    table = desired.resources.of(names.ROUTE_TYPE)["9080"].value
    assert b"reviews.default" in table
    assert b"ratings.default:9080" not in table
    assert {line.split()[1] for line in desired.dns_hosts.splitlines()[1:]} == {"reviews"}
    assert desired.resources.dangling() == []
    assert desired.faults == ()


def test_a_short_name_keeps_its_meaning_where_its_service_is_out_of_scope() -> None:
    services = [service("reviews"), service("reviews", namespace="shop")]
    shop = structs.replace(workload("page"), service=key("page", "shop"))
    desired = planned(mesh(services, workloads=(shop,)), egress("default/*", namespace="shop"))
    words = {word for line in desired.dns_hosts.splitlines()[1:] for word in line.split()[1:]}
    assert "reviews.default.svc.cluster.local" in words
    assert "reviews" not in words, "in this namespace that is the other one"


def test_a_sidecars_outbound_traffic_policy() -> None:
    snapshot = mesh([service("reviews")])
    blocking = sidecar("outboundTrafficPolicy: {mode: REGISTRY_ONLY}")
    table = planned(snapshot, blocking).resources.of(names.ROUTE_TYPE)["9080"].value
    assert b"block_all" in table
    strict = structs.replace(
        snapshot, settings=MeshSettings(outbound_traffic_policy=OutboundTrafficPolicy.REGISTRY_ONLY)
    )
    allowing = sidecar("outboundTrafficPolicy: {mode: ALLOW_ANY}")
    assert b"allow_any" in planned(strict, allowing).resources.of(names.ROUTE_TYPE)["9080"].value


def test_which_catalog_names_are_followed() -> None:
    services = {each.key: each for each in (service("reviews"), service("cart", namespace="shop"), service("page"))}
    assert Scope.of(None, services, {}).followed is None
    assert Scope.of(egress("*/*"), services, {}).followed is None
    assert Scope.of(egress("shop/*"), services, {}, [key("page")]).followed == frozenset({"cart", "page"})
    selecting = structs.replace(OUTSIDE, outside=structs.replace(ENTRY, selector=(("app", "cart"),)))
    both = {**services, OUTSIDE.key: selecting}
    assert Scope.of(egress("*/api.example.com"), both, {}).followed == frozenset({"cart"})


def test_ingress_listeners_say_where_applications_are() -> None:
    listeners = (
        "{port: {number: 9080, protocol: TCP}, defaultEndpoint: 'unix:///run/app.sock'},"
        " {port: {number: 9081, name: x}, defaultEndpoint: '[::1]:8081', connectionPool: {tcp: {maxConnections: 7}}},"
        " {port: {number: 9082}, defaultEndpoint: 0.0.0.0:8082},"
        " {port: {number: 9083}, defaultEndpoint: 0.0.0.0:9080},"
        " {port: {number: 1}}"
    )
    said = sidecar(f"ingress: [{listeners}]\n  inboundConnectionPool: {{http: {{http1MaxPendingRequests: 3}}}}")
    ports = tuple(Port(9080 + number, f"http-{number}", Protocol.HTTP) for number in range(5))
    served, faults = inbound_ports((workload("page", *ports),), (said,), Security.from_snapshot(mesh([])), None)
    places = [(each.port.protocol.value, each.address, each.target) for each in served]
    assert places == [
        ("tcp", "unix:///run/app.sock", 0),
        ("http", "::1", 8081),
        ("http", "10.0.0.1", 8082),
        ("http", "127.0.0.1", 9083),
        ("http", "127.0.0.1", 9084),
    ]
    assert [each.pool.max_connections for each in served if each.pool] == [None, 7, None, None, None]
    assert [each.pool.max_pending_requests for each in served if each.pool] == [3, None, 3, 3, 3]
    assert [fault.reason.partition(" has no effect")[0] for fault in faults] == [
        "the ingress listener of port 1",
        "the defaultEndpoint of port 9083",
    ]


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("egress: [{bind: 127.0.0.9, port: {number: 80, protocol: HTTP}, hosts: ['*/*']}]", "spec.egress[0].bind"),
        ("egress: [{bind: 'unix:///x', port: {number: 0, protocol: HTTP}, hosts: ['*/*']}]", "spec.egress[0]"),
        ("egress: [{captureMode: NONE, port: {number: 8}, hosts: ['*/*']}]", "spec.egress[0].captureMode"),
        ("ingress: [{bind: 127.0.0.9, port: {number: 80, protocol: HTTP}}]", "spec.ingress[0]"),
        ("ingress: [{port: {number: 80, protocol: UDP}}]", "spec.ingress[0]"),
        ("ingress: [{port: {number: 80}, defaultEndpoint: 'unix:///run/hostmesh/admin.sock'}]", "spec.ingress[0]"),
        (f"ingress: [{{port: {{number: 80}}, defaultEndpoint: 'unix:///{'x' * 107}'}}]", "spec.ingress[0]"),
        ("ingress: [{captureMode: NONE, port: {number: 80, protocol: HTTP}}]", "spec.ingress[0]"),
        (
            "outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b, port: {number: 1}}}",
            "spec.outboundTrafficPolicy.egressProxy",
        ),
    ],
)
def test_what_is_not_honoured_is_named(spec: str, place: str) -> None:
    (problem,) = find_problems(one(f"{HEAD}{spec}\n"))
    assert (problem.verdict, problem.path) == ("unsupported", place)


def test_an_egress_listener_keeps_its_hosts_without_its_bind() -> None:
    listening = f"{HEAD}egress: [{{bind: 127.0.0.9, port: {{number: 80}}, hosts: [./a.b]}}]\n"
    lowered = lower([one(listening)], [])
    assert lowered.sidecars[0].egress == (EgressListener((HostPattern("default", "a.b"),), 80),)
    assert "spec.egress[0].bind" in lowered.faults[0].reason


def test_instances_that_an_entry_selects_are_its_endpoints() -> None:
    selected = structs.replace(
        OUTSIDE,
        outside=structs.replace(ENTRY, selector=(("version", "v1"),), target_ports=((80, 9080),), in_mesh=True),
    )
    services = {each.key: each for each in (service("cart", 2, namespace="shop"), service("reviews"))}
    selection = Selection()
    joined = selection.join({selected.key: selected}, services)
    (endpoint,) = joined[selected.key].instances
    assert (endpoint.target_port(80), endpoint.proxied, endpoint.identity.path) == (9080, True, "ns/shop/sa/default")
    again = selection.join({selected.key: selected}, {**services, key("reviews"): service("reviews", 1)})
    assert again[selected.key] is joined[selected.key]
    assert selection.join({selected.key: selected}, {})[selected.key].instances == ()


def test_an_instance_is_called_in_plain_text_on_ports_that_its_envoy_does_not_serve() -> None:
    selected = structs.replace(OUTSIDE, outside=structs.replace(ENTRY, selector=(), target_ports=(), in_mesh=True))
    joined = Selection().join({selected.key: selected}, {key("cart", "shop"): service("cart", 1, namespace="shop")})
    assert [endpoint.proxied for endpoint in joined[selected.key].instances] == [False]


EVERYTHING = (
    "workloadSelector: {labels: {app: page}}\n"
    "  egress:\n"
    "  - {port: {number: 9080, protocol: HTTP, name: x}, hosts: ['./reviews.default.svc.cluster.local', '~/*']}\n"
    "  - {hosts: ['*/*.example.com', 'shop/*']}\n"
    "  ingress:\n"
    "  - {port: {number: 9080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080',"
    " connectionPool: {tcp: {maxConnections: 1}}}\n"
    "  - {port: {number: 9081, protocol: TCP}, defaultEndpoint: 'unix:///x'}\n"
    "  inboundConnectionPool: {http: {http1MaxPendingRequests: 1, idleTimeout: 1s}}\n"
    "  outboundTrafficPolicy: {mode: REGISTRY_ONLY}"
)
WORKLOAD = one(
    "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: w}\n"
    "spec: {address: 10.0.0.9, ports: {http: 8080}, labels: {a: b}, weight: 2, locality: a/b, serviceAccount: x}\n"
)
SELECTING = one(
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec:\n"
    "  hosts: [e.example.com]\n  location: MESH_INTERNAL\n  resolution: STATIC\n"
    "  ports: [{number: 80, name: http, targetPort: 9080}]\n  workloadSelector: {labels: {a: b}}\n"
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([one(f"{HEAD}{EVERYTHING}\n"), WORKLOAD, SELECTING]), st.data())
def test_whatever_a_document_holds_a_plan_comes_of_it(document: Document, data: st.DataObject) -> None:
    changed = structs.replace(document, spec=data.draw(mutated(dict(document.spec))))
    documents = [changed, *(each for each in (WORKLOAD, SELECTING) if each.kind != changed.kind)]
    registered = {each.key: each for each in (service("reviews"), service("cart", namespace="shop"), service("page"))}
    lowered = lower(documents, registered.keys())
    services = {**registered, **Selection().join(lowered.outside, registered)}
    calling = structs.replace(workload("page"), labels=(("app", "page"),))
    snapshot = structs.replace(mesh(services.values(), workloads=(calling,)), sidecars=lowered.sidecars)
    scope = Scope.of(sidecar_of_host(lowered.sidecars, (calling,)), services, lowered.policies, [key("page")])
    desired = Planner().plan(structs.replace(snapshot, services=scope.limit(services), scope=scope), OPTIONS)
    assert desired.resources.dangling() == []
