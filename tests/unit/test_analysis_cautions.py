"""Findings about what is valid and hardly meant: Istio's own warnings, tokens, certificates."""

from __future__ import annotations

import pytest

from agent.api.analysis.analyze import analyze
from agent.api.document import read_documents
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey, labels_of

DATABASE = ServiceKey("default", "mysql")
PORTS = (Port(3306, "mysql", Protocol.MYSQL),)
CATALOG = {
    DATABASE: Service(
        DATABASE, PORTS, (Instance("m", DATABASE, "n", "10.0.0.1", PORTS, labels_of({"app": "mysql"}), proxied=True),)
    )
}
GROUPS = {"RequestAuthentication": "security", "AuthorizationPolicy": "security", "PeerAuthentication": "security"}
TLS = "port: {number: 443, name: https, protocol: HTTPS}"


def found(*objects: tuple[str, str]) -> list[str]:
    """Return code and path of each finding about these kinds and specs."""
    texts = (
        f"apiVersion: {GROUPS.get(kind, 'networking')}.istio.io/v1\nkind: {kind}\nmetadata: {{name: n{at}}}\n{spec}\n"
        for at, (kind, spec) in enumerate(objects)
    )
    documents, problems = read_documents("\n---\n".join(texts), "f.yaml", "default")
    assert problems == []
    codes = ("IST0106", "IST0108", "IST0119", "IST0128", "IST0129", "IST0133", "IST0134", "IST0138", "IST0149")
    return [f"{one.kind.code} {one.path}" for one in analyze(documents, CATALOG) if one.kind.code in codes]


def server(fields: str) -> tuple[str, str]:
    return "Gateway", f"spec: {{selector: {{istio: ingressgateway}}, servers: [{{hosts: ['*.a.com'], {fields}}}]}}"


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("Sidecar", "workloadSelector: {}, egress: [{hosts: ['./*']}]", "workloadSelector"),
        ("PeerAuthentication", "selector: {}", "selector"),
        ("DestinationRule", "host: mysql, workloadSelector: {matchLabels: {}}", "workloadSelector"),
        ("Sidecar", "egress: [{hosts: ['./a.b', 'default/a.b']}]", "egress[0].hosts[1]"),
        ("Sidecar", "egress: [{hosts: ['a/*', 'a/b.c']}]", "egress[0].hosts[1]"),
        ("Sidecar", "egress: [{hosts: ['a/b.c', '*/*']}]", "egress[0].hosts[0]"),
        (
            "Sidecar",
            "ingress: [{port: {number: 3306, protocol: MYSQL}, connectionPool: {http: {maxRetries: 1}}}]",
            "ingress[0].connectionPool.http",
        ),
        ("ServiceEntry", "hosts: ['*oo.com'], ports: [{number: 80, name: http}]", "hosts[0]"),
        ("ServiceEntry", "hosts: [a.b], workloadSelector: {labels: {a: b}}", "resolution"),
        (
            "VirtualService",
            f"hosts: [mysql], http: [{{directResponse: {{status: 200, body: {{string: '{'x' * 102_401}'}}}}}}]",
            "http[0].directResponse.body",
        ),
    ],
)
def test_what_istio_warns_of(kind: str, spec: str, expected: str) -> None:
    assert found((kind, f"spec: {{{spec}}}")) == [f"IST0133 spec.{expected}"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (f"{TLS}, tls: {{mode: SIMPLE, credentialName: x, httpsRedirect: true}}", "tls.httpsRedirect"),
        (f"{TLS}, tls: {{mode: SIMPLE, credentialName: x, minProtocolVersion: TLSV1_1}}", "tls.minProtocolVersion"),
        (
            f"{TLS}, tls: {{mode: SIMPLE, credentialName: x, cipherSuites: [AES128-SHA, AES128-SHA]}}",
            "tls.cipherSuites[1]",
        ),
    ],
)
def test_servers_that_istio_warns_of(fields: str, expected: str) -> None:
    assert found(server(fields)) == [f"IST0133 spec.servers[0].{expected}"]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Sidecar", "egress: [{hosts: ['*/*']}]"),
        ("Sidecar", "egress: [{hosts: ['./*', 'istio-system/*', '*/a.b']}]"),
        ("PeerAuthentication", "selector: {matchLabels: {app: mysql}}"),
        ("ServiceEntry", "hosts: ['*.foo.com'], ports: [{number: 80, name: http}, {number: 443, name: tls}]"),
        ("ServiceEntry", "hosts: [a.b], ports: [{number: 3306, name: mysql}], resolution: DNS"),
        ("ServiceEntry", "hosts: ['*.a.b'], addresses: [10.1.0.0/16], ports: [{number: 3306, name: mysql}]"),
        ("DestinationRule", "host: mysql, trafficPolicy: {tls: {mode: SIMPLE, sni: a}}"),
    ],
)
def test_what_nobody_warns_of(kind: str, spec: str) -> None:
    assert found((kind, f"spec: {{{spec}}}")) == []


