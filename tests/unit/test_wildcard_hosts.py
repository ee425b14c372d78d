"""Rules whose host is a wildcard: about every service with a name in it, unless a more specific host is."""

from __future__ import annotations

import pytest

from agent.api.analysis.analyze import analyze
from agent.api.document import Document, read_documents
from agent.api.lowering.lower import Lowered, Lowerer, lower
from agent.mesh.routes import PolicyRule
from agent.mesh.service import Port, Protocol, Service, ServiceKey
from agent.translate.facts import Caller
from agent.translate.policies import followed

REVIEWS, RATINGS = ServiceKey("bookinfo", "reviews"), ServiceKey("bookinfo", "ratings")
OTHER, DEFAULT = ServiceKey("other", "reviews"), ServiceKey("default", "reviews")
SERVICES = (REVIEWS, RATINGS, OTHER, DEFAULT)
ENTRY = (
    "ServiceEntry",
    "{hosts: [www.example.com, api.example.com, '*.deep.example.com'], ports: [{number: 80, name: http}]}",
)


def read(*objects: tuple[str, str], namespace: str = "default") -> list[Document]:
    texts = (
        f"apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: n{index}}}\nspec: {spec}\n"
        for index, (kind, spec) in enumerate(objects)
    )
    found, problems = read_documents("\n---\n".join(texts), "rules.yaml", namespace)
    assert problems == []
    return found


def routes(host: str) -> tuple[str, str]:
    return "VirtualService", f"{{hosts: ['{host}'], http: [{{route: [{{destination: {{host: reviews.bookinfo}}}}]}}]}}"


def policy(host: str, limit: int = 1) -> tuple[str, str]:
    return (
        "DestinationRule",
        f"{{host: '{host}', trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {limit}}}}}}}}}",
    )


def owners(lowered: Lowered) -> dict[str, str]:
    """Return service → the VirtualService that it follows."""
    return {str(key): found.routes[0].origin.name for key, found in lowered.policies.items() if found.routes}


@pytest.mark.parametrize(
    ("host", "about"),
    [
        ("*.bookinfo.svc.cluster.local", ["ratings.bookinfo", "reviews.bookinfo"]),
        ("*.bookinfo", ["ratings.bookinfo", "reviews.bookinfo"]),
        ("*.svc.cluster.local", ["ratings.bookinfo", "reviews.bookinfo", "reviews.default", "reviews.other"]),
        ("*.service.consul", ["ratings.bookinfo", "reviews.default"]),
        ("*ings.service.consul", ["ratings.bookinfo"]),
        ("*.example.com", ["*.deep.example.com", "api.example.com", "www.example.com"]),
        ("*.deep.example.com", ["*.deep.example.com"]),
        ("*.COM", ["*.deep.example.com", "api.example.com", "www.example.com"]),
    ],
)
def test_a_wildcard_is_about_every_service_within_it(host: str, about: list[str]) -> None:
    lowered = lower(read(ENTRY, routes(host)), SERVICES)
    assert lowered.faults == ()
    assert sorted(owners(lowered)) == about
    lowered = lower(read(ENTRY, policy(host)), SERVICES)
    assert lowered.faults == ()
    assert sorted(str(key) for key, found in lowered.policies.items() if found.connections) == about


def test_of_two_hosts_the_more_specific_one_counts_whatever_the_names() -> None:
    documents = read(
        routes("*.local"), routes("*.bookinfo.svc.cluster.local"), routes("reviews.bookinfo.svc.cluster.local")
    )
    lowered = lower(documents, SERVICES)
    assert lowered.faults == ()
    assert owners(lowered) == {
        "reviews.bookinfo": "n2",
        "ratings.bookinfo": "n1",
        "reviews.other": "n0",
        "reviews.default": "n0",
    }
    assert [one.message for one in analyze(documents)] == []


def test_nothing_within_a_wildcard_is_told() -> None:
    faults = [fault.reason for fault in lower(read(routes("*.org"), policy("*.org")), SERVICES).faults]
    assert faults == ["service *.org is not in the catalog"] * 2
    catalog = {key: Service(key, (Port(80, "http", Protocol.HTTP),), ()) for key in SERVICES}
    found = [one for one in analyze(read(routes("*.org")), catalog) if one.kind.code == "IST0101"]
    assert [one.path for one in found] == ["spec.hosts[0]"]


