"""Findings across documents: each bad thing is found once, at its place; what is right is left in peace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.analysis.analyze import analyze, worst
from agent.api.analysis.coverage import covers
from agent.api.analysis.finding import KINDS, Level
from agent.api.analysis.gateways import Reported
from agent.api.document import Document, read_documents
from agent.mesh.routes import Fault, HttpMatch, MatchKind, NamedMatch, SourceMatch, StringMatch
from agent.mesh.service import Health, Instance, Labels, Port, Protocol, Service, ServiceKey
from agent.mesh.settings import MeshSettings, MtlsMode

VS = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: NAME}\nspec:\n"
DR = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: NAME}\nspec:\n"
RR = "apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {name: NAME}\nspec:\n"
SE = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: NAME}\nspec:\n"
SIDECAR = "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: NAME}\nspec: {egress: [{hosts: ['./*']}]"
PATH_A = "{uri: {exact: /a}}"
TO_REVIEWS = "route: [{destination: {host: reviews}}]"


def service(name: str, *labels: Labels, health: Health = Health.PASSING, ports: int = 1) -> Service:
    key = ServiceKey("default", name)
    numbers = tuple(Port(9080 + number, f"http-{number}", Protocol.HTTP) for number in range(ports))
    return Service(
        key,
        numbers,
        tuple(
            Instance(f"{name}-{index}", key, "n", "10.0.0.1", numbers, each, health, proxied=True)
            for index, each in enumerate(labels)
        ),
    )


V1, V2 = (("version", "v1"),), (("version", "v2"),)
CATALOG = {
    one.key: one
    for one in (
        service("reviews", V1, V2),
        service("ratings", V1, health=Health.CRITICAL),
        service("wide", V1, ports=2),
        service("painted", (("color", "red"), ("version", "v1"))),
    )
}
STRICT = MeshSettings(mtls=MtlsMode.STRICT)


def documents(*texts: str) -> list[Document]:
    named = (text.replace("NAME", chr(ord("a") + index)) for index, text in enumerate(texts))
    found, problems = read_documents("\n---\n".join(named), "rules.yaml", "default")
    assert problems == []
    return found


def found(*texts: str, mesh: MeshSettings | None = None) -> list[str]:
    return [f"{one.kind.code} {one.path}" for one in analyze(documents(*texts), CATALOG, mesh)]


GW = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: NAME}
spec:
  selector: {istio: ingressgateway}
  servers:
"""
HTTP_80 = "  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*/*.example.com', team/other.org]}\n"
TLS_443 = (
    "  - {port: {number: 443, name: NAME, protocol: HTTPS}, hosts: [a.example.com], "
    "tls: {mode: SIMPLE, credentialName: x}}\n"
)
INGRESS = """apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME}
spec:
  tls: [{hosts: [a.example.com], secretName: x}]
  defaultBackend: {service: {name: reviews, port: {number: 9080}}}
"""


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([GW + HTTP_80, f"{VS}  hosts: [a.example.com]\n  gateways: [a]\n  http: [{{{TO_REVIEWS}}}]\n"], []),
        (
            [GW + HTTP_80, f"{VS}  hosts: [a.example.com, b.org]\n  gateways: [a]\n  http: [{{{TO_REVIEWS}}}]\n"],
            ["IST0132 spec.hosts[1]"],
        ),
        # A host of another namespace's routes; a service of the mesh need not be at the gateway.
        (
            [GW + HTTP_80, f"{VS}  hosts: [other.org]\n  gateways: [default/a]\n  http: [{{{TO_REVIEWS}}}]\n"],
            ["IST0132 spec.hosts[0]"],
        ),
        (
            [
                GW + HTTP_80,
                f"{VS}  hosts: [a.example.com, reviews]\n  gateways: [a.default.svc.cluster.local, mesh]\n"
                f"  http: [{{{TO_REVIEWS}}}]\n",
            ],
            [],
        ),
        (
            [f"{VS}  hosts: [a.example.com]\n  gateways: [no/such]\n  http: [{{{TO_REVIEWS}}}]\n"],
            ["IST0101 spec.gateways[0]"],
        ),
        ([GW + HTTP_80, GW + HTTP_80], []),
        ([GW + TLS_443, GW.replace("ingressgateway", "ingress") + TLS_443], ["IST0145 spec.servers[0]"]),
        ([GW + TLS_443, GW.replace("istio: ingressgateway", "app: x") + TLS_443], []),
        ([GW + HTTP_80, GW + HTTP_80.replace("HTTP}", "TCP}")], ["IST0145 spec.servers[0]"]),
        ([INGRESS, INGRESS], []),
        ([GW + TLS_443, INGRESS], ["IST0145 spec"]),
        ([INGRESS.replace("name: reviews", "name: nobody")], ["IST0101 spec.defaultBackend"]),
        ([INGRESS.replace("9080", "9099")], ["IST0101 spec.defaultBackend"]),
    ],
)
def test_gateways(texts: list[str], expected: list[str]) -> None:
    assert found(*texts) == expected


