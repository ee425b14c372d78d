"""Ingress and IngressRule: what they mean as routes, alone and with RouteRules on top, and what they become in v1."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.api.analysis.analyze import analyze
from agent.api.conversion.convert import convert
from agent.api.document import read_documents
from agent.api.enforce import enforceable
from agent.api.lowering.lower import Lowered, lower
from agent.api.validate import find_problems, is_invalid, validate
from agent.mesh.conjunction import conjunction
from agent.mesh.gateway import INGRESS_LABELS
from agent.mesh.routes import ConnectionMatch, Destination, HttpMatch, MatchKind, NamedMatch, Route, StringMatch
from agent.mesh.service import ServiceKey
from tests.unit.api_samples import mutated, one, read

HTTPBIN, OTHER = ServiceKey("default", "httpbin"), ServiceKey("default", "other")
OLD = """
apiVersion: extensions/v1beta1
kind: Ingress
metadata:
  name: simple-ingress
  annotations: {kubernetes.io/ingress.class: istio}
spec:
  rules:
  - http:
      paths:
      - {path: /status/.*, backend: {serviceName: httpbin, servicePort: 8000}}
      - {path: /delay/.*, backend: {serviceName: httpbin, servicePort: http}}
"""
NEW = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: new}
spec:
  ingressClassName: istio
  defaultBackend: {service: {name: other, port: {number: 80}}}
  tls: [{hosts: [A.example.com, b.example.com], secretName: shop}]
  rules:
  - host: a.example.com
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: other, port: {number: 80}}}}
      - {path: /foo/, pathType: Prefix, backend: {service: {name: httpbin, port: {name: web}}}}
      - {path: /foo/x, pathType: Exact, backend: {service: {name: other, port: {number: 80}}}}
"""
RULE = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: delay}
spec:
  destination: {name: httpbin}
  precedence: 2
  match:
    source: {name: istio-ingress, labels: {istio: ingress}}
    request: {headers: {uri: {prefix: /delay/}}}
  route: [{labels: {version: v2}, weight: 100}]
  httpReqTimeout: {simpleTimeout: {timeout: 4s}}
