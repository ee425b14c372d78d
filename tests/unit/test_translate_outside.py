"""plan() with services that rules declare: who gets them, what they become, and what costs a fault."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from agent.api.document import Document
from agent.api.lowering.lower import lower
from agent.mesh.gateway import INGRESS_LABELS
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE
from agent.mesh.service import ServiceKey
from agent.mesh.settings import MeshSettings, OutboundTrafficPolicy
from agent.mesh.snapshot import Desired, MeshSnapshot
from agent.mesh.vips import allocate
from agent.translate.netfilter import NetfilterOptions, OutboundMode
from agent.translate.plan import Planner, PlanOptions
from tests.unit.api_samples import mutated, one
from tests.unit.mesh_samples import V4, V6, mesh, service, workload
from tests.unit.test_api_outside import egress, entry, workload_entry

UPSTREAMS = ("10.0.0.53",)
CAPTURE = NetfilterOptions(proxy_uid=1337, service_cidr_v4=V4, service_cidr_v6=V6)
NARROW = PlanOptions(CAPTURE, dns_upstreams=UPSTREAMS)
WIDE = PlanOptions(structs.replace(CAPTURE, outbound=OutboundMode.ALL), dns_upstreams=UPSTREAMS)
LISTED = PlanOptions(structs.replace(CAPTURE, included_cidrs=(ip_network("10.9.0.0/16"),)), dns_upstreams=UPSTREAMS)
TCP = "resolution: NONE, ports: [{number: 5432, name: tcp}]"


def snapshot(*documents: Document, policy: OutboundTrafficPolicy = OutboundTrafficPolicy.ALLOW_ANY) -> MeshSnapshot:
    """Return a mesh with one service of the catalog, and what the documents declare."""
    base = mesh([service("reviews")], workloads=(workload("reviews"),), certified=False)
    lowered = lower(documents, base.services)
    services = {**base.services, **lowered.outside}
    vips = allocate({}, (key for key, one in services.items() if one.has_address), V4, V6)
    settings = MeshSettings(outbound_traffic_policy=policy)
    return structs.replace(base, services=services, policies=lowered.policies, vips=vips, settings=settings)


def plan(state: MeshSnapshot, options: PlanOptions = NARROW) -> Desired:
    desired = Planner().plan(state, options)
    assert desired.resources.dangling() == []
    return desired


def faults(desired: Desired) -> list[str]:
    return [f"{fault.subject}: {fault.reason}" for fault in desired.faults]


def cluster(desired: Desired, name: str) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster.FromString(desired.resources.of(CLUSTER_TYPE)[name].value)


def listener(desired: Desired, name: str) -> listener_pb2.Listener:
    return listener_pb2.Listener.FromString(desired.resources.of(LISTENER_TYPE)[name].value)


def chains(desired: Desired, name: str) -> list[str]:
    return [chain.name for chain in listener(desired, name).filter_chains]


def test_round_robin_of_several_workloads_is_plain_dns() -> None:
    """Envoy refuses a cluster of one name at a time that has two."""
    selecting = (
        "{hosts: [a.example], resolution: DNS_ROUND_ROBIN, ports: [{number: 80, name: http}], workloadSelector: {}}"
    )
    for count, single in ((1, True), (2, False)):
        workloads = [workload_entry(f"w{number}", f"{{address: w{number}.example}}") for number in range(count)]
        made = cluster(plan(snapshot(entry(selecting), *workloads)), "outbound|80||a.example")
        dns = dns_cluster_pb2.DnsCluster.FromString(made.cluster_type.typed_config.value)
        assert dns.all_addresses_in_single_endpoint is single


def test_an_exact_host_has_a_name_a_cluster_and_a_place_in_the_table() -> None:
    desired = plan(snapshot(egress("a", "httpbin.org")))
    assert desired.faults == ()
    assert " httpbin.org\n" in desired.dns_hosts
    assert cluster(desired, "outbound|80||httpbin.org").cluster_type.name == "envoy.clusters.dns"
    assert b"httpbin.org:80" in desired.resources.of(ROUTE_TYPE)["80"].value


@pytest.mark.parametrize("options", [NARROW, PlanOptions(intercepted=False, bind_outbound="127.0.0.2")])
def test_a_wildcard_needs_more_than_mesh_addresses(options: PlanOptions) -> None:
    desired = plan(snapshot(egress("a", "*.foo.com")), options)
    assert "outbound|80||*.foo.com" not in desired.resources.of(CLUSTER_TYPE)
    assert "EgressRule/a.default: *.foo.com has no effect on this host" in faults(desired)[0]
    assert "set interception.outbound to all" in faults(desired)[0]


def test_a_gateway_says_what_to_do_with_a_wildcard() -> None:
    desired = plan(snapshot(egress("a", "*.foo.com")), PlanOptions(intercepted=False, gateway=INGRESS_LABELS))
    (told,) = faults(desired)
    assert "has no effect on this gateway" in told
    assert "by their whole names" in told


@pytest.mark.parametrize("options", [WIDE, LISTED])
def test_a_wildcard_goes_where_it_was_going(options: PlanOptions) -> None:
    desired = plan(snapshot(egress("a", "*.foo.com", "[{port: 443, protocol: https}]")), options)
    assert desired.faults == ()
    made = cluster(desired, "outbound|443||*.foo.com")
    assert made.type == cluster_pb2.Cluster.ORIGINAL_DST
    assert made.lb_policy == cluster_pb2.Cluster.CLUSTER_PROVIDED
    assert made.HasField("transport_socket")
    assert "*.foo.com" not in desired.dns_hosts


def passing(host: str) -> Document:
    head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: p}\n"
    return one(f"{head}spec: {{host: '{host}', trafficPolicy: {{loadBalancer: {{simple: PASSTHROUGH}}}}}}\n")


@pytest.mark.parametrize(
    "spec",
    [
        "{hosts: ['*.foo.com'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
        "{hosts: ['*.foo.com'], resolution: STATIC, endpoints: [{address: '::1'}], ports: [{number: 80, name: http}]}",
        "{hosts: ['*.foo.com'], ports: [{number: 80, name: http}]}",
    ],
    ids=["DYNAMIC_DNS", "STATIC", "NONE"],
)
def test_passthrough_goes_where_it_was_going(spec: str) -> None:
    desired = plan(snapshot(entry(spec), passing("*.foo.com")), WIDE)
    assert desired.faults == ()
    assert cluster(desired, "outbound|80||*.foo.com").type == cluster_pb2.Cluster.ORIGINAL_DST


def test_passthrough_of_a_host_with_a_virtual_address_is_a_fault() -> None:
    static = (
        "{hosts: [a.foo.com], resolution: STATIC, endpoints: [{address: 10.1.1.1}], ports: [{number: 80, name: http}]}"
    )
    desired = plan(snapshot(entry(static), passing("a.foo.com")), WIDE)
    assert ["PASSTHROUGH of a DestinationRule has no effect" in line for line in faults(desired)] == [True]
    assert cluster(desired, "outbound|80||a.foo.com").type == cluster_pb2.Cluster.EDS


def test_without_an_upstream_server_nothing_is_looked_up_in_circles() -> None:
    desired = plan(snapshot(egress("a", "httpbin.org")), PlanOptions(CAPTURE))
    assert "name some as dns.upstreams" in faults(desired)[0]
    assert "httpbin.org" not in desired.dns_hosts
    assert not any("httpbin" in name for name in desired.resources.of(CLUSTER_TYPE))


@pytest.mark.parametrize(("exported", "seen"), [("['*']", True), ("[.]", False), ("[default]", True), ("['~']", False)])
def test_only_callers_that_an_entry_is_exported_to_have_it(exported: str, seen: bool) -> None:
    spec = f"{{hosts: [a.example], exportTo: {exported}, ports: [{{number: 80, name: http}}]}}"
    desired = plan(snapshot(entry(spec, namespace="shop")))
    assert desired.faults == ()
    assert ("outbound|80||a.example" in desired.resources.of(CLUSTER_TYPE)) is seen
    assert ("a.example" in desired.dns_hosts) is seen


def test_registry_only_is_a_fault_where_it_blocks_nothing() -> None:
    state = snapshot(policy=OutboundTrafficPolicy.REGISTRY_ONLY)
    assert "REGISTRY_ONLY blocks nothing on this host" in faults(plan(state))[0]
    assert faults(plan(state, WIDE)) == []


def test_connections_are_told_apart_on_each_port() -> None:
    tls = "resolution: NONE, ports: [{number: 443, name: tls}]"
    desired = plan(
        snapshot(
            entry(f"{{hosts: ['*.foo.com'], {tls}}}", "a"),
            entry(f"{{hosts: [db.example], addresses: [10.9.0.0/16, 10.8.0.1], {TCP}}}", "b"),
        ),
        WIDE,
    )
    assert desired.faults == ()
    assert chains(desired, "0.0.0.0_443") == ["*.foo.com:443"]
    assert chains(desired, "0.0.0.0_5432") == ["db.example:5432"]
    assert chains(desired, "0.0.0.0_9080") == ["virtual-addresses", "http"]
    assert [f.name for f in listener(desired, "0.0.0.0_5432").listener_filters] == [], "a server may speak first there"


def test_what_cannot_be_told_apart_is_the_first_ones() -> None:
    first, second = (f"{{hosts: [{name}.example], addresses: [10.9.0.0/16], {TCP}}}" for name in "ab")
    desired = plan(snapshot(entry(first, "a"), entry(second, "b")), WIDE)
    assert faults(desired) == ["ServiceEntry/b.default: 10.9.0.0/16 on port 5432 is not b.example's: a.example has it"]
    assert chains(desired, "0.0.0.0_5432") == ["a.example:5432"]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (f"{{hosts: ['*.foo.com'], {TCP}}}", "doesn't say which host it is for (give addresses)"),
        ("{hosts: ['*foo.com'], ports: [{number: 443, name: tls}]}", "must be its whole first label"),
        ("{hosts: [a.example], ports: [{number: 15001, name: http}]}", "port 15001 is Envoy's own"),
        (f"{{hosts: [a.example], addresses: [{V4}], {TCP}}}", "the range of virtual addresses has it"),
    ],
)
def test_what_this_host_cannot_have_costs_a_fault(spec: str, why: str) -> None:
    (fault,) = faults(plan(snapshot(entry(spec)), WIDE))
    assert fault.startswith("ServiceEntry/e.default: ")
    assert why in fault


@pytest.mark.parametrize("options", [NARROW, WIDE])
def test_web_ports_that_no_rule_declares_pass_where_any_may(options: PlanOptions) -> None:
    rule = egress("a", "httpbin.org", "[{port: 8080, protocol: http}, {port: 443, protocol: https}]")
    state = snapshot(rule)
    name = f"{state.vips[ServiceKey('', 'httpbin.org')].v4}_80"
    desired = plan(state, options)
    assert not cluster(desired, "outbound|80||httpbin.org").HasField("transport_socket")
    assert name in desired.resources.of(LISTENER_TYPE)
    strict = plan(snapshot(rule, policy=OutboundTrafficPolicy.REGISTRY_ONLY), options)
    assert name not in strict.resources.of(LISTENER_TYPE)
    assert "outbound|80||httpbin.org" not in strict.resources.of(CLUSTER_TYPE)


def test_a_host_that_no_request_can_name_spoils_no_table() -> None:
    desired = plan(snapshot(egress("a", "*..foo.com"), egress("b", "*.foo.com")), WIDE)
    assert [name for name in desired.resources.of(CLUSTER_TYPE) if "foo.com" in name] == ["outbound|80||*.foo.com"]
    fictional = entry("{hosts: [db.example], addresses: [10.0.0.0/8], ports: [{number: 80, name: http}]}")
    table = plan(snapshot(fictional), WIDE).resources.of(ROUTE_TYPE)["80"]
    hosts = route_pb2.RouteConfiguration.FromString(table.value).virtual_hosts
    assert all(host.domains for host in hosts)
    assert any("db.example" in host.domains for host in hosts)


def changed(before: Desired, after: Desired) -> set[str]:
    """Return the names of the resources that are other objects than before."""
    old = {(kind, name): one for kind, named in before.resources.by_type.items() for name, one in named.items()}
    new = {(kind, name): one for kind, named in after.resources.by_type.items() for name, one in named.items()}
    return {name for kind, name in old.keys() | new.keys() if old.get((kind, name)) is not new.get((kind, name))}


def entries(names: Iterable[str]) -> list[Document]:
    ports = "[{number: 80, name: http}, {number: 443, name: tls}]"
    return [entry(f"{{hosts: [{name}.example], resolution: DNS, ports: {ports}}}", name) for name in names]


def test_one_more_host_changes_its_own_resources_alone() -> None:
    planner = Planner()
    before = planner.plan(snapshot(*entries("ab")), WIDE)
    after = planner.plan(snapshot(*entries("abc")), WIDE)
    vip = allocate({}, (ServiceKey("", f"{name}.example") for name in "abc"), V4, V6)[ServiceKey("", "c.example")].v4
    own = {"outbound|80||c.example", "outbound|443||c.example", f"{vip}_443"}
    assert changed(before, after) == own | {"80", "0.0.0.0_443"}
    assert changed(after, planner.plan(snapshot(*entries("abc")), WIDE)) == set()


SPECS = (
    egress("a", "*.foo.com", "[{port: 80, protocol: http}, {port: 443, protocol: https}]"),
    egress("b", "10.1.0.0/16", "[{port: 27017, protocol: mongo}]"),
    entry(
        "{hosts: [a.example, '*.b.example'], addresses: [10.0.0.1], exportTo: [.], subjectAltNames: [a.example],"
        " ports: [{number: 80, name: http, targetPort: 8080}, {number: 443, name: tls, protocol: TLS}]}"
    ),
    entry(
        "{hosts: [a.example], resolution: STATIC, location: MESH_INTERNAL, ports: [{number: 5432, name: tcp}],"
        " endpoints: [{address: 10.0.0.1, ports: {tcp: 1}, labels: {a: b}, locality: a/b, weight: 1}]}"
    ),
    entry(
        "{hosts: [a.example], resolution: DNS_ROUND_ROBIN, ports: [{number: 80, name: http}],"
        " endpoints: [{address: b.example}]}"
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SPECS), st.data())
def test_whatever_a_document_holds_a_plan_comes_of_it(document: Document, data: st.DataObject) -> None:
    """What validation lets through never breaks the translation."""
    changed = structs.replace(document, spec=data.draw(mutated(dict(document.spec))))
    for options in (NARROW, WIDE):
        plan(snapshot(changed, egress("z", "a.example")), options)