def test_what_a_gateway_reports_is_told_of_its_object() -> None:
    fault = Fault("Gateway/a.default", 'server "a" is left out: this host has no usable certificate x')
    reported = [Reported("edge", fault), Reported("edge", Fault("Gateway/gone.default", "x"))]
    (one,) = analyze(documents(GW + TLS_443), CATALOG, None, reported)
    assert (one.kind.code, "edge" in one.message, "no usable certificate" in one.message) == ("HM0108", True, True)


SUBSETS = f"{DR}  host: reviews\n  subsets: [{{name: v1, labels: {{version: v1}}}}]\n"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([f"{VS}  hosts: [reviews]\n  http: [{{{TO_REVIEWS}}}]\n"], []),
        ([SUBSETS], []),
        ([f"{VS}  hosts: [nowhere]\n  http: [{{{TO_REVIEWS}}}]\n"], ["IST0101 spec.hosts[0]"]),
        (
            [f"{VS}  hosts: [reviews]\n  http: [{{route: [{{destination: {{host: nowhere}}}}]}}]\n"],
            ["IST0101 spec.http[0].route[0].destination"],
        ),
        (
            [
                SUBSETS,
                f"{VS}  hosts: [reviews]\n  http: [{{route: [{{destination: {{host: reviews, subset: v9}}}}]}}]\n",
            ],
            ["IST0101 spec.http[0].route[0].destination"],
        ),
        (
            [f"{VS}  hosts: [reviews]\n  gateways: [mesh, edge]\n  http: [{{{TO_REVIEWS}}}]\n"],
            ["IST0101 spec.gateways[1]"],
        ),
        ([f"{VS}  hosts: [reviews]\n  http: [{{route: []}}]\n"], ["IST0106 spec.http[0].route"]),
        (
            [f"{VS}  hosts: [reviews]\n  http: [{{{TO_REVIEWS}}}]\n"] * 2,
            ["IST0109 spec.hosts[0]"] * 2,
        ),
        ([f"{SIDECAR}}}", f"{SIDECAR}}}"], ["IST0111 spec"] * 2),
        ([f"{SIDECAR}}}".replace("./*", "./nobody.default.svc.cluster.local")], ["HM0110 spec.egress[0].hosts[0]"]),
        (
            [f"{SIDECAR}}}".replace("./*", "other/*"), f"{VS}  hosts: [reviews]\n  http: [{{{TO_REVIEWS}}}]\n"],
            ["HM0111 spec.hosts[0]"],
        ),
        (
            [
                f"{SIDECAR}, workloadSelector: {{labels: {{version: v1}}}}}}".replace("./*", "other/*"),
                f"{RR}  destination: {{name: reviews}}\n"
                "  match: {source: {name: reviews, labels: {version: v1}}}\n  route: [{labels: {version: v1}}]\n",
            ],
            ["HM0111 spec.destination"],
        ),
        ([f"{SIDECAR}, workloadSelector: {{labels: {{version: v1}}}}}}"] * 2, ["IST0110 spec"] * 2),
        (
            [f"{SIDECAR}, workloadSelector: {{labels: {{{label}}}}}}}" for label in ("version: v1", "color: red")],
            ["IST0110 spec"] * 2,
        ),
        (
            [f"{SIDECAR}, workloadSelector: {{labels: {{version: {version}}}}}}}" for version in ("v1", "v2")],
            [],
        ),
        (
            [f"{SIDECAR}, workloadSelector: {{labels: {{app: nobody}}}}}}"],
            ["IST0101 spec.workloadSelector.labels"],
        ),
        (
            [f"{VS}  hosts: [wide]\n  http: [{{route: [{{destination: {{host: wide}}}}]}}]\n"],
            ["IST0112 spec.http[0].route[0].destination"],
        ),
        (
            [f"{VS}  hosts: [reviews]\n  http: [{{{TO_REVIEWS}}}, {{match: [{PATH_A}], {TO_REVIEWS}}}]\n"],
            ["IST0130 spec.http[1]"],
        ),
        (
            [
                f"{VS}  hosts: [reviews]\n  http:\n  - {{match: [{{uri: {{prefix: /a}}}}], {TO_REVIEWS}}}\n"
                f"  - {{match: [{{uri: {{exact: /ab}}}}, {{uri: {{exact: /b}}}}], {TO_REVIEWS}}}\n"
            ],
            ["IST0131 spec.http[1].match[0]"],
        ),
        (
            [f"{RR}  destination: {{name: reviews}}\n  precedence: 2\n", f"{RR}  destination: {{name: reviews}}\n"],
            ["HM0103 spec"],
        ),
        (
            [f"{VS}  hosts: [reviews]\n  http: [{{{TO_REVIEWS}}}]\n", f"{RR}  destination: {{name: reviews}}\n"],
            ["HM0104 spec.destination"],
        ),
        (
            [
                f"{RR}  destination: {{name: reviews}}\n  route: [{{labels: {{version: v1}}, weight: 90}}, "
                "{labels: {version: v9}, weight: 10}]\n"
            ],
            ["HM0105 spec.route[1]"],
        ),
        ([f"{RR}  destination: {{name: reviews}}\n  route: [{{labels: {{version: v9}}}}]\n"], ["HM0102 spec.route[0]"]),
        ([f"{DR}  host: reviews\n  subsets: [{{name: v9, labels: {{version: v9}}}}]\n"], ["HM0102 spec.subsets[0]"]),
        (
            [f"{VS}  hosts: [reviews]\n  http: [{{route: [{{destination: {{host: ratings}}}}]}}]\n"],
            ["HM0106 spec.http[0].route[0].destination"],
        ),
    ],
)
def test_what_is_found(texts: list[str], expected: list[str]) -> None:
    assert found(*texts) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (f"http: [{{match: [{PATH_A}, {{uri: {{exact: /a}}}}], {TO_REVIEWS}}}]", ["IST0131 spec.http[0].match[1]"]),
        (
            f"http: [{{match: [{{uri: {{prefix: /a}}}}, {{uri: {{prefix: /ab}}, method: {{exact: GET}}}}],"
            f" {TO_REVIEWS}}}]",
            ["IST0131 spec.http[0].match[1]"],
        ),
        (
            f"http: [{{match: [{{uri: {{prefix: /a}}, method: {{exact: GET}}}}, {{uri: {{prefix: /ab}}}}],"
            f" {TO_REVIEWS}}}]",
            [],
        ),
        (f"http: [{{{TO_REVIEWS}}}, {{name: second, {TO_REVIEWS}}}]", ["IST0130 spec.http[1]"]),
        (f"http: [{{match: [{{uri: {{prefix: /}}}}], {TO_REVIEWS}}}, {{{TO_REVIEWS}}}]", ["IST0130 spec.http[1]"]),
        (f"http: [{{match: [{{uri: {{prefix: /a}}}}], {TO_REVIEWS}}}, {{{TO_REVIEWS}}}]", []),
        (f"http: [{{match: [{{headers: {{uri: {{exact: x}}}}}}], {TO_REVIEWS}}}, {{{TO_REVIEWS}}}]", []),
        (f"http: [{{match: [{PATH_A}], delegate: {{name: x}}}}, {{match: [{PATH_A}], {TO_REVIEWS}}}]", []),
        (f"tcp: [{{match: [{{port: 1}}], {TO_REVIEWS}}}] * 2", ["IST0130 spec.tcp[1]"]),
        (f"tcp: [{{{TO_REVIEWS}}}] * 2", ["IST0130 spec.tcp[1]"]),
        (
            f"tcp: [{{match: [{{port: 1}}], {TO_REVIEWS}}}, {{match: [{{port: 1}}, {{port: 2}}], {TO_REVIEWS}}}]",
            ["IST0131 spec.tcp[1].match[0]"],
        ),
        (
            f"tcp: [{{match: [{{destinationSubnets: [10.0.0.0/8]}}], {TO_REVIEWS}}},"
            f" {{match: [{{destinationSubnets: [10.1.0.0/16, 10.2.3.4]}}], {TO_REVIEWS}}}]",
            ["IST0130 spec.tcp[1]"],
        ),
        (
            f"tcp: [{{match: [{{destinationSubnets: [10.1.0.0/16]}}], {TO_REVIEWS}}},"
            f" {{match: [{{destinationSubnets: [10.0.0.0/8]}}], {TO_REVIEWS}}}, {{{TO_REVIEWS}}}]",
            [],
        ),
        (
            f"tls: [{{match: [{{port: 1, sniHosts: [reviews]}}], {TO_REVIEWS}}}] * 2",
            ["IST0130 spec.tls[1]"],
        ),
        (
            f"gateways: [mesh, edge]\n  http: [{{match: [{{gateways: [mesh]}}], {TO_REVIEWS}}}, {{{TO_REVIEWS}}}]",
            [],
        ),
        (
            f"gateways: [mesh, edge]\n  http: [{{{TO_REVIEWS}}}, {{match: [{{gateways: [edge]}}], {TO_REVIEWS}}}]",
            ["IST0130 spec.http[1]"],
        ),
    ],
)
def test_rules_and_matches_that_get_nothing(rules: str, expected: list[str]) -> None:
    *_, repeated = rules.partition("[")
    if rules.endswith("] * 2"):
        route = repeated.removesuffix("] * 2")
        rules = f"{rules.partition('[')[0]}[{route}, {route}]"
    text = f"{VS}  hosts: [reviews]\n  {rules}\n"
    assert [one for one in found(text) if one.startswith("IST013") and "IST0132" not in one] == expected


