"""The rules of one delta ADS stream, one example each; random ones are in test_xds_model."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest as Request
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse as Response

from agent.adapters.xds.delta import DeltaStream, Limits, ProtocolError
from agent.adapters.xds.response import REASON_LIMIT, one_line
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE
from agent.mesh.routes import Fault
from agent.mesh.snapshot import Resource, Resources
from tests.unit.xds_model import make, state

WAIT = Limits().stage_wait


def cluster(name: str, number: int = 0) -> Resource:
    return make(CLUSTER_TYPE, name, number, (ENDPOINT_TYPE, name))


def plain(name: str, number: int = 0) -> Resource:
    return make(CLUSTER_TYPE, name, number)


def endpoints(name: str, number: int = 0) -> Resource:
    return make(ENDPOINT_TYPE, name, number)


def request(
    stream: DeltaStream, type_url: str, *subscribe: str, now: float = 0.0, versions: dict[str, str] | None = None
) -> list[Response]:
    stream.receive(
        Request(type_url=type_url, resource_names_subscribe=subscribe, initial_resource_versions=versions or {}),
        now,
    )
    return stream.responses(now)


def ack(stream: DeltaStream, response: Response, error: str = "", now: float = 0.0) -> list[Response]:
    answer = Request(type_url=response.type_url, response_nonce=response.nonce)
    if error:
        answer.error_detail.message = error
    stream.receive(answer, now)
    return stream.responses(now)


def publish(stream: DeltaStream, revision: int, *made: Resource, now: float = 0.0) -> list[Response]:
    stream.publish(state(made), revision, now)
    return stream.responses(now)


def said(responses: Sequence[Response]) -> list[tuple[str, list[str], list[str]]]:
    return [
        (each.type_url, [entry.name for entry in each.resources], list(each.removed_resources)) for each in responses
    ]


def connected(*made: Resource) -> DeltaStream:
    """Return a stream on which all of this was asked for, sent and acked as revision 1."""
    stream = DeltaStream()
    stream.publish(state(made), 1, 0.0)
    waiting = request(stream, CLUSTER_TYPE) + request(stream, LISTENER_TYPE)
    for type_url in (ENDPOINT_TYPE, ROUTE_TYPE, SECRET_TYPE):
        names = [each.name for each in made if each.type_url == type_url]
        waiting += request(stream, type_url, *names) if names else []
    while waiting:
        waiting += ack(stream, waiting.pop(0))
    assert stream.acked_revision == 1
    return stream


def test_nothing_is_said_before_the_first_publish() -> None:
    stream = DeltaStream()
    assert request(stream, CLUSTER_TYPE, versions={"old": "1"}) == []
    assert request(stream, ENDPOINT_TYPE, "old") == []
    assert not stream.settled
    assert said(publish(stream, 1, cluster("old"))) == [
        (CLUSTER_TYPE, ["old"], []),
        (ENDPOINT_TYPE, [], ["old"]),
    ]


def test_an_empty_mesh_is_answered_once() -> None:
    stream = DeltaStream()
    stream.publish(Resources(), 1, 0.0)
    (first,) = request(stream, CLUSTER_TYPE)
    assert said([first]) == [(CLUSTER_TYPE, [], [])]
    assert request(stream, LISTENER_TYPE) == []
    (second,) = ack(stream, first)
    assert said([second]) == [(LISTENER_TYPE, [], [])]
    assert ack(stream, second) == []
    assert stream.acked_revision == 1


def test_absent_is_said_at_once_and_later_creation_is_sent() -> None:
    stream = connected()
    assert said(request(stream, ENDPOINT_TYPE, "a")) == [(ENDPOINT_TYPE, [], ["a"])]
    assert said(publish(stream, 2, endpoints("a"))) == [(ENDPOINT_TYPE, ["a"], [])]


def test_what_is_not_subscribed_is_not_sent() -> None:
    stream = connected()
    assert publish(stream, 2, endpoints("a")) == []
    assert stream.acked_revision == 2


def test_a_name_subscribed_again_is_answered_again() -> None:
    stream = connected(endpoints("a"))
    assert said(request(stream, ENDPOINT_TYPE, "a")) == [(ENDPOINT_TYPE, ["a"], [])]


def test_unsubscribed_names_are_silent() -> None:
    stream = connected(endpoints("a"))
    stream.receive(Request(type_url=ENDPOINT_TYPE, resource_names_unsubscribe=["a", "unknown"]), 0.0)
    assert publish(stream, 2, endpoints("a", 1)) == []
    assert publish(stream, 3) == []


def test_an_explicit_wildcard_can_be_given_up() -> None:
    stream = DeltaStream()
    stream.publish(state([cluster("a"), cluster("b")]), 1, 0.0)
    assert said(request(stream, CLUSTER_TYPE, "*", "a")) == [(CLUSTER_TYPE, ["a", "b"], [])]
    stream.receive(Request(type_url=CLUSTER_TYPE, resource_names_unsubscribe=["*"]), 0.0)
    assert said(publish(stream, 2, cluster("a", 1), cluster("b", 1))) == [(CLUSTER_TYPE, ["a"], [])]


def test_reconnect_with_versions() -> None:
    stream = DeltaStream()
    made = [cluster("same"), cluster("changed", 1), cluster("new")]
    stream.publish(state(made), 1, 0.0)
    versions = {"same": made[0].version, "changed": "old", "gone": "old"}
    (update,) = request(stream, CLUSTER_TYPE, versions=versions)
    assert said([update]) == [(CLUSTER_TYPE, ["changed", "new"], [])]
    assert said(ack(stream, update)) == [(CLUSTER_TYPE, [], ["gone"])]


def test_stages_make_before_break() -> None:
    before = (cluster("old"), endpoints("old"), make(LISTENER_TYPE, "l", 0), make(ROUTE_TYPE, "r", 0))
    stream = connected(*before)
    after = (cluster("new"), endpoints("new"), make(LISTENER_TYPE, "l", 1), make(ROUTE_TYPE, "r", 1))
    (clusters,) = publish(stream, 2, *after)
    assert said([clusters]) == [(CLUSTER_TYPE, ["new"], [])]
    (warms,) = request(stream, ENDPOINT_TYPE, "new")
    assert ack(stream, warms) == []
    (listeners,) = ack(stream, clusters)
    assert said([listeners]) == [(LISTENER_TYPE, ["l"], [])]
    (routes,) = ack(stream, listeners)
    assert said([routes]) == [(ROUTE_TYPE, ["r"], [])]
    (removed,) = ack(stream, routes)
    assert said([removed]) == [(CLUSTER_TYPE, [], ["old"])]
    assert stream.acked_revision == 1
    ack(stream, removed)
    stream.receive(Request(type_url=ENDPOINT_TYPE, resource_names_unsubscribe=["old"]), 0.0)
    assert stream.responses(0.0) == []


def test_a_stage_waits_no_longer_than_its_limit() -> None:
    stream = connected(make(ROUTE_TYPE, "r", 0))
    (clusters,) = publish(stream, 2, cluster("c"), make(ROUTE_TYPE, "r", 1))
    assert stream.deadline(0.0) == WAIT
    assert stream.responses(WAIT / 2) == []
    (routes,) = stream.responses(WAIT)
    assert said([routes]) == [(ROUTE_TYPE, ["r"], [])]
    ack(stream, routes, now=WAIT)
    assert stream.acked_revision == 1, "the cluster is still unanswered"
    ack(stream, clusters, now=WAIT)
    request(stream, ENDPOINT_TYPE, "c", now=WAIT)
    assert stream.deadline(WAIT) == WAIT + Limits().silence


def test_silence_is_a_fault_in_the_end() -> None:
    stream = connected()
    (sent,) = publish(stream, 2, plain("c"))
    silence = Limits().silence
    assert stream.deadline(0.0) == silence
    assert stream.responses(silence) == []
    assert [fault.subject for fault in stream.faults] == ["c"]
    ack(stream, sent, now=silence)
    assert stream.faults == ()


def test_endpoints_go_again_once_to_an_envoy_that_does_not_ask_for_clusters() -> None:
    stream = DeltaStream()
    held = endpoints("a")
    stream.publish(state([cluster("a"), held]), 1, 0.0)
    assert request(stream, ENDPOINT_TYPE, "a", versions={"a": held.version}) == []
    grace = stream.deadline(0.0)
    assert grace == Limits().cluster_grace
    (sent,) = stream.responses(grace)
    assert said([sent]) == [(ENDPOINT_TYPE, ["a"], [])]
    assert ack(stream, sent, now=grace) == []
    assert stream.deadline(grace) is None
    assert stream.responses(10 * grace) == []


def test_endpoints_held_go_again_for_a_cluster_that_changed_just_before_they_were_asked_for() -> None:
    stream = DeltaStream()
    held, other = endpoints("a"), endpoints("b")
    stream.publish(state([cluster("a", 1), held, cluster("b"), other]), 1, 0.0)
    (clusters,) = request(stream, CLUSTER_TYPE, versions={"a": "old", "b": cluster("b").version})
    assert said([clusters]) == [(CLUSTER_TYPE, ["a"], [])]
    versions = {"a": held.version, "b": other.version}
    assert said(request(stream, ENDPOINT_TYPE, "a", "b", versions=versions)) == [(ENDPOINT_TYPE, ["a"], [])]


def test_secrets_and_endpoints_do_not_wait_for_warming_clusters() -> None:
    stream = connected(endpoints("a"), make(SECRET_TYPE, "s", 0))
    sent = publish(stream, 2, cluster("slow"), endpoints("a", 1), make(SECRET_TYPE, "s", 1))
    assert [each.type_url for each in sent] == [CLUSTER_TYPE, ENDPOINT_TYPE, SECRET_TYPE]


def test_a_publish_in_the_middle_supersedes() -> None:
    stream = connected(make(ROUTE_TYPE, "r", 0))
    (first,) = publish(stream, 2, cluster("c1"), make(ROUTE_TYPE, "r", 1))
    (second,) = publish(stream, 3, cluster("c1"), cluster("c2"), make(ROUTE_TYPE, "r", 2))
    assert said([second]) == [(CLUSTER_TYPE, ["c2"], [])]
    assert ack(stream, first) == []
    (routes,) = ack(stream, second)
    assert routes.resources[0].version == make(ROUTE_TYPE, "r", 2).version


def test_the_revision_waits_for_what_a_listener_refers_to() -> None:
    stream = connected()
    listener = make(LISTENER_TYPE, "l", 0, (ROUTE_TYPE, "r"))
    (sent,) = publish(stream, 2, listener, make(ROUTE_TYPE, "r", 0))
    ack(stream, sent)
    assert stream.acked_revision == 1
    (routes,) = request(stream, ROUTE_TYPE, "r")
    ack(stream, routes)
    assert stream.acked_revision == 2


def test_what_is_acked_after_its_removal_is_not_waited_for() -> None:
    stream = connected()
    (withheld,) = publish(stream, 2, cluster("c"), endpoints("c"))
    (warms,) = request(stream, ENDPOINT_TYPE, "c")
    ack(stream, warms)
    (removed,) = publish(stream, 3, now=WAIT)
    assert said([removed]) == [(CLUSTER_TYPE, [], ["c"])]
    stream.receive(Request(type_url=ENDPOINT_TYPE, resource_names_unsubscribe=["c"]), WAIT)
    ack(stream, withheld, now=WAIT)
    ack(stream, removed, now=WAIT)
    assert stream.acked_revision == 3


def test_a_refused_response_is_taken_apart() -> None:
    stream = connected(plain("a"), plain("b"))
    changed = (plain("a", 1), plain("b", 1), plain("c"))
    (sent,) = publish(stream, 2, *changed)
    alone = ack(stream, sent, error="b is bad\n  very")
    assert said(alone) == [(CLUSTER_TYPE, [name], []) for name in ("a", "b", "c")]
    ack(stream, alone[0])
    ack(stream, alone[1], error="b is bad\n  very")
    assert not stream.settled
    ack(stream, alone[2])
    assert stream.settled
    assert stream.faults == (Fault("b", "Envoy refused this Cluster: b is bad very"),)
    assert publish(stream, 3, *changed, plain("d"))[0].resources[0].name == "d"
    # Its earlier form is what Envoy still holds.
    assert said(publish(stream, 4, plain("a", 1), plain("b"), plain("c"), plain("d"))) == []
    assert stream.faults == ()


def test_a_late_refusal_of_superseded_content_is_no_fault() -> None:
    stream = connected()
    (first,) = publish(stream, 2, cluster("a", 1))
    (second,) = publish(stream, 3, cluster("a", 2))
    assert ack(stream, first, error="bad") == []
    assert stream.faults == ()
    ack(stream, second)
    assert stream.faults == ()


def test_unknown_nonces_say_nothing() -> None:
    stream = connected()
    (sent,) = publish(stream, 2, cluster("a"))
    stream.receive(Request(type_url=CLUSTER_TYPE, response_nonce="77"), 0.0)
    assert stream.acked_revision == 1
    ack(stream, sent)


def test_what_a_last_good_form_needs_stays() -> None:
    before = (cluster("old"), endpoints("old"), make(ROUTE_TYPE, "r", 0, (CLUSTER_TYPE, "old")))
    stream = connected(*before)
    (routes,) = publish(stream, 2, make(ROUTE_TYPE, "r", 1), endpoints("old"))
    assert ack(stream, routes, error="bad route") == []
    (good,) = publish(stream, 3, make(ROUTE_TYPE, "r", 2), endpoints("old"))
    assert said(ack(stream, good)) == [(CLUSTER_TYPE, [], ["old"])]


def test_large_answers_are_cut() -> None:
    stream = DeltaStream(Limits(response_resources=3))
    stream.publish(state([cluster(f"c{number}") for number in range(7)]), 1, 0.0)
    assert [len(each.resources) for each in request(stream, CLUSTER_TYPE)] == [3, 3, 1]
    stream = DeltaStream(Limits(response_bytes=10))
    stream.publish(state([cluster("a"), cluster("b")]), 1, 0.0)
    assert [len(each.resources) for each in request(stream, CLUSTER_TYPE)] == [1, 1]


@pytest.mark.parametrize(
    "types", [[""], [f"type{number}" for number in range(40)]], ids=["no type URL", "too many types"]
)
def test_senseless_requests_end_the_stream(types: list[str]) -> None:
    stream = connected()
    for type_url in types[:-20]:
        request(stream, type_url, "x")
    with pytest.raises(ProtocolError):
        request_all(stream, types[-20:])


def request_all(stream: DeltaStream, types: list[str]) -> None:
    for type_url in types:
        request(stream, type_url, "x")


def test_too_many_names_end_the_stream() -> None:
    stream = DeltaStream(Limits(names=10))
    with pytest.raises(ProtocolError, match="more than 10 names"):
        request(stream, ENDPOINT_TYPE, *(f"n{number}" for number in range(11)))


def test_a_reason_is_one_bounded_line_without_keys() -> None:
    assert one_line("a\n\tb\x00c") == "a b c"
    assert len(one_line("x" * 5000)) == REASON_LIMIT
    assert one_line("bad key -----BEGIN PRIVATE KEY-----\nMIIE") == "bad key"
    dumped = 'goo.gle/debugproto name: "x" : Proto constraint validation failed (Cluster.ConnectTimeout)'
    assert one_line(dumped) == "Proto constraint validation failed (Cluster.ConnectTimeout)"


def test_a_change_of_one_costs_little() -> None:
    made = {each.name: each for number in range(2000) for each in [endpoints(f"e{number}")]}
    stream = connected(*made.values())
    assert seconds_of_publish(stream, {**made, "e7": endpoints("e7", 1)}) < 0.05
    assert seconds_of_publish(stream, {name: endpoints(name, 2) for name in made}) < 0.5


def seconds_of_publish(stream: DeltaStream, made: dict[str, Resource]) -> float:
    resources = Resources({ENDPOINT_TYPE: made})
    started = time.perf_counter()
    stream.publish(resources, stream.published_revision + 1, 0.0)
    for response in stream.responses(0.0):
        response.SerializeToString()
    return time.perf_counter() - started
