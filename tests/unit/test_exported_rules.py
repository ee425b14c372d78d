"""exportTo of VirtualServices: whose callers follow which, in the mesh and at gateways; names of matches."""

from __future__ import annotations

from envoy.config.route.v3 import route_components_pb2, route_pb2
from msgspec import structs

from agent.api.analysis.analyze import analyze
from agent.api.document import Document, read_documents
from agent.api.lowering.lower import lower
from agent.mesh.names import ROUTE_TYPE
from agent.mesh.routes import ServicePolicy
from agent.mesh.scope import Scope
from agent.mesh.service import ServiceKey
from agent.mesh.sidecar import Sidecar
from agent.translate.plan import Planner
from tests.unit.mesh_samples import OPTIONS, mesh, service, workload

REVIEWS, RATINGS = ServiceKey("default", "reviews"), ServiceKey("default", "ratings")
SERVICES = (REVIEWS, RATINGS)


def read(text: str) -> list[Document]:
    found, problems = read_documents(text, "rules.yaml", "default")
    assert problems == []
    return found


def rule(name: str, namespace: str, more: str = "", hosts: str = "[reviews.default]", route: str = "") -> str:
    route = route or "{route: [{destination: {host: ratings.default}}]}"
    return (
        f"---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{hosts: {hosts}, http: [{route}]{more}}}\n"
    )


OLD = """
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: old}
spec: {destination: {name: reviews}, route: [{labels: {version: v1}}]}
"""


def followed(policy: ServicePolicy, namespace: str) -> list[str]:
    return [route.origin.name for route in policy.seen_from(namespace).routes]


def test_callers_follow_the_first_that_is_exported_to_them() -> None:
    text = rule("a", "team", ", exportTo: [.]") + rule("b", "default", ", exportTo: [one, two]") + rule("c", "z")
    lowered = lower(read(text), SERVICES)
    assert lowered.faults == ()
    found = {caller: followed(lowered.policies[REVIEWS], caller) for caller in ("team", "one", "two", "other")}
    assert found == {"team": ["a"], "one": ["b"], "two": ["b"], "other": ["c"]}


def test_route_rules_are_for_those_that_no_virtual_service_is_exported_to() -> None:
    lowered = lower(read(rule("a", "team", ", exportTo: [.]") + OLD), SERVICES)
    assert lowered.faults == ()
    policy = lowered.policies[REVIEWS]
    assert (followed(policy, "team"), followed(policy, "default")) == (["a"], ["old"])
    assert (policy.seen_from("team").default_route, policy.seen_from("default").default_route) == (False, True)


def test_one_that_is_exported_to_nobody_else_is_told() -> None:
    text = rule("a", "team", ", exportTo: [one, two]") + rule("b", "team", ", exportTo: [two]")
    faults = [f"{fault.subject}: {fault.reason}" for fault in lower(read(text), SERVICES).faults]
    assert faults == ["VirtualService/b.team: not used for reviews.default: VirtualService/a.team is about it too"]


def test_nothing_is_wrong_with_one_in_each_namespace() -> None:
    text = rule("a", "one", ", exportTo: [.]") + rule("a", "two", ", exportTo: [.]") + OLD
    assert [finding.kind.code for finding in analyze(read(text))] == []


def test_how_to_connect_is_kept_whoever_calls() -> None:
    connect = """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec: {host: reviews}
"""
    policy = lower(read(rule("a", "team", ", exportTo: [.]") + connect), SERVICES).policies[REVIEWS]
    assert [[one.origin.name for one in policy.seen_from(caller).connections] for caller in ("team", "x")] == [
        ["d"]
    ] * 2
    assert policy.seen_from("x").routes == ()


def table(text: str, namespace: str) -> route_components_pb2.VirtualHost:
    services = [service("reviews"), service("ratings")]
    lowered = lower(read(text), [each.key for each in services])
    own = structs.replace(workload("page"), service=ServiceKey(namespace, "page"))
    desired = Planner().plan(mesh(services, lowered.policies, workloads=(own,)), OPTIONS)
    assert desired.faults == ()
    found = route_pb2.RouteConfiguration.FromString(desired.resources.of(ROUTE_TYPE)["9080"].value)
    return next(host for host in found.virtual_hosts if host.name == "reviews.default:9080")


def test_a_host_s_table_has_what_is_for_its_callers() -> None:
    text = rule("a", "team", ", exportTo: [.]")
    assert [route.name for route in table(text, "team").routes] == ["VirtualService/a.team/0"]
    assert [route.name for route in table(text, "default").routes] == ["default"]


def test_a_match_s_name_and_statistics_are_its_route_s() -> None:
    matches = "{name: r, match: [{name: m, statPrefix: p, uri: {prefix: /a}}, {uri: {prefix: /b}}], ROUTE}"
    route = matches.replace("ROUTE", "route: [{destination: {host: ratings.default}}]")
    found = table(rule("a", "default", route=route), "default").routes
    assert [(one.name, one.stat_prefix) for one in found] == [
        ("VirtualService/a.default/r.m", "p"),
        ("VirtualService/a.default/r", ""),
    ]


def test_what_others_routes_lead_to_stays_in_their_scope() -> None:
    services = {one.key: one for one in (service("reviews"), service("ratings"))}
    policies = lower(read(rule("a", "team", ", exportTo: [team]")), services).policies
    document = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: s, namespace: team}
spec: {egress: [{hosts: [default/reviews.default.svc.cluster.local]}]}
"""
    (sidecar,) = lower(read(document), services).sidecars
    assert isinstance(sidecar, Sidecar)
    assert RATINGS in Scope.of(sidecar, services, policies).kept


def test_a_delegate_is_for_the_namespaces_that_it_is_exported_to() -> None:
    root = rule("root", "default", route="{delegate: {name: d, namespace: team}}")
    for exported, there in (("", True), (", exportTo: [default]", True), (", exportTo: [.]", False)):
        delegate = rule("d", "team", exported, hosts="[]")
        lowered = lower(read(root + delegate), SERVICES)
        assert (REVIEWS in lowered.policies) is there
        assert [fault.subject for fault in lowered.faults] == ([] if there else ["VirtualService/root.default"])


GATEWAY = """
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
"""


def test_gateways_see_what_is_exported_to_them() -> None:
    named = {"a": "[.]", "b": "[team]", "c": "[istio-system, team]", "d": "['*']"}
    text = GATEWAY + "".join(
        rule(name, "default" if name == "a" else "team", f", gateways: [default/g], exportTo: {exported}")
        for name, exported in named.items()
    )
    bound = lower(read(text), SERVICES).ingress.bound
    assert {one.origin.name: one.exported_to for one in bound} == {
        "a": ("default",),
        "b": ("team",),
        "c": ("istio-system", "team"),
        "d": (),
    }
