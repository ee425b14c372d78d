"""What the command line's own words mean: ports, labels, kinds, settings of a connection; and how tables look."""

from __future__ import annotations

import pytest

from agent.cli.kinds import dashed, parse_kind, parse_kinds
from agent.cli.output import table, to_yaml
from agent.cli.ports import parse_pairs, parse_ports
from agent.errors import UserError
from agent.mesh.service import Port, Protocol


@pytest.mark.parametrize(
    ("argument", "port"),
    [
        ("3306", Port(3306, "mysql", Protocol.MYSQL)),
        ("80", Port(80, "http", Protocol.HTTP)),
        ("8080", Port(8080, "http", Protocol.HTTP)),
        ("9080", Port(9080, "http", Protocol.HTTP)),
        ("27017", Port(27017, "mongo", Protocol.MONGO)),
        ("6379", Port(6379, "redis", Protocol.REDIS)),
        ("443", Port(443, "https", Protocol.HTTPS)),
        ("7000", Port(7000, "tcp-7000", Protocol.TCP)),
        ("http:7000", Port(7000, "http", Protocol.HTTP)),
        ("grpc-api:50051", Port(50051, "grpc-api", Protocol.GRPC)),
        ("db:5432", Port(5432, "db", Protocol.TCP)),
    ],
)
def test_a_port_argument(argument: str, port: Port) -> None:
    assert parse_ports([argument]) == (port,)


def test_two_ports_of_one_name_get_names_of_their_own() -> None:
    assert [port.name for port in parse_ports(["80", "8080"])] == ["http", "http-8080"]


@pytest.mark.parametrize("arguments", [["0"], ["65536"], ["http"], [":80"], ["HTTP!:80"], ["-1"], ["80", "80"], ["٣"]])
def test_a_wrong_port_is_refused_with_its_text(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="port"):
        parse_ports(arguments)


def test_labels_come_by_commas_and_by_repetition() -> None:
    assert parse_pairs(["env=prod,version=v2", "app=x"], "label") == (("app", "x"), ("env", "prod"), ("version", "v2"))
    assert parse_pairs(["foo=bar,test"], "annotation", bare=True) == (("foo", "bar"), ("test", ""))


@pytest.mark.parametrize("text", ["v2", "=v2", "a=b,,c=d"])
def test_a_wrong_label_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not key=value"):
        parse_pairs([text], "label")


@pytest.mark.parametrize("word", ["routerule", "routerules", "RouteRule", "route-rule", "ROUTE-RULES", "route_rule"])
def test_a_kind_in_any_spelling(word: str) -> None:
    assert parse_kind(word).name == "RouteRule"


def test_several_kinds() -> None:
    assert [kind.name for kind in parse_kinds("vs,destinationrules,vs")] == ["VirtualService", "DestinationRule"]
    assert {"RouteRule", "VirtualService", "DestinationRule"} <= {kind.name for kind in parse_kinds("all")}


@pytest.mark.parametrize("word", ["pod", "", "routerulez"])
def test_an_unknown_kind_is_refused_with_the_known_ones(word: str) -> None:
    with pytest.raises(UserError, match="route-rule"):
        parse_kind(word)


def test_istioctls_spelling_of_kinds() -> None:
    assert [dashed(kind) for kind in ("RouteRule", "VirtualService", "HTTPAPISpec")] == [
        "route-rule",
        "virtual-service",
        "httpapispec",
    ]


def test_a_table_is_aligned_and_has_no_blanks_at_the_ends() -> None:
    assert table(("A", "LONG"), [("wide cell", "x"), ("y", "")]) == "A          LONG\nwide cell  x\ny"


def test_yaml_documents_are_separated() -> None:
    assert to_yaml({"b": 1, "a": "é"}, {}) == "b: 1\na: é\n---\n{}\n"