def test_a_route_rule_of_connections_does_not_shadow_one_of_requests() -> None:
    first = f"{RR}  destination: {{name: reviews}}\n  precedence: 2\n  match: {{tcp: {{sourceSubnet: [10.0.0.0/8]}}}}\n"
    assert "HM0103 spec" not in found(first, f"{RR}  destination: {{name: reviews}}\n")
    wider = (
        f"{RR}  destination: {{name: reviews}}\n  precedence: 1\n  match: {{tcp: {{sourceSubnet: [10.1.0.0/16]}}}}\n"
    )
    assert "HM0103 spec" in found(first, wider)


def test_plain_text_to_a_strict_mesh() -> None:
    text = f"{DR}  host: reviews\n  trafficPolicy: {{tls: {{mode: DISABLE}}}}\n"
    assert "IST0113 spec.trafficPolicy.tls.mode" in found(text, mesh=STRICT)
    assert "IST0113 spec.trafficPolicy.tls.mode" not in found(text)


def test_wildcards_of_the_outside_need_more_capture() -> None:
    text = f"{SE}  hosts: ['*.example.com']\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
    assert "HM0107 spec.hosts[0]" in found(text)


def test_hosts_that_documents_add_are_known() -> None:
    entry = (
        f"{SE}  hosts: [api.example.com]\n  resolution: DNS\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
    )
    rule = f"{RR}  destination: {{service: api.example.com}}\n"
    assert "IST0101 spec.destination" not in found(entry, rule)
    assert "IST0101 spec.destination" in found(rule)


