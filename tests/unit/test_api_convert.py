"""v1alpha2 to networking v1: the same policy where nothing changes meaning, a note where something does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from agent.api.conversion.convert import convert
from agent.api.document import Document, read_documents
from agent.api.lowering.lower import lower
from agent.api.validate import find_problems, is_invalid
from agent.mesh.routes import ObjectRef, Route, ServicePolicy
from agent.mesh.service import ServiceKey
from agent.mesh.traffic_policy import TrafficPolicy
from agent.translate.facts import Caller
from agent.translate.locality import SOMEWHERE
from agent.translate.policies import ServiceTraffic

REVIEWS = ServiceKey("default", "reviews")
KEYS = [REVIEWS, ServiceKey("default", "ratings")]
NOWHERE = ObjectRef("", "", "")


def document(kind: str, name: str, spec: dict[str, Any]) -> Document:
    return Document("config.istio.io/v1alpha2", kind, "default", name, {}, {}, spec, "old.yaml")


def reread(plain: list[dict[str, Any]]) -> list[Document]:
    text = "\n---\n".join(msgspec.json.encode(each).decode() for each in plain)
    found, problems = read_documents(text, "new.yaml", "default")
    assert problems == []
    return found


def essence(policy: ServicePolicy) -> list[Any]:
    """What a policy does, without the names that the two generations give to things."""
    routes = [_essence_of_route(route) for route in policy.routes]
    if not policy.default_route and policy.routes and policy.routes[-1].name == "default":
        routes.pop()
    return routes


def _essence_of_route(route: Route) -> Any:
    def target(destination: Any) -> Any:
        return (destination.service, destination.subset.labels if destination.subset else ())

    return (
        [(target(each.destination), each.weight) for each in route.destinations],
        route.matches,
        route.actions,
        [(target(mirror.destination), mirror.percent) for mirror in route.mirrors],
    )


LABELS = st.sampled_from([{}, {"version": "v1"}, {"version": "v2"}, {"version": "v1", "env": "a"}])
STRING = st.sampled_from(["plain", {"exact": "a"}, {"prefix": "/x"}, {"regex": "a.*"}])
HEADERS = st.dictionaries(st.sampled_from(["cookie", "uri", "method", "x-end-user"]), STRING, min_size=1)
PERCENT = st.sampled_from([0.5, 1, 50, 100])
FAULT = st.fixed_dictionaries(
    {},
    optional={
        "delay": st.fixed_dictionaries({"fixedDelay": st.just("7s")}, optional={"percent": PERCENT}),
        "abort": st.fixed_dictionaries({"httpStatus": st.just(500)}, optional={"percent": PERCENT}),
    },
).filter(bool)
ROUTES: st.SearchStrategy[Any] = st.one_of(
    st.just([]),
    LABELS.map(lambda labels: [{"labels": labels}]),
    st.tuples(LABELS, LABELS, st.sampled_from([0, 10, 50])).map(
        lambda drawn: [{"labels": drawn[0], "weight": drawn[2]}, {"labels": drawn[1], "weight": 100 - drawn[2]}]
    ),
)
RULES = st.fixed_dictionaries(
    {"destination": st.just({"name": "reviews"}), "route": ROUTES},
    optional={
        "precedence": st.integers(0, 3),
        "match": st.fixed_dictionaries({"request": st.fixed_dictionaries({"headers": HEADERS})}),
        "rewrite": st.sampled_from([{"uri": "/new"}, {"authority": "other"}]),
        "httpReqTimeout": st.just({"simpleTimeout": {"timeout": "2s"}}),
        "httpReqRetries": st.sampled_from(
            [{"simpleRetry": {"attempts": 3, "perTryTimeout": "1s"}}, {"simpleRetry": {"attempts": 0}}]
        ),
        "httpFault": FAULT,
        "mirror": st.just({"name": "ratings", "labels": {"version": "v1"}}),
        "appendHeaders": st.just({"x-a": "b"}),
        "corsPolicy": st.just({"allowOrigin": ["example.com"], "allowMethods": ["GET"], "maxAge": "1h"}),
    },
)


@settings(deadline=None, max_examples=150)
@given(st.lists(RULES, min_size=1, max_size=4))
def test_converted_rules_mean_the_same(specs: list[dict[str, Any]]) -> None:
    old = [document("RouteRule", f"rule-{index}", spec) for index, spec in enumerate(specs)]
    assert not any(find_problems(each) for each in old)
    converted = convert(old)
    new = reread(converted.documents)
    assert [problem for each in new for problem in find_problems(each)] == []
    before, after = lower(old, KEYS), lower(new, KEYS)
    assert after.faults == ()
    assert essence(before.policies[REVIEWS]) == essence(after.policies[REVIEWS])


def test_what_changes_meaning_is_noted_with_its_place() -> None:
    spec = {"destination": {"name": "reviews"}, "match": {"source": {"name": "productpage"}}, "websocketUpgrade": True}
    converted = convert([document("RouteRule", "a", spec)])
    assert any("spec.match.source: callers are told by their labels now" in note for note in converted.notes)
    assert any("spec.websocketUpgrade: left out" in note for note in converted.notes)
    assert all(note.startswith("old.yaml:1: RouteRule/a: ") for note in converted.notes)


def test_a_destination_policy_becomes_settings_of_its_subset() -> None:
    policy = document(
        "DestinationPolicy",
        "p",
        {
            "destination": {"name": "reviews", "labels": {"version": "v1"}},
            "loadBalancing": {"name": "LEAST_CONN"},
            "circuitBreaker": {"simpleCb": {"maxConnections": 1, "httpConsecutiveErrors": 3, "sleepWindow": "1m"}},
        },
    )
    (rule,) = convert([policy]).documents
    assert rule["spec"] == {
        "host": "reviews",
        "subsets": [
            {
                "name": "v1",
                "labels": {"version": "v1"},
                "trafficPolicy": {
                    "loadBalancer": {"simple": "LEAST_REQUEST"},
                    "connectionPool": {
                        "tcp": {"maxConnections": 1},
                        "http": {"http1MaxPendingRequests": 1024, "http2MaxRequests": 1024, "maxRetries": 3},
                    },
                    "outlierDetection": {
                        "consecutive5xxErrors": 3,
                        "interval": "10s",
                        "baseEjectionTime": "60s",
                        "minHealthPercent": 50,
                    },
                },
            }
        ],
        "trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}},
    }


POLICIES = st.fixed_dictionaries(
    {"destination": LABELS.map(lambda labels: {"name": "reviews", **({"labels": labels} if labels else {})})},
    optional={
        "loadBalancing": st.sampled_from([{"name": "RANDOM"}, {"name": "ROUND_ROBIN"}]),
        "circuitBreaker": st.fixed_dictionaries(
            {},
            optional={
                "maxConnections": st.integers(1, 9),
                "httpMaxRequestsPerConnection": st.integers(1, 9),
                "httpConsecutiveErrors": st.integers(1, 9),
                "httpDetectionInterval": st.sampled_from(["1s", "1.5s", "2m"]),
            },
        ).map(lambda breaker: {"simpleCb": breaker}),
    },
)


@settings(deadline=None, max_examples=100)
@given(st.lists(POLICIES, max_size=4), st.lists(RULES, min_size=1, max_size=2))
def test_converted_policies_mean_the_same(policies: list[dict[str, Any]], rules: list[dict[str, Any]]) -> None:
    old = [document("DestinationPolicy", f"p{index}", spec) for index, spec in enumerate(policies)]
    old += [document("RouteRule", f"r{index}", spec) for index, spec in enumerate(rules)]
    new = reread(convert(old).documents)
    assert [problem for each in new for problem in find_problems(each)] == []

    def connecting(documents: list[Document]) -> dict[Any, Any]:
        """Return how each cluster that routes lead to is connected to, by its labels."""
        policy = lower(documents, KEYS).policies[REVIEWS]
        traffic = ServiceTraffic.from_policy(REVIEWS, policy, Caller(None, "default", ()), SOMEWHERE)
        targets = (target for route in policy.routes for target in route.all_destinations)
        subsets = {target.subset for target in targets if target.service == REVIEWS} | {None}
        return {subset and subset.labels: plainly(traffic.of(9080, subset)) for subset in subsets}

    assert connecting(old) == connecting(new)


def plainly(policy: TrafficPolicy) -> Any:
    """What it says, less what `convert` notes (near instances) and other spellings of Envoy's defaults."""
    outliers = policy.outliers and structs.replace(policy.outliers, min_health_percent=50, max_ejection_percent=10)
    return policy.load_balancer and policy.load_balancer.algorithm, policy.connections, outliers