def test_ports_of_a_wildcard_that_say_no_name() -> None:
    ports = "[{number: 80, name: http}, {number: 3306, name: db, protocol: MYSQL}, {number: 9, name: x}]"
    entry = ("ServiceEntry", f"spec: {{hosts: ['*.foo.com'], ports: {ports}}}")
    assert found(entry) == ["IST0134 spec.ports[1]", "IST0134 spec.ports[2]"]


def test_servers_that_nobody_verifies() -> None:
    tls = "tls: {mode: SIMPLE, insecureSkipVerify: true}"
    policy = f"{{{tls}, portLevelSettings: [{{port: {{number: 3306}}, {tls}}}]}}"
    spec = f"spec: {{host: mysql, trafficPolicy: {policy}, subsets: [{{name: v1, trafficPolicy: {{{tls}}}}}]}}"
    assert found(("DestinationRule", spec)) == [
        "IST0128 spec.subsets[0].trafficPolicy.tls.insecureSkipVerify",
        "IST0129 spec.trafficPolicy.portLevelSettings[0].tls.insecureSkipVerify",
        "IST0128 spec.trafficPolicy.tls.insecureSkipVerify",
    ]


def test_annotations_of_kubernetes() -> None:
    head = "metadata: {name: x, annotations: {sidecar.istio.io/inject: 'true', mine.example/a: b}}\n"
    text = f"apiVersion: networking.istio.io/v1\nkind: Sidecar\n{head}spec: {{egress: [{{hosts: ['./*']}}]}}\n"
    (one,) = analyze(read_documents(text, "f.yaml", "default")[0])
    assert (one.kind.code, one.path) == ("IST0108", "metadata.annotations.sidecar.istio.io/inject")


def test_a_certificate_of_several_gateways() -> None:
    with_x, with_y = (server(f"{TLS}, tls: {{mode: SIMPLE, credentialName: {name}}}") for name in "xy")
    other = with_x[0], with_x[1].replace("a.com", "b.com")
    assert found(with_x, other, with_y) == ["IST0138 spec.servers[0].tls"]
    assert found(with_x, (other[0], other[1].replace("ingressgateway", "another"))) == []


def test_claims_that_nobody_verifies() -> None:
    gateway = server("port: {number: 80, name: http, protocol: HTTP}")
    match = "match: [{headers: {'@request.auth.claims.group': {exact: x}}}]"
    route = f"{{{match}, route: [{{destination: {{host: mysql}}}}]}}"
    routes = ("VirtualService", f"spec: {{hosts: [x.a.com], gateways: [n0], http: [{route}]}}")
    assert found(gateway, routes) == ["IST0149 spec.http[0].match[0]"]
    rules = "jwtRules: [{issuer: i, jwksUri: 'https://a.b/k'}]"
    for selector, guarded in (("istio: ingressgateway", True), ("istio: ingress", True), ("app: other", False)):
        tokens = ("RequestAuthentication", f"spec: {{selector: {{matchLabels: {{{selector}}}}}, {rules}}}")
        assert found(gateway, routes, tokens) == ([] if guarded else ["IST0149 spec.http[0].match[0]"])


def test_tokens_for_ports_without_requests() -> None:
    rules = "jwtRules: [{issuer: i, jwksUri: 'https://a.b/k'}]"
    selecting = f"spec: {{selector: {{matchLabels: {{app: mysql}}}}, {rules}}}"
    assert found(("RequestAuthentication", selecting)) == ["IST0119 spec.jwtRules"]
    assert found(("RequestAuthentication", f"spec: {{{rules}}}")) == []