"""


def exact(value: str) -> StringMatch:
    return StringMatch(MatchKind.EXACT, value)


def prefix(value: str) -> StringMatch:
    return StringMatch(MatchKind.PREFIX, value)


def regex(value: str) -> StringMatch:
    return StringMatch(MatchKind.REGEX, value)


def lowered(text: str) -> Lowered:
    return lower(read(text), [HTTPBIN, OTHER])


def routes(result: Lowered, host: str = "*") -> tuple[Route, ...]:
    return next(bound.routes for bound in result.ingress.bound if bound.hosts == (host,))


@pytest.mark.parametrize(
    ("mine", "its", "both"),
    [
        (None, prefix("/a"), prefix("/a")),
        (prefix("/a/"), None, prefix("/a/")),
        (prefix("/a/"), prefix("/a/b"), prefix("/a/b")),
        (prefix("/a/b"), prefix("/a/"), prefix("/a/b")),
        (prefix("/a/"), exact("/a/b"), exact("/a/b")),
        (exact("/a/b"), prefix("/a/"), exact("/a/b")),
        (exact("/a"), StringMatch(MatchKind.EXACT, "/A", ignore_case=True), exact("/a")),
    ],
)
def test_one_path_within_another(mine: StringMatch | None, its: StringMatch | None, both: StringMatch) -> None:
    assert conjunction(HttpMatch(uri=mine), HttpMatch(uri=its)) == HttpMatch(uri=both)


@pytest.mark.parametrize(
    ("mine", "its"), [(prefix("/a/"), prefix("/b/")), (exact("/a"), prefix("/a/")), (exact("/a"), exact("/b"))]
)
def test_paths_with_nothing_in_common(mine: StringMatch, its: StringMatch) -> None:
    assert conjunction(HttpMatch(uri=mine), HttpMatch(uri=its)) is None


def test_a_regex_and_another_path_are_both_looked_at() -> None:
    found = conjunction(HttpMatch(uri=exact("/a.b")), HttpMatch(uri=regex("/a.*")))
    assert found == HttpMatch(uri=regex("/a.*"), headers=(NamedMatch(":path", regex(r"/a\.b(\?.*)?")),))
    found = conjunction(HttpMatch(uri=prefix("/a/")), HttpMatch(uri=regex("/a.*"), method=exact("GET")))
    header = NamedMatch(":path", prefix("/a/"))
    assert found == HttpMatch(uri=regex("/a.*"), method=exact("GET"), headers=(header,))


def test_ports_and_connections_that_contradict() -> None:
    assert conjunction(HttpMatch(port=80), HttpMatch(port=81)) is None
    assert conjunction(HttpMatch(port=80), HttpMatch()) == HttpMatch(port=80)
    assert conjunction(HttpMatch(), HttpMatch(connection=ConnectionMatch(sources=("10.0.0.0/8",)))) is None


def test_the_seeds_ingress() -> None:
    result = lowered(OLD)
    assert result.faults == ()
    (gateway,) = result.ingress.gateways
    assert gateway.selects(INGRESS_LABELS)
    assert [(server.port, server.hosts) for server in gateway.servers] == [(80, (("*", "*"),))]
    found = routes(result)
    assert [route.matches for route in found] == [
        (HttpMatch(uri=prefix("/status/")),),
        (HttpMatch(uri=prefix("/delay/")),),
    ]
    assert [route.destinations[0].destination for route in found] == [
        Destination(HTTPBIN, port=8000),
        Destination(HTTPBIN, port_name="http"),
    ]


def test_paths_of_kubernetes_in_its_order_and_the_default_at_every_host() -> None:
    result = lowered(NEW)
    found = routes(result, "a.example.com")
    assert [[match.uri for match in route.matches] for route in found] == [
        [exact("/foo/x")],
        [exact("/foo"), prefix("/foo/")],
        [None],
        [None],
    ]
    assert routes(result)[0].destinations[0].destination == Destination(OTHER, port=80)
    (gateway,) = result.ingress.gateways
    assert [
        (server.port, server.hosts[0][1], server.tls and server.tls.certificates) for server in gateway.servers
    ] == [
        (80, "*", None),
        (443, "a.example.com", ("shop",)),
        (443, "b.example.com", ("shop",)),
    ]


def test_paths_of_several_objects_stand_in_one_order() -> None:
    longer = OLD.replace("simple-ingress", "z").replace("/status/.*", "/status/deep/.*")
    found = routes(lowered(f"{OLD}---{longer}"))
    assert [route.matches[0].uri.value for route in found if route.matches[0].uri] == [
        "/status/deep/",
        "/status/",
        "/delay/",
        "/delay/",
    ]


def test_a_route_rule_holds_on_its_part_of_the_paths() -> None:
    found = routes(lowered(f"{OLD}---{RULE}"))
    assert [(route.origin.kind, route.matches[0].uri) for route in found] == [
        ("Ingress", prefix("/status/")),
        ("RouteRule", prefix("/delay/")),
        ("Ingress", prefix("/delay/")),
    ]
    rule = found[1]
    assert rule.actions.timeout_seconds == 4.0
    assert rule.destinations[0].destination.port_name == "http"
    source = rule.matches[0].source
    assert source is not None
    assert (source.service, source.labels) == (ServiceKey("default", "istio-ingress"), (("istio", "ingress"),))


def test_a_virtual_service_of_the_mesh_says_nothing_of_an_ingress() -> None:
    service = """---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x}
spec: {hosts: [httpbin], http: [{redirect: {uri: /x}}]}
"""
    assert [route.origin.kind for route in routes(lowered(OLD + service))] == ["Ingress", "Ingress"]


def test_an_ingress_rule() -> None:
    text = """
apiVersion: config.istio.io/v1alpha2
kind: IngressRule
metadata: {name: old}
spec:
  destination: {name: httpbin}
  destination_port: 8000
  tls_secret: shop
  precedence: 3
  match: {request: {headers: {authority: {exact: "Shop.example.com:443"}, uri: {prefix: /a}, x-b: c}}}
