"""EgressRules and ServiceEntries as services of the mesh: hosts, ports, how they are found, and who wins."""

from __future__ import annotations

import pytest

from agent.api.document import Document
from agent.api.lowering.lower import Lowerer, lower
from agent.api.validate import find_problems
from agent.mesh.service import Protocol, Resolution, Service, ServiceKey
from tests.unit.api_samples import one

CATALOG = (ServiceKey("default", "reviews"),)
HTTPBIN = ServiceKey("", "httpbin.org")


def egress(name: str, service: str, ports: str = "[{port: 80, protocol: http}]") -> Document:
    head = f"apiVersion: config.istio.io/v1alpha2\nkind: EgressRule\nmetadata: {{name: {name}}}\n"
    return one(f'{head}spec: {{destination: {{service: "{service}"}}, ports: {ports}}}\n')


def entry(spec: str, name: str = "e", namespace: str = "default") -> Document:
    head = f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n"
    return one(f"{head}spec: {spec}\n", namespace)


def only(*documents: Document) -> Service:
    (service,) = lower(documents, CATALOG).outside.values()
    return service


def reasons(*documents: Document) -> list[str]:
    return [f"{fault.subject}: {fault.reason}" for fault in lower(documents, CATALOG).faults]


def test_egress_rules_of_one_host_add_up() -> None:
    service = only(egress("a", "httpbin.org"), egress("b", "HTTPBIN.org", "[{port: 443, protocol: HTTPS}]"))
    assert service.key == HTTPBIN
    assert [(port.number, port.protocol) for port in service.ports] == [(80, Protocol.HTTP), (443, Protocol.HTTP)]
    assert service.outside is not None
    assert service.outside.tls_ports == (443,)
    assert service.outside.resolution is Resolution.DNS
    assert service.has_address


@pytest.mark.parametrize(
    ("service", "ports"),
    [("*.foo.com", "[{port: 80, protocol: http}]"), ("10.1.0.0/16", "[{port: 27017, protocol: mongo}]")],
)
def test_a_wildcard_or_a_range_goes_where_it_was_going(service: str, ports: str) -> None:
    found = only(egress("a", service, ports))
    assert found.outside is not None
    assert found.outside.resolution is Resolution.ORIGINAL
    assert not found.has_address


def test_a_contradiction_costs_the_later_rule() -> None:
    first, second = egress("a", "httpbin.org"), egress("b", "httpbin.org", "[{port: 80, protocol: https}]")
    why = "not used for httpbin.org: EgressRule/a.default says otherwise what port 80 speaks"
    assert reasons(second, first) == [f"EgressRule/b.default: {why}"]
    assert only(first, second).outside == only(first).outside
    other = entry("{hosts: [httpbin.org], resolution: STATIC, endpoints: [{address: 10.0.0.1}]}", "z")
    assert "declares it otherwise" in reasons(first, other)[0]


@pytest.mark.parametrize("host", ["reviews", "reviews.default", "reviews.service.consul"])
def test_a_host_of_the_catalog_stays_the_catalogs(host: str) -> None:
    lowered = lower([entry(f"{{hosts: [{host}], resolution: DNS}}")], CATALOG)
    assert lowered.outside == {}
    assert "the service reviews.default of the catalog" in lowered.faults[0].reason


@pytest.mark.parametrize(
    ("spec", "resolution", "addressed"),
    [
        ("{hosts: [a.example]}", Resolution.DNS, True),
        ("{hosts: [a.example], addresses: [10.0.0.0/8]}", Resolution.ORIGINAL, False),
        ("{hosts: ['*.a.example']}", Resolution.ORIGINAL, False),
        ("{hosts: ['*.a.example'], resolution: STATIC, endpoints: [{address: 10.0.0.1}]}", Resolution.STATIC, False),
        ("{hosts: [a.example], resolution: DNS}", Resolution.DNS, True),
        ("{hosts: ['*.a.example'], resolution: DYNAMIC_DNS}", Resolution.DYNAMIC, False),
        ("{hosts: [a.example], resolution: DNS_ROUND_ROBIN}", Resolution.DNS_ROUND_ROBIN, True),
    ],
)
def test_resolutions(spec: str, resolution: Resolution, addressed: bool) -> None:
    service = only(entry(spec))
    assert service.outside is not None
    assert (service.outside.resolution, service.has_address) == (resolution, addressed)


