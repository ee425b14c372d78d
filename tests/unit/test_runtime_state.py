"""The state folds events; a bad object costs only itself."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network

import pytest

from agent.adapters.consul.catalog import CatalogLost, CatalogRecovered, CatalogSynced, ServiceEntries
from agent.adapters.consul.kv import ConfigUpdate, SettingsUpdate
from agent.mesh.names import config_key
from agent.mesh.service import Instance, Port, Protocol, ServiceKey, Workload
from agent.mesh.settings import MtlsMode
from agent.mesh.status import CertificateStatus
from agent.runtime.certificates import trust_domain_faults
from agent.runtime.events import WorkloadsChanged
from agent.runtime.last_known import decode, encode
from agent.runtime.state import MAX_FAULTS, MeshState

REVIEWS = ServiceKey("default", "reviews")


def instance(name: str = "reviews", node: str = "a", namespace: str = "default") -> Instance:
    return Instance(
        id=f"{name}-{node}",
        service=ServiceKey(namespace, name),
        node=node,
        address="10.0.0.1",
        ports=(Port(9080, "http", Protocol.HTTP),),
        labels=(("version", "v1"),),
    )


def rule(name: str, service: str = "reviews", **spec: object) -> tuple[str, bytes]:
    document = {
        "apiVersion": "config.istio.io/v1alpha2",
        "kind": "RouteRule",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"destination": {"name": service}, "route": [{"labels": {"version": "v1"}}], **spec},
    }
    return config_key("default", "RouteRule", name), json.dumps(document).encode()


@pytest.fixture
def state() -> MeshState:
    return MeshState("a", IPv4Network("240.240.0.0/24"), IPv6Network("fdf0::/112"), {})


def test_services_of_one_catalog_name_are_split_by_namespace(state: MeshState) -> None:
    state.apply([ServiceEntries("reviews", (instance(), instance(node="b", namespace="prod")))])
    assert set(state.snapshot().services) == {REVIEWS, ServiceKey("prod", "reviews")}
    state.apply([ServiceEntries("reviews", (instance(),))])
    assert set(state.snapshot().services) == {REVIEWS}


def sidecar(host: str) -> tuple[str, bytes]:
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"egress": [{"hosts": [host]}]},
    }
    return config_key("default", "Sidecar", "s"), json.dumps(document).encode()


def test_a_sidecar_limits_what_is_planned_and_followed(state: MeshState) -> None:
    assert state.followed == frozenset(), "before the rules are known nothing is followed"
    state.apply(
        [ServiceEntries("reviews", (instance(),)), ServiceEntries("cart", (instance("cart", namespace="shop"),))]
    )
    assert len(state.snapshot().services) == 2
    assert state.followed is None
    key, value = sidecar("./*")
    state.apply([ConfigUpdate(1, {key: (1, value)})])
    assert set(state.snapshot().services) == {REVIEWS}
    assert state.followed == frozenset({"reviews"})
    assert (state.scope.sidecar, state.scope.services, state.scope.known) == ("Sidecar/s.default", 1, 2)
    state.apply([ServiceEntries("ratings", (instance("ratings"),))])
    assert len(state.snapshot().services) == 2, "a service that comes into the scope"
    state.apply([WorkloadsChanged((Workload(ServiceKey("shop", "cart"), "10.0.0.1", ()),))])
    assert len(state.snapshot().services) == 3, "the default workload is in another namespace now"
    assert state.followed is None
    assert state.faults == ()


def test_each_service_has_a_virtual_address_that_stays(state: MeshState) -> None:
    state.apply([ServiceEntries("reviews", (instance(),))])
    before = state.snapshot().vips[REVIEWS]
    state.apply([ServiceEntries("ratings", (instance("ratings"),))])
    assert state.snapshot().vips[REVIEWS] == before
    assert len(set(state.snapshot().vips.values())) == 2


def test_excluded_services_come_back_when_the_setting_goes(state: MeshState) -> None:
    state.apply([ServiceEntries("reviews", (instance(),)), SettingsUpdate(b'{"excludedServices": ["reviews"]}')])
    assert not state.snapshot().services
    state.apply([SettingsUpdate(None)])
    assert set(state.snapshot().services) == {REVIEWS}


def test_a_bad_value_costs_only_itself_and_keeps_its_last_good_form(state: MeshState) -> None:
    state.apply([ServiceEntries("reviews", (instance(),))])
    key, good = rule("one")
    state.apply([ConfigUpdate(1, {key: (1, good)})])
    assert len(state.snapshot().policies[REVIEWS].routes) == 1
    other, also_good = rule("two")
    state.apply([ConfigUpdate(3, {key: (2, b"\xff not json"), other: (3, also_good)})])
    assert len(state.snapshot().policies[REVIEWS].routes) == 2
    assert [fault.subject for fault in state.faults] == [key]
    assert "last good form" in state.faults[0].reason
    state.apply([ConfigUpdate(4, {other: (3, also_good)})])
    assert len(state.snapshot().policies[REVIEWS].routes) == 1
    assert state.faults == ()


def test_a_thousand_bad_keys_are_bounded(state: MeshState) -> None:
    state.apply([ConfigUpdate(1, {f"hostmesh/config/default/routerule/x{n}": (1, b"garbage") for n in range(1000)})])
    state.snapshot()
    assert 1 < len(state.faults) <= 201
    assert "800 more" in state.faults[-1].reason or "800 more" in state.faults[0].reason


def test_bad_settings_keep_the_last_good_ones(state: MeshState) -> None:
    state.apply([SettingsUpdate(b'{"mtls": "strict"}'), SettingsUpdate(b'{"mtls": "sometimes"}')])
    assert state.snapshot().settings.mtls is MtlsMode.STRICT
    assert state.faults[0].subject == "hostmesh/mesh"


def test_losing_consul_is_a_fault_until_it_is_back(state: MeshState) -> None:
    state.apply([ServiceEntries("reviews", (instance(),)), CatalogSynced(), CatalogLost("connection refused")])
    assert set(state.snapshot().services) == {REVIEWS}
    assert "connection refused" in state.faults[0].reason
    state.apply([CatalogRecovered()])
    assert state.faults == ()


def test_the_last_known_state_survives_the_disk_and_forgets_what_is_gone(state: MeshState) -> None:
    key, value = rule("one")
    state.apply([ServiceEntries("reviews", (instance(),)), ServiceEntries("old", (instance("old"),))])
    state.apply([ConfigUpdate(7, {key: (7, value)})])
    again = MeshState("a", IPv4Network("240.240.0.0/24"), IPv6Network("fdf0::/112"), {})
    again.restore(decode(encode(state.last_known("10.0.0.1"))))
    assert again.snapshot().policies == state.snapshot().policies
    assert again.catalog_known
    assert again.config_known
    again.apply([ServiceEntries("reviews", (instance(),)), CatalogSynced()])
    assert set(again.snapshot().services) == {REVIEWS}


def test_thousands_of_faults_are_told_by_the_first_ones_and_their_number(state: MeshState) -> None:
    state.apply([ConfigUpdate(1, {key: (1, value) for key, value in (rule(f"r{n}", "absent") for n in range(3000))})])
    state.apply([CatalogLost("away")])
    state.snapshot()
    faults = state.faults
    assert len(faults) == MAX_FAULTS + 2
    assert faults[-1].reason == f"{3000 - MAX_FAULTS} more faults of this kind"
    assert any(fault.subject == "Consul" for fault in faults)


def test_certificates_of_another_trust_domain_are_a_fault() -> None:
    held = [CertificateStatus(f"spiffe://{domain}/ns/default/sa/x", "1", 0.0) for domain in ("corp", "corp2")]
    assert trust_domain_faults(held[:1], "corp") == ()
    (fault,) = trust_domain_faults(held, "corp")
    assert "corp2" in fault.subject
    assert "trustDomain is corp" in fault.reason


def test_a_host_outside_comes_with_its_rule_and_gives_way_to_the_catalog(state: MeshState) -> None:
    key = ServiceKey("", "ratings")
    spec = {"hosts": ["ratings"], "resolution": "DNS", "ports": [{"number": 80, "name": "http"}]}
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "ratings", "namespace": "default"},
        "spec": spec,
    }
    values = {config_key("default", "ServiceEntry", "ratings"): (1, json.dumps(document).encode())}
    state.apply([ConfigUpdate(1, values)])
    before = state.snapshot()
    assert set(before.services) == {key}
    assert key in before.vips
    state.apply([ServiceEntries("ratings", (instance("ratings"),))])
    assert set(state.snapshot().services) == {ServiceKey("default", "ratings")}
    assert "the service ratings.default of the catalog" in state.faults[0].reason
    state.apply([ServiceEntries("ratings", ())])
    assert set(state.snapshot().services) == {key}
    assert state.snapshot().vips[key] == before.vips[key]
    assert state.faults == ()
    state.apply([ConfigUpdate(2, {})])
    assert state.snapshot().services == {}


def test_the_revision_is_0_until_there_is_a_rule_and_never_goes_back(state: MeshState) -> None:
    state.apply([ConfigUpdate(17, {})])  # of no key at all Consul says some index, to each node another one
    assert state.revision == 0
    key, value = rule("a")
    state.apply([ConfigUpdate(20, {key: (20, value)})])
    assert state.revision == 20
    state.apply([ConfigUpdate(31, {})])
    assert state.revision == 31