def test_files_alone_are_analysed_without_a_catalog() -> None:
    text = f"{VS}  hosts: [anything]\n  http: [{{route: [{{destination: {{host: other, subset: v1}}}}]}}]\n"
    (one,) = analyze(documents(text))
    assert (one.kind.code, one.place, one.object) == ("IST0101", "rules.yaml:6", "VirtualService a.default")
    assert "to mend it: " in one.line


def test_codes_are_unique_and_levels_ordered() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)
    assert [level.rank for level in (Level.INFO, Level.WARNING, Level.ERROR)] == [0, 1, 2]
    assert worst([]) is None


TEXTS = st.builds(
    StringMatch,
    st.sampled_from([MatchKind.EXACT, MatchKind.PREFIX, MatchKind.PRESENT]),
    st.sampled_from(["", "/", "/a", "/ab", "/A"]),
    st.booleans(),
)
NAMED = st.builds(NamedMatch, st.sampled_from(["x", "y"]), TEXTS, st.booleans())
MATCHES = st.builds(
    HttpMatch,
    uri=st.none() | TEXTS,
    headers=st.tuples() | st.tuples(NAMED) | st.tuples(NAMED, NAMED),
    port=st.none() | st.sampled_from([1, 2]),
    source=st.none() | st.builds(SourceMatch, labels=st.sampled_from([(), V1, V2])),
)


