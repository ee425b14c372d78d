"""Routes of connections: from rules to filter chains, among which Envoy's choice is the first rule that holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network

import pytest
from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from agent.api.document import Document
from agent.api.lowering.lower import lower
from agent.api.validate import validate
from agent.mesh.names import LISTENER_TYPE, ROUTE_TYPE
from agent.mesh.routes import ConnectionMatch
from agent.mesh.service import Port, Protocol, Service
from agent.mesh.snapshot import Desired, MeshSnapshot
from agent.translate.connections import Cell, decision_table
from agent.translate.plan import Planner
from tests.unit.api_samples import one
from tests.unit.mesh_samples import HTTP, MYSQL, OPTIONS, V4, mesh, service, workload

TLS = Port(443, "tls", Protocol.TLS)
BOTH = "route: [{destination: {host: db, subset: v1}, weight: 90}, {destination: {host: db, subset: v2}, weight: 10}]"

NAMES = ["", "a.com", "b.a.com", "c.b.a.com", "com", "x.org"]
PATTERNS = ["*", "*.com", "*.a.com", "*.b.a.com", "a.com", "b.a.com", "C.b.a.com", "x.org"]
RANGES = ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "10.1.2.3/16", "192.168.0.0/16", "::/0", "fd00::/8"]
ADDRESSES = ["10.1.2.3", "10.1.9.9", "10.2.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001::1"]


def some(values: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=2).map(tuple)


MATCHES = st.builds(ConnectionMatch, some(PATTERNS), some(RANGES), some(RANGES))


@given(st.lists(st.lists(MATCHES, min_size=1, max_size=3), max_size=6), st.data())
def test_envoy_chooses_the_first_rule_that_holds(choices: list[list[ConnectionMatch]], data: st.DataObject) -> None:
    outcomes = data.draw(st.lists(st.integers(0, 2), min_size=len(choices), max_size=len(choices)))
    cells = decision_table(choices, outcomes)
    for _ in range(20):
        name, destination = data.draw(st.sampled_from(NAMES)), data.draw(st.sampled_from(ADDRESSES))
        source = data.draw(st.sampled_from(ADDRESSES))
        wanted = next(
            (
                outcomes[i]
                for i, matches in enumerate(choices)
                if any(holds(m, name, destination, source) for m in matches)
            ),
            None,
        )
        assert chosen(cells, name, destination, source) == wanted


def holds(match: ConnectionMatch, name: str, destination: str, source: str) -> bool:
    """Tell, from the words of the API, whether a condition holds."""
    return (
        any(named(pattern.lower(), name) for pattern in match.server_names or ("*",))
        and within(match.destinations, destination)
        and within(match.sources, source)
    )


def named(pattern: str, name: str) -> bool:
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def within(ranges: Sequence[str], address: str) -> bool:
    return not ranges or any(ip_address(address) in ip_network(each, strict=False) for each in ranges)


def chosen(cells: Sequence[Cell], name: str, destination: str, source: str) -> int | None:
    """Choose as Envoy does (listener_components.proto, FilterChainMatch): one criterion after the other, never back."""
    left = narrowest(cells, [cell.destinations for cell in cells], destination)
    labels = name.split(".")
    patterns = [name, *(f"*.{'.'.join(labels[cut:])}" for cut in range(1, len(labels)))] if name else []
    for pattern in patterns:
        if found := [cell for cell in left if pattern in cell.server_names]:
            left = found
            break
    else:
        left = [cell for cell in left if not cell.server_names]
    left = narrowest(left, [cell.sources for cell in left], source)
    assert len(left) <= 1, "Envoy refuses two filter chains with one match"
    return left[0].choice if left else None


def narrowest(cells: Sequence[Cell], ranges: Sequence[tuple[str, ...]], address: str) -> list[Cell]:
    """Return the cells of the longest prefix that the address has; no range is the prefix of length 0."""
    best: dict[int, list[Cell]] = {}
    for cell, of_cell in zip(cells, ranges, strict=True):
        networks = [ip_network(each) for each in of_cell] or [ip_network("0.0.0.0/0"), ip_network("::/0")]
        lengths = [network.prefixlen for network in networks if ip_address(address) in network]
        if lengths:
            best.setdefault(max(lengths), []).append(cell)
    return best[max(best)] if best else []


def test_one_rule_for_all_is_one_chain_without_conditions() -> None:
    first_for_all = [(ConnectionMatch(),), (ConnectionMatch(("a.com",)),)]
    assert decision_table(first_for_all, [0, 1]) == (Cell((), (), (), 0),)
    assert decision_table([(ConnectionMatch(("b.com", "a.com")),)], [0]) == (Cell((), ("a.com", "b.com"), (), 0),)


def test_zones_of_addresses_are_nothing_to_envoy() -> None:
    table = decision_table([(ConnectionMatch(destinations=("fe80::1%eth0", "fe80::2%1/64")),)], [0])
    assert table == (Cell(("fe80::/64",), (), (), 0),)


def rule(spec: str, name: str = "db") -> Document:
    text = f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    document = one(text)
    assert validate(document) == []
    return document


def old_rule(name: str, spec: str) -> Document:
    text = f"apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    document = one(text)
    assert validate(document) == []
    return document


SUBSETS = one(
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: db}\n"
    "spec: {host: db, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}\n"
)


def snapshot(documents: Sequence[Document], *services: Service) -> MeshSnapshot:
    base = mesh([*services, service("page")], workloads=(workload("page"),), certified=False)
    lowered = lower([SUBSETS, *documents], base.services)
    assert lowered.faults == ()
    return structs.replace(base, policies=lowered.policies)


def plan(*documents: Document, port: Port = MYSQL) -> Desired:
    desired = Planner().plan(snapshot(documents, service("db", port=port)), OPTIONS)
    assert desired.resources.dangling() == []
    return desired


def chains(desired: Desired, port: Port = MYSQL) -> list[tuple[list[str], list[str], list[str], dict[str, int]]]:
    """Return the server names, destinations, sources and clusters (with weights) of the service's filter chains."""
    (held,) = (h for name, h in desired.resources.of(LISTENER_TYPE).items() if name.endswith(f"_{port.number}"))
    found = []
    for chain in listener_pb2.Listener.FromString(held.value).filter_chains:
        match = chain.filter_chain_match
        clusters: dict[str, int] = {}
        for each in chain.filters:
            proxy = tcp_proxy_pb2.TcpProxy.FromString(each.typed_config.value)
            weights = {one.name: one.weight for one in proxy.weighted_clusters.clusters} or {proxy.cluster: 100}
            clusters = {name.split("|")[2]: weight for name, weight in weights.items()}
        found.append(
            (list(match.server_names), cidrs(match.prefix_ranges), cidrs(match.source_prefix_ranges), clusters)
        )
    return found