"""
    result = lowered(text)
    (route,) = routes(result, "shop.example.com")
    headers = (NamedMatch("x-b", exact("c")),)
    assert route.matches == (HttpMatch(uri=prefix("/a"), headers=headers, port=443),)
    (server,) = result.ingress.gateways[0].servers
    assert (server.port, server.hosts) == (443, (("*", "shop.example.com"),))


def test_a_service_that_is_not_there_costs_its_path_alone() -> None:
    result = lowered(NEW.replace("name: httpbin", "name: nobody"))
    (fault,) = result.faults
    assert "spec.rules[0].http.paths[1] is left out: service nobody" in fault.reason
    assert len(routes(result, "a.example.com")) == 3


@pytest.mark.parametrize(
    ("old", "new", "said", "kept"),
    [
        ("ingressClassName: istio", "ingressClassName: nginx", '"nginx" is another controller', False),
        ("{name: new}", "{name: new, annotations: {kubernetes.io/ingress.class: nginx}}", "another controller", False),
        (
            "{name: new}",
            "{name: new, annotations: {nginx.ingress.kubernetes.io/rewrite-target: /}}",
            "is for another controller",
            True,
        ),
        ("secretName: shop", "secretName: ../shop", "not the name of a folder", True),
        (", secretName: shop", "", "secretName is missing", True),
        ("{path: /foo/x, pathType: Exact", "{path: '/foo/(x|y)'", "is a regular expression", True),
        ("{service: {name: httpbin, port: {name: web}}}", "{resource: {kind: Bucket}}", "no such resources", True),
    ],
)
def test_what_cannot_be_had_is_named(old: str, new: str, said: str, kept: bool) -> None:
    document = one(NEW.replace(old, new))
    (line,) = validate(document)
    assert said in line
    result = enforceable(document)
    assert (result.document is not None) is kept
    if result.document is not None:
        assert validate(result.document) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("path: /foo/x", "path: foo", "is not a path"),
        ("port: {number: 80}", "port: {number: 80, name: a}", "one of them only"),
        ("host: a.example.com", "host: 10.0.0.1", "is an address"),
        ("host: a.example.com", "host: '*a.example.com'", "whole first label"),
        ("pathType: Exact", "pathType: Regex", "is not allowed"),
        ("service: {name: httpbin, port: {name: web}}", "serviceName: httpbin", "servicePort: is missing"),
        ("networking.k8s.io/v1", "networking.k8s.io/v2", "is not one of Ingress's"),
    ],
)
def test_what_no_ingress_is(old: str, new: str, said: str) -> None:
    assert any(said in line for line in validate(one(NEW.replace(old, new))))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("match: {source: {name: sleep}}", "clients of a gateway are no services"),
        ("tls_secret: a/b", "is not the name of a folder"),
    ],
)
def test_an_ingress_rule_that_cannot_be_had_has_no_effect(field: str, said: str) -> None:
    head = "apiVersion: config.istio.io/v1alpha2\nkind: IngressRule\nmetadata: {name: x}\nspec:\n"
    document = one(f"{head}  destination: {{name: httpbin}}\n  {field}\n")
    assert said in validate(document)[0]
    assert enforceable(document).document is None


@pytest.mark.parametrize("text", [OLD, NEW])
def test_the_newer_form_routes_alike(text: str) -> None:
    """What `convert` writes lowers to the same routes, less the names of ports."""
    text = text.replace("servicePort: http", "servicePort: 8001").replace("{name: web}", "{number: 8001}")
    converted = convert(read(text))
    documents = [one(to_text(plain)) for plain in converted.documents]
    assert [line for document in documents for line in validate(document)] == []
    old, new = lowered(text).ingress, lower(documents, [HTTPBIN, OTHER]).ingress
    assert facts(old.bound) == facts(new.bound)


@given(st.sampled_from((OLD, NEW)).flatmap(lambda text: mutated(yaml.safe_load(text)["spec"])))
def test_whatever_an_ingress_holds_it_is_refused_or_lowered(spec: object) -> None:
    head = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "x"}}
    documents, _ = read_documents(json.dumps({**head, "spec": spec}), "x.yaml", "default")
    for document in documents:
        if not is_invalid(find_problems(document)):
            convert([document])
        lower([document], [HTTPBIN, OTHER])
        analyze([document])


def test_what_route_rules_did_at_the_edge_is_told() -> None:
    assert not [line for line in convert(read(OLD)).notes if "RouteRules" in line]
    (line,) = [line for line in convert(read(f"{OLD}---{RULE}")).notes if "RouteRules of httpbin" in line]
    assert "Ingress/simple-ingress" in line


def facts(bound: object) -> object:
    return sorted(
        (
            one.hosts,
            [([match for match in route.matches if match != HttpMatch()], route.destinations) for route in one.routes],
        )
        for one in bound  # type: ignore[attr-defined]
    )


def to_text(plain: object) -> str:
    return json.dumps(plain)
