"""What each kind's spec may hold: one changed field at a time, and the line that says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.kinds import KINDS, KINDS_BY_NAME, kind_named, supported_kinds
from agent.api.problem import Verdict
from agent.api.validate import describe, find_problems, validate
from tests.unit.api_samples import DESTINATION_RULE, ROUTE_RULE, SAMPLES, VIRTUAL_SERVICE, mutated, one

UNSUPPORTED = "known, but not supported yet"


@pytest.mark.parametrize("text", SAMPLES)
def test_samples_are_valid(text: str) -> None:
    assert validate(one(text)) == []


def problems(sample: str, path: str, value: Any) -> list[str]:
    """Return `path: reason` of each problem after one place of a sample's spec is set."""
    document = one(sample)
    spec = msgspec.json.decode(msgspec.json.encode(document.spec))
    place = spec
    *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in above:
        place = place[part]
    place[last] = value
    changed = msgspec.structs.replace(document, spec=spec)
    return [f"{problem.path}: {problem.reason}" for problem in find_problems(changed)]


ROUTE_RULE_CASES: list[tuple[str, Any, str]] = [
    ("destination", None, "spec.destination: is missing"),
    ("destination", {}, "spec.destination.name: is missing (name, or service with the full host)"),
    ("destination.service", "x.y", "spec.destination.name: does not go with service"),
    ("destination.labels", {"a": "b"}, "spec.destination.labels: a rule is about the whole service"),
    ("destination", {"service": "*"}, f'spec.destination.service: the wildcard "*" is {UNSUPPORTED}'),
    ("destination", {"service": "a b"}, 'spec.destination.service: "a b" is not a host name'),
    ("precedence", -(2**31) - 1, "spec.precedence: -2147483649 is out of range (-2147483648 to 2147483647)"),
    ("precedence", "1", "spec.precedence: must be a whole number from -2147483648 to 2147483647, not text"),
    ("precedence", True, "2147483647, not true or false"),
    ("match.source", {"labels": {"a": "b"}}, "spec.match.source.name: is missing"),
    ("match.source.labels", {"version": 1}, 'labels.version: must be text, not a number (put it in quotes: "1")'),
    ("match.source.labels", {"a b": "x"}, '"a b" is not a label name'),
    ("match.request.headers.Foo", 3, "spec.match.request.headers.Foo: must be text or a match (exact, prefix, regex)"),
    ("match.request.headers.Foo", {}, "headers.Foo: matches nothing (give one of exact, prefix, regex)"),
    ("match.request.headers.Foo", None, "headers.Foo: must be text or a match (exact, prefix, regex), not null"),
    ("match.request.headers.Foo", {"exact": "a", "prefix": "b"}, "has exact and prefix (give one of"),
    ("match.request.headers.Foo", {"suffix": "a"}, "headers.Foo.suffix: unknown field"),
    ("match.request.headers.Foo", {"prefix": ""}, "headers.Foo.prefix: is empty"),
    ("match.request.headers.Foo", {"regex": "(?=x)"}, "lookahead and lookbehind do not exist in RE2"),
    ("match.request.headers.Foo", "a\nb", "headers.Foo: has a control character in it"),
    ("match.request.headers", {"a b": "x"}, '"a b" is not a header name'),
    ("match.request.path", "/x", "spec.match.request.path: unknown field (known: headers)"),
    ("match.tcp", {"sourceSubnet": ["10.0.0.0/33"]}, 'spec.match.tcp.sourceSubnet[0]: "10.0.0.0/33" is no IP address'),
    ("match.tcp", {"sourceSubnet": ["10.0.0.0/8"]}, "spec.match.request: is about requests, but match.tcp"),
    ("match.udp", {}, "spec.match.udp: cannot be honoured: UDP is not captured"),
    ("route.0.weight", 10, "spec.route: the weights add up to 35 (they must add up to 100)"),
    ("route.0.weight", 101, "spec.route[0].weight: 101 is out of range (0 to 100)"),
    ("route.0.wieght", 1, "spec.route[0].wieght: unknown field (did you mean weight?)"),
    ("route", {}, "spec.route: must be a list, not a mapping"),
    ("l4Fault", {}, "spec.l4Fault: cannot be honoured: Envoy has no such filter"),
]


@pytest.mark.parametrize(("path", "value", "expected"), ROUTE_RULE_CASES)
def test_route_rule(path: str, value: Any, expected: str) -> None:
    assert any(expected in problem for problem in problems(ROUTE_RULE, path, value))


@pytest.mark.parametrize(
    "route",
    [
        None,
        [],
        [{"weight": 100}],
        [{"labels": {"version": "v1"}}],
        [{"labels": {"version": "v1"}, "weight": 0}, {"weight": 100}],
        [{"labels": None, "weight": None}],
    ],
)
def test_routes_of_a_route_rule_that_are_fine(route: Any) -> None:
    assert problems(ROUTE_RULE, "route", route) == []


