"""services.d files: what they may hold and what each fault says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.services import read_services
from agent.errors import ConfigError
from agent.mesh.service import Check, Port, Protocol, ServiceKey, Workload


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_services(text, "f.yaml", "10.0.0.1")
    return list(caught.value.problems)


def test_the_least_that_is_needed() -> None:
    assert read_services("name: reviews\nport: 9080\nprotocol: HTTP\n", "f.yaml", "10.0.0.1") == [
        Workload(ServiceKey("default", "reviews"), "10.0.0.1", (Port(9080, "http", Protocol.HTTP),))
    ]


def test_everything() -> None:
    text = """
- name: reviews
  namespace: team
  serviceAccount: bookinfo-reviews
  address: 10.9.9.9
  ports:
  - {name: http, port: 9080}
  - {name: grpc-admin, number: 9090}
  - {port: 3306, protocol: mysql}
  labels: {version: v1, app: reviews}
  proxied: false
  check: {http: /health, port: 8080, interval: 500ms, timeout: 1.5s}
"""
    assert read_services(text, "f.yaml", "10.0.0.1") == [
        Workload(
            ServiceKey("team", "reviews"),
            "10.9.9.9",
            (
                Port(9080, "http", Protocol.HTTP),
                Port(9090, "grpc-admin", Protocol.GRPC),
                Port(3306, "mysql", Protocol.MYSQL),
            ),
            (("app", "reviews"), ("version", "v1")),
            "bookinfo-reviews",
            False,
            Check("/health", 0.5, 1.5, 8080),
        )
    ]


@pytest.mark.parametrize(
    "text", ["name: a\nport: 1\n---\nname: b\nport: 2\n", "- {name: a, port: 1}\n- {name: b, port: 2}\n"]
)
def test_several_services_in_one_file(text: str) -> None:
    assert [workload.service.name for workload in read_services(text, "f.yaml", "::1")] == ["a", "b"]


def test_an_empty_file_declares_nothing() -> None:
    assert read_services("# nothing yet\n", "f.yaml", "::1") == []


def test_nulls_mean_absent() -> None:
    (workload,) = read_services("name: a\nport: 1\nlabels:\ncheck:\naddress:\n", "f.yaml", "10.0.0.1")
    assert (workload.labels, workload.check, workload.address) == ((), Check(), "10.0.0.1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: 1", "f.yaml:1: name: is missing"),
        ("name: A\nport: 1", 'f.yaml:1: service A: name: "A" is not a name'),
        ("name: a", "f.yaml:1: service a: port: is missing (port: 9080, or ports: […] for several)"),
        ("name: a\nport: 1\nports: [{port: 2}]", "f.yaml:3: service a: ports: give port or ports, not both"),
        ("name: a\nport: 0", "f.yaml:2: service a: port: 0 is out of range (1 to 65535)"),
        ("name: a\nprt: 1", "f.yaml:2: service a: prt: unknown field (did you mean port?)"),
        ("name: a\nport: 1\nprotocol: udp", "f.yaml:3: service a: protocol: udp cannot go through the mesh"),
        (
            "name: a\nport: 1\nprotocol: sctp",
            'f.yaml:3: service a: protocol: "sctp" is not allowed (one of http, http2',
        ),
        (
            "name: a\nports: [{name: udp-x, port: 1}]",
            "f.yaml:2: service a: ports[0].name: udp cannot go through the mesh",
        ),
        ("name: a\nports: []", "f.yaml:2: service a: ports: is empty (at least 1)"),
        ("name: a\nports: [{name: x}]", "f.yaml:2: service a: ports[0]: needs its number (port: 9080)"),
        ("name: a\nports:\n- {port: 1}\n- {port: 2}", "f.yaml:4: service a: ports[1]: the name tcp is given twice"),
        (
            "name: a\nports:\n- {port: 1}\n- {port: 1, name: b}",
            "f.yaml:4: service a: ports[1]: the number 1 is given twice",
        ),
        ("name: a\nport: 1\naddress: vm-1", 'f.yaml:3: service a: address: "vm-1" is not an IP address'),
        (
            "name: a\nport: 1\nlabels: {version: 1.0}",
            "f.yaml:3: service a: labels.version: must be text, not a number (put it",
        ),
        (
            "name: a\nport: 1\nlabels: {protocol: x}",
            "f.yaml:3: service a: labels.protocol: is a name hostmesh itself uses",
        ),
        ("name: a\nport: 1\nproxied: x", "f.yaml:3: service a: proxied: must be true or false, not text"),
        (
            "name: a\nport: 1\ncheck: {http: x}",
            'f.yaml:3: service a: check.http: "x" is not a path (it begins with "/")',
        ),
        ("name: a\nport: 1\ncheck: {http: /, tcp: true}", "f.yaml:3: service a: check: give http or tcp, not both"),
        ("name: a\nport: 1\ncheck: {tcp: false}", "f.yaml:3: service a: check: an instance needs a check"),
        (
            "name: a\nport: 1\ncheck: {interval: 5}",
            "f.yaml:3: service a: check.interval: must be a duration such as 5s",
        ),
        ("name: a\nport: 1\ncheck: {interval: 0s}", 'f.yaml:3: service a: check.interval: "0s" is not a duration'),
        ("name: a\nport: 1\n---\nname: a\nport: 1", "f.yaml:1: service a.default: port 1 is declared twice (keep one)"),
        ("- 1", "f.yaml:1: must be a mapping, not a number"),
        ("name: *", "f.yaml:1: not YAML: "),
    ],
)
def test_refused(text: str, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


def test_all_problems_at_once() -> None:
    text = "name: A\nport: 0\n---\nname: b\nport: 1\nlabels: {x: 1}\n"
    assert [problem.split(": ")[0] for problem in problems(text)] == ["f.yaml:1", "f.yaml:2", "f.yaml:6"]


@settings(deadline=None)
@given(
    st.text(max_size=100)
    | st.lists(st.sampled_from(["name: a\n", "port: 1\n", "- ", "ports:\n", "check: {}\n"])).map("".join)
)
def test_any_text_gives_workloads_or_one_line_problems(text: str) -> None:
    try:
        read_services(text, "f.yaml", "10.0.0.1")
    except ConfigError as error:
        lines = error.problems
    else:
        lines = ()
    assert all(line.startswith("f.yaml:") and "\n" not in line for line in lines)


def test_a_port_of_envoys_own_is_refused_with_or_without_a_proxy() -> None:
    for proxied in ("true", "false"):
        with pytest.raises(ConfigError, match="one of Envoy's own"):
            read_services(f"name: x\nport: 15006\nproxied: {proxied}\n", "f", "10.0.0.1")


@pytest.mark.parametrize("text", ["port: 22", "port: 8500", "ports: [{name: a, port: 80}, {name: b, number: 8600}]"])
def test_a_port_that_is_never_captured_has_no_proxy(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is never captured.*proxied: false"):
        read_services(f"name: x\n{text}\n", "f", "10.0.0.1")
    assert read_services(f"name: x\n{text}\nproxied: false\n", "f", "10.0.0.1")