def test_subsets_of_a_service_stand_in_one_rule_whoever_routes_there() -> None:
    old = [
        document("RouteRule", "a", {"destination": {"name": "reviews"}, "route": [{"labels": {"version": "v1"}}]}),
        document(
            "RouteRule",
            "b",
            {
                "destination": {"name": "ratings", "namespace": "default", "domain": "svc.cluster.local"},
                "mirror": {"service": "reviews.default.svc.cluster.local", "labels": {"version": "v2"}},
            },
        ),
    ]
    rules = [each for each in reread(convert(old).documents) if each.kind == "DestinationRule"]
    assert {rule.name: [one["name"] for one in rule.spec.get("subsets", ())] for rule in rules} == {
        "reviews": ["v1", "v2"],
        "ratings": [],
    }


@pytest.mark.case
def test_istios_own_old_files_convert_to_valid_new_ones() -> None:
    folder = Path(__file__).parents[3] / "shared" / "cases" / "istio" / "valid-v1alpha2"
    if not folder.is_dir():
        pytest.skip("the folder with Istio's cases is not here")
    for path in folder.glob("*.yaml"):
        documents, _ = read_documents(path.read_text(), path.name, "default")
        new = reread(convert(documents).documents)
        assert not any(is_invalid(find_problems(each)) for each in new), path.name


