"""Lowering of rules to one policy per service, compared with a plain evaluator of the documents themselves."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.document import Document
from agent.api.lowering.lower import Lowerer, lower
from agent.flow.table import Table
from agent.mesh.actions import DirectResponse
from agent.mesh.routes import HttpMatch, MatchKind, NamedMatch, ServicePolicy, SourceMatch, StringMatch, Subset
from agent.mesh.service import ServiceKey
from tests.unit.api_samples import DESTINATION_RULE, ROUTE_RULE, SAMPLES, VIRTUAL_SERVICE, mutated, one

REVIEWS = ServiceKey("default", "reviews")
RATINGS = ServiceKey("default", "ratings")
TEAM_REVIEWS = ServiceKey("team", "reviews")
SERVICES = (REVIEWS, RATINGS, TEAM_REVIEWS)


def rule(name: str, spec: str, namespace: str = "default") -> Document:
    return one(
        f"apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {{name: {name}}}\nspec: {spec}\n", namespace
    )


def networking(kind: str, name: str, spec: str, namespace: str = "default") -> Document:
    return one(
        f"apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n", namespace
    )


def faults(*documents: Document) -> list[str]:
    return [f"{fault.subject}: {fault.reason}" for fault in lower(documents, SERVICES).faults]


def test_route_rule_whole() -> None:
    lowered = lower([one(ROUTE_RULE)], SERVICES)
    assert lowered.faults == ()
    policy = lowered.policies[REVIEWS]
    (route,) = policy.routes
    assert policy.default_route
    assert str(route.origin) == "RouteRule/reviews-test-v2.default"
    assert [(w.destination.subset.name, w.weight) for w in route.destinations if w.destination.subset] == [
        ("version=v2", 75),
        ("version=v3", 25),
    ]
    assert route.matches == (
        HttpMatch(
            uri=StringMatch(MatchKind.PREFIX, "/api"),
            headers=(
                NamedMatch("cookie", StringMatch(MatchKind.REGEX, "^(.*?;)?(user=jason)(;.*)?$")),
                NamedMatch("foo", StringMatch(MatchKind.EXACT, "bar")),
            ),
            source=SourceMatch(ServiceKey("default", "productpage"), None, (("version", "v1"),)),
        ),
    )


def test_virtual_service_whole() -> None:
    lowered = lower([one(VIRTUAL_SERVICE), one(DESTINATION_RULE)], SERVICES)
    assert lowered.faults == ()
    policy = lowered.policies[REVIEWS]
    assert not policy.default_route
    assert [route.name for route in policy.routes] == ["jason", "1"]
    first, second = policy.routes
    assert [
        (w.destination.subset and w.destination.subset.name, w.destination.port, w.weight) for w in first.destinations
    ] == [
        ("v2", None, 90),
        (None, 9080, 10),
    ]
    assert second.destinations[0].weight == 100
    assert second.matches == ()
    assert first.matches == (
        HttpMatch(
            uri=StringMatch(MatchKind.PREFIX, "/Reviews", ignore_case=True),
            method=StringMatch(MatchKind.EXACT, "GET"),
            scheme=StringMatch(MatchKind.EXACT, "http"),
            authority=StringMatch(MatchKind.PREFIX, "reviews"),
            headers=(
                NamedMatch("end-user", StringMatch(MatchKind.EXACT, "jason")),
                NamedMatch(":authority", StringMatch(MatchKind.PREFIX, "r")),
                NamedMatch("x-debug", StringMatch(MatchKind.PRESENT), invert=True),
            ),
            query=(NamedMatch("q", StringMatch(MatchKind.REGEX, "a+")),),
            port=9080,
            source=SourceMatch(None, "default", (("version", "v1"),)),
        ),
    )


@pytest.mark.parametrize(
    ("destination", "namespace", "service"),
    [
        ("{name: reviews}", "default", REVIEWS),
        ("{name: reviews}", "team", TEAM_REVIEWS),
        ("{name: reviews, namespace: team}", "default", TEAM_REVIEWS),
        ("{name: reviews, namespace: team, domain: svc.cluster.local}", "default", TEAM_REVIEWS),
        ("{name: reviews, domain: service.consul}", "default", REVIEWS),
        ("{service: reviews}", "team", TEAM_REVIEWS),
        ("{service: ratings}", "team", RATINGS),
        ("{service: reviews.service.consul}", "default", REVIEWS),
        ("{service: reviews.team.svc.cluster.local}", "default", TEAM_REVIEWS),
        ("{service: Reviews.Default}", "team", REVIEWS),
    ],
)
def test_destinations_of_route_rules(destination: str, namespace: str, service: ServiceKey) -> None:
    lowered = lower([rule("r", f"{{destination: {destination}}}", namespace)], SERVICES)
    assert set(lowered.policies) == {service}
    (route,) = lowered.policies[service].routes
    assert [(w.destination.service, w.destination.subset, w.weight) for w in route.destinations] == [
        (service, None, 100)
    ]


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (rule("r", "{destination: {name: x}}"), "RouteRule/r.default: service x.default is not in the catalog"),
        (rule("r", "{destination: {service: x.com}}"), "RouteRule/r.default: service x.com is not in the catalog"),
        (
            rule("r", "{destination: {name: reviews, domain: example.com}}"),
            "RouteRule/r.default: service reviews.default.example.com is not in the catalog",
        ),
        (
            rule("r", "{destination: {name: reviews}, match: {source: {service: x.com}}}"),
            "RouteRule/r.default: service x.com is not in the catalog",
        ),
        (
            networking("VirtualService", "v", "{hosts: [x], http: [{route: [{destination: {host: reviews}}]}]}"),
            "VirtualService/v.default: service x is not in the catalog",
        ),
        (
            networking("VirtualService", "v", "{hosts: [reviews], http: [{route: [{destination: {host: x}}]}]}"),
            "VirtualService/v.default: service x is not in the catalog",
        ),
        (
            networking(
                "VirtualService",
                "v",
                "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v9}}]}]}",
            ),
            "VirtualService/v.default: no DestinationRule of reviews.default declares the subset v9",
        ),
        (
            networking("DestinationRule", "d", "{host: x}"),
            "DestinationRule/d.default: service x is not in the catalog",
        ),
    ],
)
def test_what_does_not_resolve_is_left_out_alone(document: Document, fault: str) -> None:
    other = rule("other", "{destination: {name: ratings}}")
    lowered = lower([document, other], SERVICES)
    assert [f"{found.subject}: {found.reason}" for found in lowered.faults] == [fault]
    assert set(lowered.policies) == {RATINGS}


def test_a_virtual_service_route_that_leads_nowhere_answers_503_and_the_others_stay() -> None:
    spec = """{hosts: [reviews], http: [
      {match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews, subset: v9}}]},
      {match: [{uri: {prefix: /b}}],
       route: [{destination: {host: ratings}, weight: 90}, {destination: {host: x}, weight: 10}]},
      {route: [{destination: {host: reviews}}], mirror: {host: x}}]}"""
    lowered = lower([networking("VirtualService", "v", spec)], SERVICES)
    nowhere, shared, last = lowered.policies[REVIEWS].routes
    assert (nowhere.destinations, nowhere.actions.answer) == ((), DirectResponse(503))
    assert [(w.destination.service, w.weight) for w in shared.destinations] == [(RATINGS, 90)]
    assert ([w.destination.service for w in last.destinations], last.mirrors) == ([REVIEWS], ())
    assert {found.reason for found in lowered.faults} == {
        "no DestinationRule of reviews.default declares the subset v9",
        "service x is not in the catalog",
    }


def test_an_invalid_document_is_a_fault() -> None:
    (fault,) = faults(rule("r", "{destination: {name: 3}}"))
    assert fault.startswith("RouteRule/r.default: rules.yaml:4: RouteRule/r: spec.destination.name: must be text")


def test_the_first_virtual_service_of_a_host_wins() -> None:
    spec = "{hosts: [%s], http: [{name: %s, route: [{destination: {host: reviews}}]}]}"
    documents = [
        networking("VirtualService", "b", spec % ("reviews.default", "second")),
        networking("VirtualService", "a", spec % ("reviews", "first")),
        networking("VirtualService", "a", spec % ("reviews, ratings.default", "third"), "team"),
    ]
    lowered = lower(documents, SERVICES)
    assert {key: policy.routes[0].name for key, policy in lowered.policies.items()} == {
        REVIEWS: "first",
        TEAM_REVIEWS: "third",
        RATINGS: "third",
    }
    assert faults(*documents) == [
        "VirtualService/b.default: not used for reviews.default: VirtualService/a.default is about it too"
    ]


def test_route_rules_give_way_to_a_virtual_service() -> None:
    documents = [one(ROUTE_RULE), one(VIRTUAL_SERVICE), one(DESTINATION_RULE)]
    assert faults(*documents) == [
        "RouteRule/reviews-test-v2.default: not used: VirtualService/reviews.default is about reviews.default too"
    ]


def test_route_rules_serve_while_the_virtual_service_is_broken() -> None:
    broken = "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v9}}]}]}"
    lowered = lower([one(ROUTE_RULE), networking("VirtualService", "v", broken)], SERVICES)
    assert [str(route.origin) for route in lowered.policies[REVIEWS].routes] == ["RouteRule/reviews-test-v2.default"]


def test_subsets_of_several_destination_rules_are_united() -> None:
    documents = [
        one(VIRTUAL_SERVICE),
        networking("DestinationRule", "a", "{host: reviews, subsets: [{name: v1, labels: {version: v1}}]}"),
        networking("DestinationRule", "b", "{host: reviews, subsets: [{name: v1}, {name: v2, labels: {version: v2}}]}"),
    ]
    assert faults(*documents) == [
        "DestinationRule/b.default: another DestinationRule of reviews.default declares the subset v1 too, and is used"
    ]
    routes = lower(documents, SERVICES).policies[REVIEWS].routes
    used = {destination.subset for route in routes for destination in route.all_destinations if destination.subset}
    assert used == {Subset("v1", (("version", "v1"),)), Subset("v2", (("version", "v2"),))}


# A plain evaluator of RouteRules, written from the reference's words: rules of the destination, the highest precedence
# first; all criteria must hold; the first rule that applies decides.

HEADERS = ("foo", "bar")
VALUES = ("a", "ab", "b")
PARSED = {sample: one(sample) for sample in SAMPLES}
ANY_RULE = rule(
    "any", "{destination: {name: reviews}, match: {request: {headers: {a: {regex: a+}}}}, route: [{labels: {b: c}}]}"
)


@st.composite
def route_rules(draw: st.DrawFn) -> list[Document]:
    names = draw(st.lists(st.sampled_from([f"r{number}" for number in range(12)]), unique=True, max_size=8))
    return [draw(_route_rules(name)) for name in names]


@st.composite
def _route_rules(draw: st.DrawFn, name: str) -> Document:
    spec: dict[str, Any] = {"destination": {"name": draw(st.sampled_from(["reviews", "ratings"]))}}
    precedence = draw(st.none() | st.integers(0, 3))
    if precedence is not None:
        spec["precedence"] = precedence
    comparison = st.sampled_from(VALUES) | st.builds(
        lambda kind, value: {kind: value}, st.sampled_from(["exact", "prefix", "regex"]), st.sampled_from(VALUES)
    )
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), comparison, max_size=2))
    match: dict[str, Any] = {"request": {"headers": headers}} if headers else {}
    if draw(st.booleans()):
        match["source"] = {"name": draw(st.sampled_from(["page", "other"]))}
        if draw(st.booleans()):
            match["source"]["labels"] = {"version": draw(st.sampled_from(["v1", "v2"]))}
    if match:
        spec["match"] = match
    return msgspec.structs.replace(ANY_RULE, name=name, spec=spec, lines={})


REQUESTS = st.fixed_dictionaries(
    {
        "to": st.sampled_from(["reviews", "ratings"]),
        "from": st.sampled_from(["page", "other"]),
        "labels": st.sampled_from([{}, {"version": "v1"}, {"version": "v2", "more": "x"}]),
        "headers": st.dictionaries(st.sampled_from(HEADERS), st.sampled_from(VALUES)),
    }
)


def reference(documents: list[Document], request: dict[str, Any]) -> str | None:
    """Return the name of the rule that decides, straight from the documents."""
    rules = [d for d in documents if d.spec["destination"]["name"] == request["to"]]
    for document in sorted(rules, key=lambda d: (-d.spec.get("precedence", 0), d.name)):
        match = document.spec.get("match", {})
        source = match.get("source")
        if source and source["name"] != request["from"]:
            continue
        if source and any(request["labels"].get(key) != value for key, value in source.get("labels", {}).items()):
            continue
        headers = match.get("request", {}).get("headers", {})
        if all(_holds(comparison, request["headers"].get(name)) for name, comparison in headers.items()):
            return document.name
    return None


def _holds(comparison: Any, value: str | None) -> bool:
    if value is None:
        return False
    if isinstance(comparison, str):
        return value == comparison
    if "prefix" in comparison:
        return value.startswith(comparison["prefix"])
    if "regex" in comparison:
        return re.fullmatch(comparison["regex"], value) is not None
    return bool(value == comparison["exact"])


def decided(policy: ServicePolicy, request: dict[str, Any]) -> str | None:
    """Return the name of the rule that decides, by the lowered policy."""
    for route in policy.routes:
        if not route.matches or any(_lowered_holds(match, request) for match in route.matches):
            return route.origin.name
    return None


def _lowered_holds(match: HttpMatch, request: dict[str, Any]) -> bool:
    source = match.source or SourceMatch()
    if source.service not in (None, ServiceKey("default", request["from"])):
        return False
    if not set(source.labels) <= set(request["labels"].items()):
        return False
    return all(
        _holds({header.match.kind.value: header.match.value}, request["headers"].get(header.name))
        for header in match.headers
    )


@settings(max_examples=100, deadline=None)
@given(route_rules(), st.lists(REQUESTS, min_size=1, max_size=6))
def test_the_same_rule_decides_as_in_the_reference(documents: list[Document], requests: list[dict[str, Any]]) -> None:
    lowered = lower(documents, SERVICES)
    assert lowered.faults == ()
    for request in requests:
        policy = lowered.policies.get(ServiceKey("default", request["to"]), ServicePolicy.empty())
        assert decided(policy, request) == reference(documents, request)


@settings(max_examples=50, deadline=None)
@given(route_rules(), st.randoms())
def test_the_order_of_the_documents_means_nothing(documents: list[Document], random: Any) -> None:
    shuffled = list(documents)
    random.shuffle(shuffled)
    assert lower(shuffled, SERVICES) == lower(documents, SERVICES)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SAMPLES), st.data()), max_size=3), st.sets(st.sampled_from(SERVICES)))
def test_never_raises(drawn: list[tuple[str, st.DataObject]], services: set[ServiceKey]) -> None:
    documents = []
    for number, (sample, data) in enumerate(drawn):
        document = PARSED[sample]
        spec = data.draw(mutated(dict(document.spec)))
        if isinstance(spec, dict):
            documents.append(msgspec.structs.replace(document, name=f"d{number}", spec=spec))
    lowered = lower(documents, services)
    assert set(lowered.policies) <= services


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 5)), st.sets(st.sampled_from(SERVICES))), max_size=5))
def test_the_memo_changes_nothing(steps: list[tuple[set[int], set[ServiceKey]]]) -> None:
    pool = [
        one(ROUTE_RULE),
        one(VIRTUAL_SERVICE),
        one(DESTINATION_RULE),
        rule("r", "{destination: {name: ratings}}"),
        rule("bad", "{destination: {name: 3}}"),
        networking("DestinationRule", "z", "{host: reviews, subsets: [{name: v2, labels: {a: b}}]}"),
    ]
    lowerer = Lowerer()
    for chosen, services in steps:
        documents = [pool[number] for number in sorted(chosen)]
        assert lowerer.lower({d.key: d for d in documents}, dict.fromkeys(services, True)) == lower(documents, services)


def test_one_change_among_three_thousand_rules_is_quick() -> None:
    documents = [
        msgspec.structs.replace(
            ANY_RULE, name=f"r{number}", spec={**ANY_RULE.spec, "destination": {"name": f"s{number % 1000}"}}
        )
        for number in range(3000)
    ]
    services = {ServiceKey("default", f"s{number}"): True for number in range(1000)}
    lowerer = Lowerer()
    before = lowerer.lower(Table({document.key: document for document in documents}), services)
    other = msgspec.structs.replace(documents[7], name="changed")
    changed_documents = {document.key: document for document in (*documents[:7], other, *documents[8:])}
    begin = time.process_time()
    after = lowerer.lower(changed_documents, services)
    took = time.process_time() - begin
    changed = [key for key in services if before.policies[key] is not after.policies[key]]
    assert changed == [ServiceKey("default", "s7")]
    assert took < 0.15