def test_endpoints_and_target_ports() -> None:
    service = only(
        entry(
            "{hosts: [a.example], resolution: STATIC, ports: [{number: 80, name: http, targetPort: 8080},"
            " {number: 90, name: grpc-x}], endpoints: [{address: 10.0.0.1, ports: {grpc-x: 9090}, labels: {v: '1'}},"
            " {address: 10.0.0.2, locality: eu/a}]}"
        )
    )
    assert [port.protocol for port in service.ports] == [Protocol.HTTP, Protocol.GRPC]
    first, second = service.instances
    assert (first.target_port(80), first.target_port(90), first.labels) == (8080, 9090, (("v", "1"),))
    assert (second.target_port(80), second.target_port(90), str(second.locality)) == (8080, 90, "eu/a")


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        (
            "{hosts: ['*.a.example'], resolution: DYNAMIC_DNS,"
            " ports: [{number: 80, name: x, protocol: HTTP, targetPort: 8080}]}",
            "spec.ports[0]",
        ),
        ("{hosts: [a.example], addresses: ['fe80::1%eth0']}", "spec"),
        ("{hosts: [a.example], ports: [{number: 53, name: dns, protocol: UDP}]}", "spec.ports[0]"),
        (
            "{hosts: [a.example], ports: [{number: 1, name: x}], resolution: STATIC,"
            " endpoints: [{address: 'unix:///run/hostmesh/admin.sock'}]}",
            "spec.endpoints[0]",
        ),
        (
            "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 10.0.0.1, network: n}]}",
            "spec.endpoints[0].network",
        ),
        ("{hosts: [a.example], resolution: STATIC, endpoints: [{network: n}]}", "spec.endpoints[0]"),
    ],
)
def test_what_is_not_honoured_is_named(spec: str, place: str) -> None:
    (problem,) = find_problems(entry(spec))
    assert (problem.verdict, problem.path) == ("unsupported", place)


def workload_entry(name: str, spec: str, namespace: str = "default") -> Document:
    head = f"apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\n"
    return one(f"{head}spec: {spec}\n", namespace)


SELECTING = (
    "{hosts: [a.example], resolution: STATIC, ports: [{number: 80, name: http, targetPort: 8080}],"
    " workloadSelector: {labels: {app: a}}}"
)


def test_workload_entries_that_an_entry_selects_are_its_endpoints() -> None:
    entries = [
        workload_entry("two", "{address: 10.0.0.2, labels: {app: a, v: '2'}, weight: 3, ports: {http: 9090}}"),
        workload_entry("one", "{address: 10.0.0.1, labels: {app: a}}"),
        workload_entry("other", "{address: 10.0.0.3, labels: {app: b}}"),
        workload_entry("elsewhere", "{address: 10.0.0.4, labels: {app: a}}", "shop"),
    ]
    found = only(entry(SELECTING), *entries)
    assert [(i.address, i.target_port(80), i.weight) for i in found.instances] == [
        ("10.0.0.1", 8080, 1),
        ("10.0.0.2", 9090, 3),
    ]
    assert found.outside is not None
    assert (found.outside.selector, found.outside.namespaces) == ((("app", "a"),), ("default",))


def by_key(documents: list[Document]) -> dict[str, Document]:
    return {document.key: document for document in documents}


def test_workload_entries_that_come_and_go_are_seen() -> None:
    lowerer, selecting, other = (
        Lowerer(),
        entry(SELECTING),
        workload_entry("w", "{address: 10.0.0.2, labels: {app: a}}"),
    )
    counts = [
        len(
            lowerer.lower(by_key(documents), dict.fromkeys(CATALOG, True))
            .outside[ServiceKey("", "a.example")]
            .instances
        )
        for documents in ([selecting], [selecting, other], [selecting])
    ]
    assert counts == [0, 1, 0]


@pytest.mark.parametrize(
    ("location", "endpoint", "proxied"),
    [
        ("MESH_INTERNAL", "serviceAccount: a", True),
        ("MESH_EXTERNAL", "serviceAccount: a", False),
        ("MESH_INTERNAL", "labels: {x: y}", False),
        ("MESH_INTERNAL", "labels: {security.istio.io/tlsMode: istio}", True),
        ("MESH_INTERNAL", "serviceAccount: a, labels: {security.istio.io/tlsMode: disabled}", False),
    ],
)
def test_who_is_called_with_mutual_tls(location: str, endpoint: str, proxied: bool) -> None:
    endpoints = f"[{{address: 10.0.0.1, {endpoint}}}]"
    spec = f"{{hosts: [a.example], location: {location}, resolution: STATIC, endpoints: {endpoints}}}"
    (instance,) = only(entry(spec, namespace="shop")).instances
    assert instance.proxied is proxied
    assert instance.identity.namespace == "shop"


def test_who_sees_an_entry() -> None:
    seen = {"['*']": (), "[.]": ("shop",), "['~']": ("~",), "[., other]": ("other", "shop")}
    for exported, expected in seen.items():
        outside = only(entry(f"{{hosts: [a.example], exportTo: {exported}}}", namespace="shop")).outside
        assert outside is not None
        assert outside.exported_to == expected


def test_rules_are_about_outside_hosts_too() -> None:
    wildcard = "apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {name: r}\nspec:\n"
    rule = one(
        f"{wildcard}  destination: {{service: '*.foo.com'}}\n  httpReqTimeout: {{simpleTimeout: {{timeout: 9s}}}}\n"
    )
    lowered = lower([rule, egress("a", "*.foo.com")], CATALOG)
    assert lowered.faults == ()
    (route,) = lowered.policies[ServiceKey("", "*.foo.com")].routes
    assert route.actions.timeout_seconds == 9
    assert "*.foo.com is not in the catalog" in lower([rule], CATALOG).faults[0].reason


def test_an_unchanged_rule_gives_the_same_objects() -> None:
    lowerer, document = Lowerer(), egress("a", "httpbin.org")
    documents, services = {document.key: document}, dict.fromkeys(CATALOG, True)
    assert lowerer.lower(documents, services).outside is lowerer.lower(dict(documents), services).outside