def holds(match: StringMatch, value: str | None) -> bool:
    if value is None:
        return False
    one, other = (match.value.lower(), value.lower()) if match.ignore_case else (match.value, value)
    return {
        MatchKind.EXACT: one == other,
        MatchKind.PREFIX: other.startswith(one),
        MatchKind.PRESENT: True,
    }[match.kind]


def takes(match: HttpMatch, uri: str, headers: dict[str, str], port: int, labels: Labels) -> bool:
    return (
        (match.uri is None or holds(match.uri, uri))
        and all(holds(each.match, headers.get(each.name)) is not each.invert for each in match.headers)
        and match.port in (None, port)
        and (match.source is None or set(match.source.labels) <= set(labels))
    )


PATHS = st.sampled_from(["/", "/a", "/ab", "/A", "/abc", "/B"])  # no request has an empty one
VALUES = st.just("") | PATHS


@settings(deadline=None, max_examples=300)
@given(MATCHES, MATCHES, PATHS, st.dictionaries(st.sampled_from(["x", "y"]), VALUES), st.sampled_from([V1, V2, ()]))
def test_a_covering_match_takes_all_requests_of_the_covered(
    one: HttpMatch, other: HttpMatch, uri: str, headers: dict[str, str], labels: Labels
) -> None:
    for port in (1, 2, 3):
        if covers(one, other) and takes(other, uri, headers, port, labels):
            assert takes(one, uri, headers, port, labels)


@pytest.mark.case
def test_istios_own_files_are_analysed_without_a_crash() -> None:
    folder = Path(__file__).parents[3] / "shared" / "cases" / "istio"
    if not folder.is_dir():
        pytest.skip("the folder with Istio's cases is not here")
    for path in folder.glob("**/*.yaml"):
        analyze(read_documents(path.read_text(), path.name, "default")[0])