def test_a_service_that_comes_later_is_within_it_too() -> None:
    documents = {document.key: document for document in read(routes("*.bookinfo.svc.cluster.local"))}
    lowerer = Lowerer()
    assert owners(lowerer.lower(documents, {})) == {}
    assert sorted(owners(lowerer.lower(documents, dict.fromkeys([REVIEWS], True)))) == ["reviews.bookinfo"]
    assert sorted(owners(lowerer.lower(documents, dict.fromkeys(SERVICES, True)))) == [
        "ratings.bookinfo",
        "reviews.bookinfo",
    ]


def chosen(rules: tuple[PolicyRule, ...], namespace: str, key: ServiceKey = REVIEWS) -> list[str]:
    caller = Caller(None, namespace, ())
    return [f"{rule.origin.namespace}/{rule.origin.name}" for rule in followed(key, rules, caller)]


def test_a_rule_of_the_root_namespace_is_for_all_that_no_nearer_one_is_for() -> None:
    documents = [
        *read(policy("*.local"), namespace="istio-system"),
        *read(policy("*.local"), policy("ratings"), namespace="bookinfo"),
        *read(policy("reviews.bookinfo"), policy("*.bookinfo"), namespace="caller"),
    ]
    policies = lower(documents, SERVICES).policies
    assert chosen(policies[REVIEWS].connections, "caller") == ["caller/n0"]
    assert chosen(policies[REVIEWS].connections, "elsewhere") == ["bookinfo/n0"]
    assert chosen(policies[RATINGS].connections, "elsewhere") == ["bookinfo/n1"]
    assert chosen(policies[RATINGS].connections, "caller") == ["caller/n1"]
    assert chosen(policies[OTHER].connections, "elsewhere", OTHER) == ["istio-system/n0"]


def test_a_narrower_rule_stands_in_the_place_of_a_wider_one_with_its_subsets() -> None:
    wide = ("DestinationRule", "{host: '*.local', subsets: [{name: v1, labels: {version: v1}}]}")
    to_v1 = "{hosts: [HOST], http: [{route: [{destination: {host: HOST, subset: v1}}]}]}"
    route = ("VirtualService", to_v1.replace("HOST", "reviews.bookinfo"))
    assert lower(read(wide, route), SERVICES).faults == ()
    faults = lower(read(wide, route, policy("reviews.bookinfo")), SERVICES).faults
    assert ["declares the subset v1" in fault.reason for fault in faults] == [True]


def test_both_of_two_conflicting_objects_are_named() -> None:
    found = analyze(read(routes("reviews.bookinfo"), routes("reviews.bookinfo.svc.cluster.local"), routes("*.local")))
    assert [(one.kind.code, one.object.split()[1]) for one in found] == [
        ("IST0109", "n0.default"),
        ("IST0109", "n1.default"),
    ]


def test_a_wildcard_need_not_speak_of_what_every_service_s_ports_speak() -> None:
    catalog = {
        REVIEWS: Service(REVIEWS, (Port(80, "http", Protocol.HTTP),), ()),
        RATINGS: Service(RATINGS, (Port(3306, "mysql", Protocol.MYSQL),), ()),
    }
    found = analyze(read(routes("*.local")), catalog)
    assert [one.kind.code for one in found] == ["HM0106"]  # the destination has no instance: no HM0109


def test_routes_for_gateways_and_the_mesh_are_in_each_other_s_way_in_the_mesh() -> None:
    both = ("VirtualService", routes("reviews.bookinfo")[1].replace("{hosts", "{gateways: [edge, mesh], hosts", 1))
    edge = ("VirtualService", both[1].replace("edge, mesh", "edge"))
    gateway = (
        "Gateway",
        "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}",
    )

    def codes(*objects: tuple[str, str]) -> list[str]:
        found = analyze(read(*objects, gateway))
        return [f"{one.kind.code} {one.object.split()[1]}" for one in found if one.kind.code == "IST0109"]

    assert codes(both, routes("reviews.bookinfo")) == ["IST0109 n0.default", "IST0109 n1.default"]
    assert codes(edge, routes("reviews.bookinfo")) == []
