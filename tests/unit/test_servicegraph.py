"""The service graph: out of samples, in Graphviz' language, and what may be asked."""

from __future__ import annotations

import math

import pytest

from agent.errors import UserError
from agent.servicegraph.dot import dotgraph
from agent.servicegraph.graph import Graph, Node, Sample, Samples, build_graph
from agent.servicegraph.horizon import read_horizon, read_question


def side(which: str, service: str, version: str = "v1", namespace: str = "default") -> dict[str, str]:
    workload = service if service == "unknown" or not version else f"{service}-{version}"
    return {
        f"{which}_workload": workload,
        f"{which}_workload_namespace": namespace,
        f"{which}_canonical_service": service,
        f"{which}_version": version,
    }


def call(source: str, target: str, value: float, reporter: str = "source", **more: str) -> Sample:
    to = {"destination_service_name": target, "destination_service_namespace": "default"}
    labels = {**side("source", source), **side("destination", target), **to, "reporter": reporter, **more}
    return Sample(labels, value)


def answered(code: str, policy: str = "mutual_tls") -> dict[str, str]:
    return {"response_code": code, "connection_security_policy": policy, "request_protocol": "http"}


def test_one_edge_of_several_series() -> None:
    requests = (
        call("productpage", "reviews", 3.0, **answered("200")),
        call("productpage", "reviews", 0.5, **answered("503")),
        call("productpage", "reviews", 0.5, **answered("0")),
    )
    graph = build_graph(
        Samples(
            requests,
            median=(call("productpage", "reviews", 4.0),),
            slowest=(call("productpage", "reviews", math.nan),),
        )
    )
    assert list(graph.nodes) == ["productpage.default (v1)", "reviews.default (v1)"]
    (edge,) = graph.edges
    assert (edge.source, edge.target, edge.protocol) == ("productpage.default (v1)", "reviews.default (v1)", "http")
    assert (edge.rate, edge.errors, edge.p50, edge.p95, edge.mtls) == (4.0, 0.125, 4.0, None, "yes")
    assert edge.labels == {"mTLS": "yes", "reqs/sec": "4.000000", "errors": "12.50%", "p50": "4.0 ms"}


def test_a_call_is_counted_once_and_by_the_caller_if_it_says() -> None:
    both = build_graph(
        Samples(
            (call("a", "b", 2.0, "source", **answered("200")), call("a", "b", 1.0, "destination", **answered("200")))
        )
    )
    assert [edge.rate for edge in both.edges] == [2.0]
    only = build_graph(Samples((call("a", "b", 1.0, "destination", **answered("200", "none")),)))
    assert [(edge.rate, edge.mtls) for edge in only.edges] == [(1.0, "no")]


def test_what_is_not_known_has_a_node_too() -> None:
    nobody = {**side("destination", "unknown", "unknown", "unknown")}
    samples = (
        call("a", "b", 1.0, **answered("503"), **nobody),
        Sample({**call("a", "b", 1.0, "destination").labels, **side("source", "unknown", "unknown", "unknown")}, 1.0),
    )
    graph = build_graph(Samples(samples))
    assert {(edge.source, edge.target) for edge in graph.edges} == {
        ("a.default (v1)", "b.default"),
        ("unknown", "b.default (v1)"),
    }
    assert graph.nodes["b.default"] == Node("b", "default")


def test_mutual_tls_in_part() -> None:
    samples = (call("a", "b", 1.0, **answered("200")), call("a", "b", 1.0, **answered("200", "none")))
    assert build_graph(Samples(samples)).edges[0].mtls == "partly"
    silent = (call("a", "b", 0.0, **answered("200")),)
    assert build_graph(Samples(silent)).edges[0].mtls == "yes"


def test_silence_is_left_out_where_it_is_asked_for() -> None:
    samples = Samples((call("a", "b", 1.0, **answered("200")), call("c", "b", 0.0, **answered("200"))))
    assert len(build_graph(samples).edges) == 2
    graph = build_graph(samples, filter_empty=True)
    assert [edge.source for edge in graph.edges] == ["a.default (v1)"]
    assert list(graph.nodes) == ["a.default (v1)", "b.default (v1)"]


def test_connections_have_an_edge_of_their_own() -> None:
    secure = {"connection_security_policy": "mutual_tls"}
    samples = Samples(
        requests=(call("a", "b", 1.0, **answered("200")),),
        connections=(call("a", "b", 0.5, **secure),),
        sent=(call("a", "b", 100.0),),
        received=(call("a", "b", 20.0),),
    )
    http, tcp = build_graph(samples).edges
    assert (http.protocol, tcp.protocol, tcp.rate, tcp.bytes_per_second, tcp.mtls) == ("http", "tcp", 0.5, 120.0, "yes")


def test_names_are_quoted_in_dot() -> None:
    evil = 'x"]; evil [label="\\'
    text = dotgraph(Graph({evil: Node(evil)}, ()))
    assert '  "x\\"]; evil [label=\\"\\\\";' in text.splitlines()


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("5m", 300_000), ("1h30m", 5_400_000), ("1.5s", 1500), ("1500ms", 1500), ("31d", 2_678_400_000)],
)
def test_spans_of_time(text: str, milliseconds: int) -> None:
    assert read_horizon(text) == milliseconds


@pytest.mark.parametrize("text", ["", "5", "m", "5m]", "-5m", "0s", "999ms", "32d", "5m 3s", "5m" * 30])
def test_spans_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="must be a duration like"):
        read_horizon(text)


def test_questions() -> None:
    question = read_question({"time_horizon": "1m", "filter_empty": "true"})
    assert (question.milliseconds, question.filter_empty) == (60_000, True)
    question = read_question({})
    assert (question.milliseconds, question.filter_empty) == (300_000, False)
    with pytest.raises(UserError, match="must be true or false"):
        read_question({"filter_empty": "perhaps"})