HTTP = "spec.http[0]"
VIRTUAL_SERVICE_CASES: list[tuple[str, Any, str]] = [
    ("hosts", ["a", "a"], 'spec.hosts[1]: "a" is given twice'),
    ("hosts", ["*"], 'spec.hosts[0]: "*" is for gateways only, not for the mesh'),
    ("hosts", ["a.*.x"], 'spec.hosts[0]: "a.*.x" is not a host name (a wildcard can only be the first label'),
    ("hosts", "a", "spec.hosts: must be a list, not text"),
    ("gateways", ["b@d"], 'spec.gateways[0]: "b@d" is not the name of a gateway'),
    ("exportTo", ["a.b"], 'spec.exportTo[0]: "a.b" is not a namespace'),
    ("tcp", [{}], "spec.tcp[0].route: is missing"),
    (
        "tcp",
        [{"route": [{"destination": {"host": "a"}, "weight": 2_000_000}]}],
        "spec.tcp[0].route[0].weight: 2000000 is more than Envoy adds up",
    ),
    ("tls", [{}], "spec.tls[0].match: is missing"),
    ("http", [], "spec.http: is missing (at least one route)"),
    ("http.0.route", None, f"{HTTP}.route: is missing (where matching requests go)"),
    ("http.0.route", [], f"{HTTP}.route: is empty (at least 1)"),
    ("http.0.redirect", {"uri": "/"}, f"{HTTP}: route and redirect exclude each other"),
    ("http.0.rout", [], f"{HTTP}.rout: unknown field (did you mean route?)"),
    ("http.0.route.0.weight", -1, f"{HTTP}.route[0].weight: -1 is out of range"),
    ("http.0.route.0.destination", {}, f"{HTTP}.route[0].destination.host: is missing"),
    ("http.0.route.0.destination", None, f"{HTTP}.route[0].destination: is missing"),
    ("http.0.route.1.destination.port", {}, f"{HTTP}.route[1].destination.port.number: is missing"),
    ("http.0.route.1.destination.port", {"number": 0}, "port.number: 0 is out of range (1 to 65535)"),
    ("http.0.route.0.destination.subset", "V 1", '"V 1" is not a name'),
    ("http.0.match.0.uri", {"exact": "a", "prefix": "b"}, "match[0].uri: has exact and prefix"),
    ("http.0.match.0.scheme", {"prefix": ""}, "match[0].scheme.prefix: is empty"),
    ("http.0.match.0.uri", {"regex": "["}, "match[0].uri.regex: "),
    ("http.0.match.0.uri", "/x", "match[0].uri: must be a mapping, not text"),
    ("http.0.match.0.headers", {"uri": {}}, "headers.uri: Istio ignores it among the headers of a match"),
    ("http.0.match.0.headers", {"x": None}, "headers.x: must be a mapping, not null"),
    ("http.0.match.0.queryParams", {"": {}}, "a parameter without a name"),
    ("http.0.match.0.port", 70000, "match[0].port: 70000 is out of range (0 to 65535)"),
    ("http.0.match.0.ignoreUriCase", "yes", "ignoreUriCase: must be true or false, not text"),
    ("http.0.match.0.gateways", ["mesh", "g/"], 'gateways[1]: "g/" is not the name of a gateway'),
    ("http.0.match.0.sourceNamespace", "a.b", '"a.b" is not a name'),
    ("http.0.match.0.statPrefix", 1, "statPrefix: must be text"),
]


@pytest.mark.parametrize(("path", "value", "expected"), VIRTUAL_SERVICE_CASES)
def test_virtual_service(path: str, value: Any, expected: str) -> None:
    assert any(expected in problem for problem in problems(VIRTUAL_SERVICE, path, value))


def test_weights_of_a_virtual_service_are_shares() -> None:
    assert problems(VIRTUAL_SERVICE, "http.0.route.0.weight", 1) == []
    zero = [{"destination": {"host": "a"}}, {"destination": {"host": "b"}, "weight": 0}]
    assert problems(VIRTUAL_SERVICE, "http.0.route", zero) == [
        "spec.http[0].route: the weights add up to 0 (at least one must be above)"
    ]


