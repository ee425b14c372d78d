"""Which rules a caller follows on a port, and which clusters they mean."""

from __future__ import annotations

import pytest

from agent.mesh.actions import DirectResponse
from agent.mesh.routes import (
    ConnectionMatch,
    Destination,
    HttpMatch,
    MatchKind,
    Mirror,
    ObjectRef,
    Route,
    ServicePolicy,
    SourceMatch,
    StringMatch,
    WeightedDestination,
)
from agent.mesh.service import Port, Protocol, ServiceKey, labels_of
from agent.translate.facts import Caller, ServiceFacts
from agent.translate.resolve import ALWAYS, ResolvedPort, Target, resolve_port
from tests.unit.mesh_samples import key, route, version

REVIEWS, API = key("reviews"), key("api")
CALLER = Caller(key("page", "shop"), "shop", labels_of({"app": "page", "version": "v1"}))
NOBODY = Caller(None, "default", ())


def facts(of: ServiceKey, *numbers: int) -> ServiceFacts:
    return ServiceFacts(of, tuple(Port(number, "http", Protocol.HTTP) for number in numbers), ())


KNOWN = {REVIEWS: facts(REVIEWS, 9080), API: facts(API, 80, 9000)}


def resolve(*routes: Route, port: int = 9080, caller: Caller = CALLER) -> ResolvedPort:
    return resolve_port(ServicePolicy(routes), Port(port, "", Protocol.HTTP), caller, KNOWN)


def connected(*routes: Route, port: int = 9080, caller: Caller = CALLER) -> ResolvedPort:
    return resolve_port(ServicePolicy(tcp=routes), Port(port, "", Protocol.TCP), caller, KNOWN)


def matching(*matches: HttpMatch) -> Route:
    origin = ObjectRef("RouteRule", "default", "r")
    return Route("", origin, (WeightedDestination(Destination(REVIEWS)),), matches)


@pytest.mark.parametrize(
    ("source", "page_follows", "nobody_follows"),
    [
        (SourceMatch(), True, True),
        (SourceMatch(service=key("page", "shop")), True, False),
        (SourceMatch(service=key("page")), False, False),
        (SourceMatch(namespace="shop"), True, False),
        (SourceMatch(namespace="default"), False, True),
        (SourceMatch(labels=labels_of({"version": "v1"})), True, False),
        (SourceMatch(labels=labels_of({"version": "v2"})), False, False),
        (SourceMatch(key("page", "shop"), "shop", labels_of({"app": "page"})), True, False),
    ],
)
def test_source(source: SourceMatch, page_follows: bool, nobody_follows: bool) -> None:
    rule = matching(HttpMatch(source=source))
    assert bool(resolve(rule).routes) is page_follows
    assert bool(resolve(rule, caller=NOBODY).routes) is nobody_follows


def test_rule_without_matches_is_for_all() -> None:
    assert resolve(matching()).routes[0].matches == ALWAYS


def test_matches_for_other_ports_and_callers_fall_away_alone() -> None:
    path = StringMatch(MatchKind.PREFIX, "/a")
    rule = matching(HttpMatch(port=80), HttpMatch(uri=path), HttpMatch(source=SourceMatch(namespace="x")))
    assert [match.uri for match in resolve(rule).routes[0].matches] == [path]
    assert resolve(matching(HttpMatch(port=80))).routes == ()


def test_layer_4_rules_hold_for_connections() -> None:
    assert connected(matching(HttpMatch(port=9080))).routes
    assert not connected(matching(HttpMatch(method=StringMatch(MatchKind.EXACT, "GET")))).routes
    assert not resolve(matching(HttpMatch(connection=ConnectionMatch(("a.example.com",))))).routes


def test_weights_of_zero_are_no_targets_and_make_no_subsets() -> None:
    resolved = resolve(route(REVIEWS, ("v1", 100), ("v2", 0)))
    assert resolved.routes[0].targets == (Target("outbound|9080|version=v1|reviews.service.consul", 100),)
    assert [subset.subset for _, subset in resolved.subsets] == [version("v1")]


@pytest.mark.parametrize(
    ("destination", "called", "cluster"),
    [
        (Destination(REVIEWS), 80, "outbound|9080||reviews.service.consul"),
        (Destination(API), 80, "outbound|80||api.service.consul"),
        (Destination(API), 9000, "outbound|9000||api.service.consul"),
        (Destination(API, port=9000), 80, "outbound|9000||api.service.consul"),
        (Destination(API), 9080, None),
        (Destination(API, port=1), 80, None),
        (Destination(key("gone")), 80, None),
    ],
)
def test_destination_port(destination: Destination, called: int, cluster: str | None) -> None:
    rule = Route("", ObjectRef("RouteRule", "default", "r"), (WeightedDestination(destination),))
    resolved = resolve(rule, port=called)
    assert [target.cluster for each in resolved.routes for target in each.targets] == ([cluster] if cluster else [])
    assert [fault.subject for fault in resolved.faults] == ([] if cluster else ["RouteRule/r.default"])


def test_others_share_what_a_destination_that_is_not_there_would_get() -> None:
    targets = (WeightedDestination(Destination(REVIEWS), 50), WeightedDestination(Destination(key("gone")), 50))
    mirrors = (Mirror(Destination(key("gone"))), Mirror(Destination(REVIEWS)))
    bad = Route("", ObjectRef("VirtualService", "default", "bad"), targets, mirrors=mirrors)
    resolved = resolve(bad, matching())
    assert [each.name for each in resolved.routes] == ["VirtualService/bad.default", "RouteRule/r.default"]
    assert [len(each.targets) for each in resolved.routes] == [1, 1]
    assert len(resolved.routes[0].shadows) == 1
    assert [fault.subject for fault in resolved.faults] == ["VirtualService/bad.default"]


def test_a_route_whose_destination_has_no_such_port_answers_503_and_the_next_one_is_not_asked() -> None:
    lost = Route("", ObjectRef("VirtualService", "default", "lost"), (WeightedDestination(Destination(API, port=1)),))
    resolved = resolve(lost, matching())
    assert resolved.routes[0].actions.answer == DirectResponse(503)
    assert [len(each.targets) for each in resolved.routes] == [0, 1]


@pytest.mark.parametrize(("match", "default"), [(HttpMatch(port=1), True), (HttpMatch(port=9080), False)])
def test_a_virtual_service_without_a_route_for_this_caller_and_port_changes_nothing(
    match: HttpMatch, default: bool
) -> None:
    only = Route(
        "", ObjectRef("VirtualService", "default", "v"), (WeightedDestination(Destination(REVIEWS)),), (match,)
    )
    port = Port(9080, "http", Protocol.HTTP)
    resolved = resolve_port(ServicePolicy((only,), False), port, CALLER, {REVIEWS: facts(REVIEWS, 9080)})
    assert resolved.default_route is default
