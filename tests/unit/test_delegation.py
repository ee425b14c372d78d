"""Delegates of VirtualServices: what becomes of a root's and a delegate's words, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.document import Document
from agent.api.lowering.delegation import merged_matches
from agent.api.lowering.lower import Lowered, Lowerer, lower
from agent.api.validate import validate
from agent.mesh.gateway import BoundRoutes
from agent.mesh.routes import MatchKind, Route, StringMatch
from agent.mesh.service import ServiceKey
from tests.unit.api_samples import one

REVIEWS, TEAM = ServiceKey("default", "reviews"), ServiceKey("team", "ratings")
ROOT = "{hosts: [reviews], http: [{name: root, match: [{uri: {prefix: /a}}], delegate: {name: d, namespace: team}}]}"
ROUTE = "route: [{destination: {host: ratings}}]"


def service(name: str, spec: str, namespace: str = "default") -> Document:
    text = (
        f"apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: {namespace}}}"
    )
    return one(f"{text}\nspec: {spec}\n")


def valid(name: str, spec: str, namespace: str = "default") -> Document:
    document = service(name, spec, namespace)
    assert validate(document) == []
    return document


def routes(root: str, http: str) -> tuple[tuple[Route, ...], list[str]]:
    lowered = lower([valid("root", root), valid("d", f"{{http: {http}}}", "team")], [REVIEWS, TEAM])
    policy = lowered.policies.get(REVIEWS)
    return policy.routes if policy else (), [fault.reason for fault in lowered.faults]


def test_a_delegates_routes_are_narrowed_to_the_roots_requests() -> None:
    http = f"[{{name: sub, match: [{{uri: {{prefix: /a/b}}}}, {{method: {{exact: GET}}}}], {ROUTE}}}, {{{ROUTE}}}]"
    found, faults = routes(ROOT, http)
    assert faults == []
    assert [route.name for route in found] == ["root-sub", "root"]
    assert [[match.uri for match in route.matches] for route in found] == [
        [StringMatch(MatchKind.PREFIX, "/a/b"), StringMatch(MatchKind.PREFIX, "/a")],
        [StringMatch(MatchKind.PREFIX, "/a")],
    ]
    assert {d.service for route in found for d in route.all_destinations} == {TEAM}, "named in the delegate's namespace"
    assert {str(route.origin) for route in found} == {"VirtualService/root.default"}


def test_what_a_delegate_does_not_say_is_the_roots() -> None:
    root = ROOT.replace("delegate:", "timeout: 5s, rewrite: {uri: /x}, headers: {request: {set: {a: b}}}, delegate:")
    found, _ = routes(root, f"[{{timeout: 1s, {ROUTE}}}, {{{ROUTE}}}, {{redirect: {{uri: /y}}}}]")
    assert [route.actions.timeout_seconds for route in found] == [1.0, 5.0, None]
    assert [route.actions.rewrite is not None for route in found] == [True, True, False]
    assert all(route.actions.headers.request.set for route in found[:2])


def test_a_route_that_contradicts_the_root_is_left_out() -> None:
    found, faults = routes(ROOT, f"[{{match: [{{uri: {{prefix: /b}}}}], {ROUTE}}}, {{{ROUTE}}}]")
    assert len(found) == 1
    reason = "it is for requests that spec.http[0].match is not for"
    assert faults == [f"spec.http[0].delegate: spec.http[0] of VirtualService/d.team is left out: {reason}"]


@pytest.mark.parametrize("there", ["{hosts: [ratings], http: [{route: [{destination: {host: ratings}}]}]}", None])
def test_a_delegate_that_is_not_there_costs_its_route_only(there: str | None) -> None:
    root = ROOT.replace("http: [", "http: [{match: [{uri: {exact: /c}}], route: [{destination: {host: reviews}}]}, ")
    documents = [valid("root", root)] + ([valid("d", there, "team")] if there else [])
    lowered = lower(documents, [REVIEWS, TEAM])
    assert [route.name for route in lowered.policies[REVIEWS].routes] == ["0"]
    (fault,) = lowered.faults
    assert fault.reason.startswith(
        "spec.http[1].delegate: VirtualService/d.team cannot be had, so the route is left out"
    )


def test_a_changed_delegate_changes_the_root() -> None:
    lowerer, root, services = Lowerer(), valid("root", ROOT), {REVIEWS: True, TEAM: True}

    def lowered(*documents: Document) -> Lowered:
        return lowerer.lower({document.key: document for document in documents}, services)

    before = lowered(root, valid("d", f"{{http: [{{{ROUTE}}}]}}", "team"))
    after = lowered(root, valid("d", f"{{http: [{{timeout: 1s, {ROUTE}}}]}}", "team"))
    assert [each.policies[REVIEWS].routes[0].actions.timeout_seconds for each in (before, after)] == [None, 1.0]
    assert lowered(root).policies == {}


def test_a_delegates_requests_come_through_the_roots_gateways() -> None:
    root = ROOT.replace("http:", "gateways: [edge], http:").replace("hosts: [reviews]", "hosts: [shop.example.com]")
    lowered = lower([valid("root", root), valid("d", f"{{http: [{{{ROUTE}}}]}}", "team")], [REVIEWS, TEAM])
    bound: Sequence[BoundRoutes] = lowered.ingress.bound
    assert [(one.hosts, [route.name for route in one.routes]) for one in bound] == [(("shop.example.com",), ["root"])]
    assert lowered.policies == {}


P = {"uri": {"prefix": "/a"}}


@pytest.mark.parametrize(
    ("root", "leaf", "merged"),
    [
        (P, {"uri": {"exact": "/a/b"}}, {"uri": {"exact": "/a/b"}}),
        (P, {"uri": {"exact": "/b"}}, None),
        (P, {"uri": {"regex": "/a.*"}}, None),
        (P, {"uri": {"prefix": "/"}}, None),
        (P, {}, P),
        ({"uri": {"exact": "/a"}}, {"uri": {"exact": "/a"}}, {"uri": {"exact": "/a"}}),
        ({"uri": {"exact": "/a"}}, {"uri": {"prefix": "/a"}}, None),
        ({"uri": {"regex": "a"}}, {"method": {"exact": "GET"}}, {"uri": {"regex": "a"}, "method": {"exact": "GET"}}),
        ({**P, "ignoreUriCase": True}, {"uri": {"prefix": "/A/b"}, "ignoreUriCase": True}, {"uri": {"prefix": "/A/b"}}),
        ({**P, "ignoreUriCase": True}, P, None),
        ({"port": 80}, {"port": 80}, {"port": 80}),
        ({"port": 80}, {"port": 81}, None),
        ({"sourceLabels": {"a": "b"}}, {"sourceLabels": {"c": "d"}}, {"sourceLabels": {"a": "b", "c": "d"}}),
        ({"sourceLabels": {"a": "b"}}, {"sourceLabels": {"a": "c"}}, None),
        ({"headers": {"X": {}}}, {"headers": {"x": {"exact": "1"}}}, {"headers": {"x": {"exact": "1"}}}),
        ({"headers": {"x": {"exact": "1"}}}, {"headers": {"y": {}}}, {"headers": {"x": {"exact": "1"}, "y": {}}}),
        ({"headers": {"x": {"exact": "1"}}}, {"headers": {"x": {"exact": "2"}}}, None),
        ({"withoutHeaders": {"x": {}}}, {"withoutHeaders": {"x": {"exact": "1"}}}, None),
    ],
)
def test_merged_matches(root: dict[str, Any], leaf: dict[str, Any], merged: dict[str, Any] | None) -> None:
    found = merged_matches([root], [leaf])
    if merged is None:
        assert found is None
    else:
        assert found is not None
        assert {key: value for key, value in found[0].items() if value and key != "ignoreUriCase"} == merged


TEXT: st.SearchStrategy[Any] = st.sampled_from(
    [None, {"exact": "/a"}, {"exact": "/a/b"}, {"prefix": "/a"}, {"prefix": "/"}, {"prefix": "/A"}, {}]
)
HTTP_MATCH = st.fixed_dictionaries(
    {"uri": TEXT, "method": st.sampled_from([None, {"exact": "GET"}]), "ignoreUriCase": st.booleans()},
    optional={"headers": st.dictionaries(st.sampled_from(["x", "X", "y"]), TEXT.filter(lambda text: text is not None))},
)


@given(st.lists(HTTP_MATCH, max_size=3), st.lists(HTTP_MATCH, max_size=3), st.data())
def test_what_is_merged_holds_for_no_request_that_root_or_delegate_is_not_for(
    roots: list[dict[str, Any]], leaves: list[dict[str, Any]], data: st.DataObject
) -> None:
    merged = merged_matches(roots, leaves)
    for _ in range(10 if merged else 0):
        uri = data.draw(st.sampled_from(["/", "/a", "/A", "/a/b", "/A/B"]))
        method = data.draw(st.sampled_from(["GET", "PUT"]))
        headers = data.draw(st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["/a", "/a/b", "/A"])))
        if any(holds(match, uri, method, headers) for match in merged or ()):
            for matches in (roots, leaves):
                assert not matches or any(holds(match, uri, method, headers) for match in matches)


def holds(match: Mapping[str, Any], uri: str, method: str, headers: Mapping[str, str]) -> bool:
    if not compares(match.get("uri"), uri, bool(match.get("ignoreUriCase"))):
        return False
    named = (match.get("headers") or {}).items()
    return compares(match.get("method"), method) and all(
        name.lower() in headers and compares(text, headers[name.lower()]) for name, text in named
    )


def compares(text: Mapping[str, str] | None, value: str, ignore_case: bool = False) -> bool:
    if not text:
        return True
    ((kind, wanted),) = text.items()
    if ignore_case:
        wanted, value = wanted.lower(), value.lower()
    return value == wanted if kind == "exact" else value.startswith(wanted)


def test_each_match_of_a_delegate_needs_room_in_one_of_the_roots() -> None:
    roots = [{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}]
    assert len(merged_matches(roots, [{"method": {"exact": "GET"}}]) or ()) == 2
    assert len(merged_matches(roots, [{"uri": {"exact": "/a/x"}}, {"uri": {"exact": "/b"}}]) or ()) == 2
    assert merged_matches(roots, [{"uri": {"exact": "/a"}}, {"uri": {"exact": "/c"}}]) is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{http: [{delegate: {name: x}}]}", "a delegate cannot delegate further"),
        (f"{{http: [{{{ROUTE}}}], gateways: [edge]}}", "spec.gateways: does not go with a delegate"),
        ("{hosts: [a], http: [{delegate: {}}]}", "spec.http[0].delegate.name: is missing"),
        (f"{{hosts: [a], http: [{{delegate: {{name: x}}, {ROUTE}}}]}}", "route and delegate exclude each other"),
    ],
)
def test_what_is_refused(spec: str, said: str) -> None:
    assert any(said in line for line in validate(service("x", spec)))