def test_an_empty_uri_prefix_matches_all_as_in_istio() -> None:
    assert problems(VIRTUAL_SERVICE, "http.0.match.0.uri", {"prefix": ""}) == []
    assert problems(VIRTUAL_SERVICE, "http.0.match", [{}]) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("host", None, "spec.host: is missing"),
        ("host", "*", f'spec.host: the wildcard "*" is {UNSUPPORTED}'),
        ("subsets.1.name", "v1", 'spec.subsets[1].name: "v1" is given twice'),
        ("subsets.1.name", None, "spec.subsets[1].name: is missing"),
        ("subsets.0.labels", {"a": "b c"}, '"b c" is not a label value'),
        ("subsets.0.trafficPolicy", {}, "spec.subsets[0].trafficPolicy: says nothing"),
        ("exportTo", ["team", "team"], 'spec.exportTo[1]: "team" is given twice'),
        ("subset", [], "spec.subset: unknown field (did you mean subsets?)"),
    ],
)
def test_destination_rule(path: str, value: Any, expected: str) -> None:
    assert any(expected in problem for problem in problems(DESTINATION_RULE, path, value))


def test_a_problem_says_file_line_object_and_path() -> None:
    text = ROUTE_RULE.replace("weight: 75", "weight: 750").replace(
        "  - labels: {version: v3}", "  - label: {version: v3}"
    )
    assert validate(one(text)) == [
        "rules.yaml:22: RouteRule/reviews-test-v2: spec.route[0].weight: 750 is out of range (0 to 100)",
        "rules.yaml:23: RouteRule/reviews-test-v2: spec.route[1].label: unknown field (did you mean labels?)",
    ]


def test_invalid_and_unsupported_are_told_apart() -> None:
    document = one(ROUTE_RULE.replace("precedence: 2", "precedence: x\n  httpReqTimeout: {custom: {}}"))
    assert [problem.verdict for problem in find_problems(document)] == [Verdict.INVALID, Verdict.UNSUPPORTED]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("apiVersion: v1\nkind: Gateway", 'apiVersion: "v1" is not one of Gateway\'s (networking.istio.io/v1, '),
        ("apiVersion: config.istio.io/v1alpha2\nkind: opa", f"kind: opa: {UNSUPPORTED} (supported: Rou"),
        ("apiVersion: networking.istio.io/v1\nkind: EnvoyFilter", "kind: EnvoyFilter: known, but not supported (it "),
        ("apiVersion: config.istio.io/v1alpha2\nkind: solarwinds", f"kind: solarwinds: {UNSUPPORTED}"),
        ("apiVersion: v1\nkind: virtualservice", 'kind: "virtualservice" is unknown (did you mean VirtualService?)'),
        ("apiVersion: v1\nkind: VirtualServise", 'kind: "VirtualServise" is unknown (did you mean VirtualService?)'),
        ("apiVersion: apps/v1\nkind: Whatever", 'kind: "Whatever" is unknown (known: RouteRule, DestinationPolicy'),
    ],
)
def test_kinds_refused_by_name(text: str, expected: str) -> None:
    (problem,) = validate(one(f"{text}\nmetadata: {{name: x}}\n"))
    assert expected in problem


@pytest.mark.parametrize("version", ["v1alpha1", "v1alpha2", "v1beta1"])
def test_api_versions_of_the_first_generation(version: str) -> None:
    assert validate(one(ROUTE_RULE.replace("v1alpha2", version))) == []


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("routerule", "RouteRule"),
        ("RouteRules", "RouteRule"),
        ("route-rule", "RouteRule"),
        ("ROUTE-RULES", "RouteRule"),
        ("vs", "VirtualService"),
        ("destination-policies", "DestinationPolicy"),
        ("serviceentries", "ServiceEntry"),
        ("nonsense", None),
        ("", None),
    ],
)
def test_kinds_on_the_command_line(word: str, kind: str | None) -> None:
    found = kind_named(word)
    assert (found.name if found else None) == kind


def test_kinds_are_named_without_ambiguity() -> None:
    assert len(KINDS_BY_NAME) == len(KINDS)
    assert all(kind_named(word) is kind for kind in KINDS for word in (kind.name, kind.plural))
    assert {kind.name for kind in supported_kinds()} == {
        "RouteRule",
        "DestinationPolicy",
        "EgressRule",
        "IngressRule",
        "Ingress",
        "VirtualService",
        "DestinationRule",
        "ServiceEntry",
        "WorkloadEntry",
        *("rule", "denier", "checknothing", "listchecker", "listentry", "memquota", "quota"),
        *("logentry", "stdio", "fluentd", "metric", "prometheus", "statsd", "attributemanifest"),
        "Sidecar",
        "Gateway",
        "PeerAuthentication",
        "AuthorizationPolicy",
        "RequestAuthentication",
        "Telemetry",
    }


@settings(deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_any_spec_gets_an_answer(sample: str, data: st.DataObject) -> None:
    document = one(sample)
    spec = data.draw(mutated(dict(document.spec)))
    changed = msgspec.structs.replace(document, spec=spec)
    for problem in find_problems(changed):
        assert "\n" not in describe(changed, problem)
