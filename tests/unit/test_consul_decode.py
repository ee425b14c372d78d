"""Catalog JSON → instances: what hostmesh writes comes back whole, what others write never hurts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.consul.decode import MAX_FAULTS, decode_instances, decode_names, decode_tags, name_fault
from agent.adapters.consul.kv import ValuesReader, decode_values, differing_pairs
from agent.adapters.consul.meta import MAX_PAIRS, MAX_VALUE, registration, service_id
from agent.errors import ConsulUnavailable
from agent.mesh.ports import LISTENER_PORTS
from agent.mesh.service import Health, Labels, Locality, Port, Protocol, ServiceKey, labels_of

names = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
label_keys = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,20}[A-Za-z0-9])?", fullmatch=True)
labels = st.dictionaries(label_keys, st.text(max_size=40), max_size=80).map(labels_of)
ports = st.lists(
    st.builds(
        Port, st.integers(1, 65535).filter(lambda it: it not in LISTENER_PORTS), names, st.sampled_from(Protocol)
    ),
    min_size=1,
    max_size=6,
    unique_by=(lambda port: port.number, lambda port: port.name),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


def entry(service: dict[str, Any], checks: tuple[str, ...] = ("passing",)) -> dict[str, Any]:
    return {
        "Node": {"Node": "n1", "Address": "10.0.0.1"},
        "Service": {"ID": "web-1", "Service": "web", "Port": 80, **service},
        "Checks": [{"Status": status} for status in checks],
    }


def body(*entries: object) -> bytes:
    return msgspec.json.encode(entries)


@given(names, names, ports, labels, names, st.booleans())
def test_what_is_registered_is_read_back(
    name: str, namespace: str, ports: list[Port], labels: Labels, account: str, proxied: bool
) -> None:
    key = ServiceKey(namespace, name)
    shape = registration(key, ports, labels, account, proxied=proxied)
    assert len(shape.meta) <= MAX_PAIRS
    assert all(len(value.encode()) <= MAX_VALUE for value in shape.meta.values())
    service = {"ID": service_id(key, 80), "Port": ports[0].number, "Meta": shape.meta, "Tags": shape.tags}
    decoded = decode_instances(name, body(entry(service)))
    assert not decoded.faults
    (instance,) = decoded.instances
    assert (instance.service, instance.ports, instance.proxied) == (key, tuple(sorted(ports)), proxied)
    assert instance.labels == labels
    assert instance.service_account == account


@given(st.binary(max_size=200))
def test_no_json_is_an_outage_and_never_an_empty_service(data: bytes) -> None:
    for decode in (lambda: decode_instances("web", data), lambda: decode_names(data), lambda: decode_values(data)):
        try:
            decode()
        except ConsulUnavailable:
            continue


@given(st.lists(json_values, max_size=5))
def test_a_bad_entry_never_costs_the_good_one(garbage: list[object]) -> None:
    decoded = decode_instances("web", body(*garbage, entry({})))
    assert [instance.id for instance in decoded.instances] == ["web-1"]
    assert len(decoded.faults) == len(garbage)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "Address": st.text(max_size=30),
            "Port": st.integers(-1, 70000),
            "Meta": st.dictionaries(
                st.sampled_from(["namespace", "service-account", "protocol", "port-a", "hostmesh-tls", "x"]),
                st.text(max_size=600),
            ),
            "Tags": st.lists(st.text(max_size=600), max_size=5),
            "ID": st.text(max_size=600),
        },
    )
)
def test_whatever_decodes_is_bounded(service: dict[str, Any]) -> None:
    for instance in decode_instances("web", body(entry(service))).instances:
        assert all(0 < port.number < 65536 for port in instance.ports)
        assert all(len(key) <= 253 and len(value) <= MAX_VALUE for key, value in instance.labels)
        assert len(instance.service.namespace) <= 63
        assert len(instance.id) <= 512


@pytest.mark.parametrize(
    ("checks", "health"),
    [
        ((), Health.PASSING),
        (("passing", "warning"), Health.WARNING),
        (("warning", "critical", "passing"), Health.CRITICAL),
        (("passing", "something new"), Health.CRITICAL),
    ],
)
def test_the_worst_check_counts(checks: tuple[str, ...], health: Health) -> None:
    assert decode_instances("web", body(entry({}, checks))).instances[0].health is health


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ({"Address": "web.example"}, "'web.example' is no IP address"),
        ({"Address": "0.0.0.0"}, "is no IP address of a host"),
        ({"Address": "fe80::1%eth0"}, "is no IP address of a host"),
        ({"Port": 15006}, "port 15006 is one of Envoy's own"),
        ({"Meta": {"namespace": "No Such"}}, "meta namespace 'No Such' is no DNS label"),
        ({"Meta": {"service-account": "a/b"}}, "meta service-account 'a/b' is no account name"),
        ({"Port": "80"}, "can't be read"),
    ],
)
def test_unusable_instances_say_why(service: dict[str, Any], reason: str) -> None:
    decoded = decode_instances("web", body(entry(service)))
    assert decoded.instances == ()
    assert reason in decoded.faults[0].reason


def test_ports_labels_and_defaults_of_foreign_services() -> None:
    def only(service: dict[str, Any]) -> Any:
        (instance,) = decode_instances("web", body(entry(service))).instances
        return instance

    assert only({}).ports == (Port(80, "tcp", Protocol.TCP),)
    assert only({"Meta": {"protocol": "grpc"}}).ports == (Port(80, "grpc", Protocol.GRPC),)
    assert decode_instances("web", body(entry({"Port": 0}))) == decode_instances("web", b"[]")
    tags = ["version=v1", "a|b=c", "urlprefix-/x", "=no", "version=v2"]
    assert only({"Tags": tags}).labels == (("a", "b=c"), ("version", "v1"))
    assert only({"Tags": tags, "Meta": {"version": "v3", "port-range": "1-2"}}).labels == (
        ("a", "b=c"),
        ("port-range", "1-2"),
        ("version", "v3"),
    )
    assert only({"Address": "10.0.0.2"}).address == "10.0.0.2"
    assert only({"Address": ""}).address == "10.0.0.1"


def test_faults_are_bounded() -> None:
    assert len(decode_instances("web", body(*[1] * 1000)).faults) == MAX_FAULTS


def test_names() -> None:
    names = decode_names(b'{"web": ["b", "a"], "consul": [], "hostmesh-agent": []}')
    assert {name: decode_tags(tags) for name, tags in names.items()} == {"web": {"a", "b"}, "consul": frozenset()}
    assert decode_tags(b"7") == frozenset()
    assert name_fault("web-1") is None
    for name in ("", "Web", "a.b", "../x", "a b", "-a", "x" * 64, "a\n"):
        assert name_fault(name) is not None, name


@pytest.mark.parametrize(
    ("node", "locality"),
    [
        ({}, Locality()),
        ({"Datacenter": "dc1", "Meta": None}, Locality("dc1")),
        ({"Datacenter": "dc1", "Meta": {"zone": "z1", "subzone": "rack-2"}}, Locality("dc1", "z1", "rack-2")),
        ({"Datacenter": "dc1", "Meta": {"region": "eu", "zone": "no/slash"}}, Locality("eu")),
    ],
)
def test_locality_is_the_datacenter_and_the_node_s_meta(node: dict[str, Any], locality: Locality) -> None:
    given = entry({})
    given["Node"].update(node)
    (instance,) = decode_instances("web", msgspec.json.encode([given])).instances
    assert instance.locality == locality


kv_keys = st.text('ab/},{"\\LockIndex:é', max_size=14)
kv_values = st.tuples(st.integers(1, 3), st.sampled_from((b"", b"x", b"y" * 300, b"z" * 70_000)))


def kv_answer(pairs: dict[str, tuple[int, bytes]]) -> bytes:
    """Return what Consul answers to a recursive read."""
    return msgspec.json.encode(
        [
            {"LockIndex": 0, "Key": key, "Flags": 0, "Value": value or None, "CreateIndex": 1, "ModifyIndex": index}
            for key, (index, value) in sorted(pairs.items())
        ]
    )


@given(st.lists(st.dictionaries(kv_keys, st.none() | kv_values, max_size=5), max_size=6))
def test_answers_are_read_by_what_differs(rounds: list[dict[str, tuple[int, bytes] | None]]) -> None:
    reader, pairs = ValuesReader(), dict[str, tuple[int, bytes]]()
    for changes in rounds:
        before = reader.read(kv_answer(pairs))
        known = dict(pairs)
        pairs = {key: pair for key, pair in {**pairs, **changes}.items() if pair is not None}
        answer = kv_answer(pairs)
        values = reader.read(answer)
        assert values == decode_values(answer)
        assert (values is before) == (decode_values(answer) == decode_values(kv_answer(known)))
        with pytest.raises(ConsulUnavailable):
            reader.read(answer[:-1] + b"garbage")
        assert reader.read(answer) is values


def test_of_a_large_answer_little_is_read() -> None:
    pairs = {f"hostmesh/config/default/routerule/r{number:05}": (1, b"v" * 400) for number in range(5000)}
    one = kv_answer(pairs)
    changed = {**pairs, "hostmesh/config/default/routerule/r02500": (2, b"w" * 500)}
    del changed["hostmesh/config/default/routerule/r02501"]
    before, after = (decode_values(part) for part in differing_pairs(one, kv_answer(changed)))
    assert before.keys() - after.keys() == {"hostmesh/config/default/routerule/r02501"}
    assert 0 < len(before) < 10
    assert 0 < len(after) < 10