def cidrs(ranges: Iterable[address_pb2.CidrRange]) -> list[str]:
    return [f"{one.address_prefix}/{one.prefix_len.value}" for one in ranges]


def test_tcp_routes_in_the_mesh_split_by_weight() -> None:
    assert chains(plan(rule(f"{{hosts: [db], tcp: [{{{BOTH}}}]}}"))) == [([], [], [], {"v1": 90, "v2": 10})]


def test_what_no_tcp_route_is_for_goes_to_all_instances() -> None:
    spec = f"{{hosts: [db], tcp: [{{match: [{{destinationSubnets: [{V4}, 10.0.0.0/8]}}], {BOTH}}}]}}"
    weights = {"v1": 90, "v2": 10}
    assert chains(plan(rule(spec))) == [([], ["10.0.0.0/8", str(V4)], [], weights), ([], [], [], {"": 100})]


@pytest.mark.parametrize(
    ("match", "holds_here"),
    [
        ("{port: 3306}", True),
        ("{port: 1}", False),
        ("{sourceLabels: {app: other}}", False),
        ("{sourceNamespace: default}", True),
        ("{sourceNamespace: other}", False),
        ("{sourceSubnet: 10.0.0.0/24}", True),
        ("{sourceSubnet: 10.9.0.0/16}", False),
        ("{gateways: [mesh]}", True),
    ],
)
def test_conditions_about_the_caller_are_decided_at_planning(match: str, holds_here: bool) -> None:
    found = chains(plan(rule(f"{{hosts: [db], gateways: [mesh, edge], tcp: [{{match: [{match}], {BOTH}}}]}}")))
    assert found == [([], [], [], {"v1": 90, "v2": 10} if holds_here else {"": 100})]


def test_a_source_is_looked_at_by_envoy_where_the_host_has_no_workload() -> None:
    document = rule(f"{{hosts: [db], tcp: [{{match: [{{sourceSubnet: 10.0.0.0/24}}], {BOTH}}}]}}")
    state = structs.replace(snapshot([document], service("db", port=MYSQL)), workloads=())
    weights = {"v1": 90, "v2": 10}
    found = chains(Planner().plan(state, OPTIONS))
    assert sorted(found) == [([], [], [], {"": 100}), ([], [], ["10.0.0.0/24"], weights)]


