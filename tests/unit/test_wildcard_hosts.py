"""Rules whose host is a wildcard: about every service with a name in it, unless a more specific host is."""

from __future__ import annotations

import pytest

from agent.api.analysis.analyze import analyze
from agent.api.document import Document, read_documents
from agent.api.lowering.lower import Lowered, Lowerer, lower
from agent.mesh.routes import PolicyRule
from agent.mesh.service import Port, Protocol, Resolution, Service, ServiceKey
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


WILD = ("ServiceEntry", "{hosts: ['*.foo.com'], PORTS}")
WEB_AND_MORE = "ports: [{number: 80, name: http}, {number: 443, name: tls}, {number: 9000, name: tcp}]"


@pytest.mark.parametrize("rule", [routes("www.Foo.com"), policy("www.foo.com")], ids=["routes", "policy"])
def test_a_host_within_a_declared_wildcard_is_a_service_of_its_own(rule: tuple[str, str]) -> None:
    wild = (WILD[0], WILD[1].replace("PORTS", f"{WEB_AND_MORE}, addresses: [10.0.0.0/8]"))
    lowered = lower(read(wild, rule), SERVICES)
    assert lowered.faults == ()
    around, inside = (lowered.outside[ServiceKey("", name)] for name in ("*.foo.com", "www.foo.com"))
    assert [port.number for port in around.ports] == [80, 443, 9000]
    assert [port.number for port in inside.ports] == [80, 443], "what says no name is the wildcard's"
    assert inside.outside is not None
    assert inside.outside.resolution is Resolution.ORIGINAL
    assert list(lowered.policies) == [inside.key]


def test_a_host_within_a_wildcard_is_found_in_the_way_of_the_narrowest() -> None:
    wide = ("ServiceEntry", "{hosts: ['*.com'], ports: [{number: 81, name: http}]}")
    found = "{hosts: ['*.foo.com'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]}"
    lowered = lower(read(wide, ("ServiceEntry", found), routes("www.foo.com"), routes("*.api.foo.com")), SERVICES)
    assert lowered.faults == ()
    for name in ("www.foo.com", "*.api.foo.com"):
        inside = lowered.outside[ServiceKey("", name)]
        assert (inside.outside and inside.outside.resolution) is Resolution.DYNAMIC
        assert not inside.has_address, "its name is looked up as before"
        assert [port.number for port in inside.ports] == [80]


def test_a_host_that_is_known_otherwise_is_no_part_of_a_wildcard() -> None:
    entries = (
        ("ServiceEntry", "{hosts: ['*.bookinfo.svc.cluster.local', '*.foo.com'], ports: [{number: 80, name: http}]}"),
        ("ServiceEntry", "{hosts: [www.foo.com], resolution: DNS, ports: [{number: 81, name: http}]}"),
    )
    lowered = lower(read(*entries, routes("reviews.bookinfo.svc.cluster.local"), routes("www.foo.com")), SERVICES)
    assert sorted(key.name for key in lowered.outside) == ["*.bookinfo.svc.cluster.local", "*.foo.com", "www.foo.com"]
    assert [port.number for port in lowered.outside[ServiceKey("", "www.foo.com")].ports] == [81]
    assert sorted(owners(lowered)) == ["reviews.bookinfo", "www.foo.com"]


def test_hosts_within_a_wildcard_come_and_go_with_it_and_with_the_rules() -> None:
    lowerer = Lowerer()
    wild, rule = read((WILD[0], WILD[1].replace("PORTS", WEB_AND_MORE)), routes("www.foo.com"))
    for documents, hosts in (
        ([rule], []),
        ([rule, wild], ["*.foo.com", "www.foo.com"]),
        ([wild], ["*.foo.com"]),
        ([wild, rule], ["*.foo.com", "www.foo.com"]),
        ([rule], []),
    ):
        given = {document.key: document for document in documents}
        lowered = lowerer.lower(given, dict.fromkeys(SERVICES, True))
        assert sorted(key.name for key in lowered.outside) == hosts
        assert len(lowered.faults) == (not hosts)
        findings = [one.kind.code for one in analyze(documents, {key: Service(key, (), ()) for key in SERVICES})]
        assert ("IST0101" in findings) == (not hosts)


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