SUBNETS = st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1"]), min_size=1, max_size=2, unique=True)
CONNECTION_RULES = st.fixed_dictionaries(
    {"destination": st.just({"name": "reviews"}), "route": ROUTES},
    optional={
        "precedence": st.integers(0, 3),
        "match": st.fixed_dictionaries(
            {"tcp": st.fixed_dictionaries({}, optional={"destinationSubnet": SUBNETS, "sourceSubnet": SUBNETS})}
        ),
    },
)


@settings(deadline=None, max_examples=100)
@given(st.lists(CONNECTION_RULES, min_size=1, max_size=4))
def test_converted_rules_about_connections_mean_the_same(specs: list[dict[str, Any]]) -> None:
    old = [document("RouteRule", f"rule-{index}", spec) for index, spec in enumerate(specs)]
    assert not any(find_problems(each) for each in old)
    new = reread(convert(old).documents)
    assert [problem for each in new for problem in find_problems(each)] == []
    before, after = lower(old, KEYS), lower(new, KEYS)
    assert [connections(route) for route in before.policies[REVIEWS].tcp] == [
        connections(route) for route in after.policies[REVIEWS].tcp
    ]


def connections(route: Route) -> Any:
    """Where a route sends connections, and which: one of several sources is one of several matches."""
    matches = {
        (match.connection.destinations, source)
        for match in route.matches
        for source in match.connection.sources or ("",)
    }
    return _essence_of_route(route)[0], matches - {((), "")}


def test_what_a_service_speaks_decides_which_routes_it_gets() -> None:
    plain = {"destination": {"name": "reviews"}, "route": [{"labels": {"version": "v1"}}]}
    of_requests = {**plain, "httpReqTimeout": {"simpleTimeout": {"timeout": "1s"}}}
    of_connections = {**plain, "match": {"tcp": {"sourceSubnet": ["10.0.0.0/8"]}}}

    def kinds(*specs: dict[str, Any]) -> set[str]:
        converted = convert([document("RouteRule", f"r{index}", spec) for index, spec in enumerate(specs)])
        assert any("keep those that reviews has" in note for note in converted.notes) is (specs == (plain,))
        # That RouteRules hold on TLS ports has no counterpart without server names.
        has_tcp = any("tcp" in document["spec"] for document in converted.documents)
        assert any("write tls routes" in note for note in converted.notes) is has_tcp
        (service,) = (each["spec"] for each in converted.documents if each["kind"] == "VirtualService")
        return {key for key in service if key != "hosts"}

    assert kinds(plain) == {"http", "tcp"}
    assert kinds(plain, of_requests) == {"http"}
    assert kinds(of_connections) == {"tcp"}
    assert kinds(plain, of_connections) == {"http", "tcp"}