TO_V2 = "route: [{destination: {host: db, subset: v2}}]"


def test_tls_routes_in_the_mesh_go_by_server_name_in_order() -> None:
    names = "[{match: [{sniHosts: [a.example.com]}], route: [{destination: {host: db, subset: v1}}]}"
    spec = f'{{hosts: [db, "*.example.com"], tls: {names}, {{match: [{{sniHosts: ["*.example.com"]}}], {TO_V2}}}]}}'
    document = rule(spec.replace('[db, "*.example.com"]', '["*.example.com", db]'))
    base = mesh([service("db", port=TLS)], workloads=(workload("page"),), certified=False)
    lowered = lower([SUBSETS, document], base.services)
    assert [fault.reason for fault in lowered.faults] == ["service *.example.com is not in the catalog"]
    desired = Planner().plan(structs.replace(base, policies=lowered.policies), OPTIONS)
    assert chains(desired, TLS) == [
        (["*.example.com"], [], [], {"v2": 100}),
        (["a.example.com"], [], [], {"v1": 100}),
    ], "other server names get no connection"
    (held,) = (h for name, h in desired.resources.of(LISTENER_TYPE).items() if name.endswith("_443"))
    assert b"tls_inspector" in held.value


def test_tls_and_tcp_routes_are_for_their_kind_of_port() -> None:
    tls = "[{match: [{sniHosts: [db]}], route: [{destination: {host: db, subset: v1}}]}]"
    document = rule(f"{{hosts: [db], tls: {tls}, tcp: [{{{TO_V2}}}]}}")
    assert chains(plan(document)) == [([], [], [], {"v2": 100})]
    assert chains(plan(document, port=TLS), TLS) == [(["db"], [], [], {"v1": 100})]


def test_requests_without_http_routes_go_to_all_instances() -> None:
    desired = plan(rule(f"{{hosts: [db], tcp: [{{{TO_V2}}}]}}"), port=HTTP)
    table = route_pb2.RouteConfiguration.FromString(desired.resources.of(ROUTE_TYPE)["9080"].value)
    (host,) = (host for host in table.virtual_hosts if host.name.startswith("db."))
    assert [route.route.cluster for route in host.routes] == ["outbound|9080||db.service.consul"]
    assert [fault.subject for fault in desired.faults] == ["VirtualService/db.default"]


def test_a_rule_that_no_port_can_follow_is_a_fault() -> None:
    document = rule("{hosts: [db], http: [{route: [{destination: {host: db}}]}]}")
    (fault,) = plan(document).faults
    assert fault.subject == "VirtualService/db.default"
    assert fault.reason == "has no effect on db.default: it has no routes for what its ports speak (3306 mysql)"


def test_a_route_whose_destination_is_missing_closes_its_connections() -> None:
    gone = "{match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: gone}}]}"
    base = mesh([service("db", port=MYSQL)], workloads=(workload("page"),), certified=False)
    lowered = lower([SUBSETS, rule(f"{{hosts: [db], tcp: [{gone}, {{{TO_V2}}}]}}")], base.services)
    assert [fault.reason for fault in lowered.faults] == ["service gone is not in the catalog"]
    desired = Planner().plan(structs.replace(base, policies=lowered.policies), OPTIONS)
    assert chains(desired) == [([], ["10.0.0.0/8"], [], {}), ([], [], [], {"v2": 100})]
    alone = lower([rule(f"{{hosts: [db], tcp: [{gone}]}}")], base.services)
    assert alone.policies == {}, "an object that leads nowhere at all is left out"


def test_route_rules_about_tcp_stand_in_order_of_precedence() -> None:
    documents = [
        old_rule("all", "{destination: {name: db}, route: [{labels: {version: v1}}]}"),
        old_rule(
            "some",
            "{destination: {name: db}, precedence: 1, match: {tcp: {destination_subnet: [10.0.0.0/8]}},"
            " route: [{labels: {version: v2}}]}",
        ),
        old_rule("page", "{destination: {name: db}, precedence: 2, redirect: {uri: /x}}"),
    ]
    desired = plan(*documents)
    assert chains(desired) == [
        ([], ["10.0.0.0/8"], [], {"version=v2": 100}),
        ([], [], [], {"version=v1": 100}),
    ], "an answer to requests is not for connections"
    assert [fault.subject for fault in desired.faults] == ["RouteRule/page.default"]
