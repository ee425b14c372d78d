"""The kinds beside the rules: valid samples, one changed field at a time, and the line that says so."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.problem import Verdict
from agent.api.validate import describe, find_problems
from tests.unit.api_samples import mutated, one

HEADS = {
    **dict.fromkeys(
        ("Gateway", "ServiceEntry", "WorkloadEntry", "WorkloadGroup", "Sidecar", "VirtualService"),
        "networking.istio.io/v1",
    ),
    **dict.fromkeys(("PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication"), "security.istio.io/v1"),
    "Telemetry": "telemetry.istio.io/v1",
    **dict.fromkeys(("EgressRule", "IngressRule"), "config.istio.io/v1alpha2"),
}
SPECS = {
    "Gateway": """
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.b.com, ./c.d.com],
     tls: {mode: SIMPLE, credentialName: x}}
  - {port: {number: 15443, name: tls, protocol: TLS}, hosts: ["*.local"], tls: {mode: AUTO_PASSTHROUGH}}
""",
    "ServiceEntry": """
  hosts: [api.example.com]
  addresses: [10.1.0.0/16]
  ports: [{number: 443, name: https, protocol: TLS, targetPort: 8443}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{address: 2.2.2.2, ports: {https: 9443}, labels: {a: b}, locality: eu/x, weight: 3}]
  exportTo: [".", team]
  subjectAltNames: ["spiffe://x"]
""",
    "WorkloadEntry": "\n  {address: vm.example.com, ports: {http: 80}, labels: {app: x}, serviceAccount: x}\n",
    "WorkloadGroup": """
  metadata: {labels: {app: x}}
  template: {ports: {http: 80}, serviceAccount: x}
  probe: {periodSeconds: 5, httpGet: {path: /, port: 80, scheme: HTTPS}}
""",
    "Sidecar": """
  workloadSelector: {labels: {app: x}}
  ingress:
  - {port: {number: 90, protocol: HTTPS, name: x}, defaultEndpoint: "127.0.0.1:80",
     tls: {mode: SIMPLE, serverCertificate: /a, privateKey: /b}, connectionPool: {tcp: {maxConnections: 1}}}
  egress:
  - {port: {number: 0, protocol: http}, bind: "unix:///var/x", hosts: ["./*"]}
  - {hosts: ["./*", "istio-system/a.b", "~/x.y"]}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
""",
    "VirtualService": """
  hosts: [db.default, "*.example.com"]
  tcp: [{match: [{port: 3306, destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: db}, weight: 1}]}]
  tls: [{match: [{port: 443, sniHosts: [a.example.com]}], route: [{destination: {host: db, port: {number: 443}}}]}]
""",
    "PeerAuthentication": """
  {selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}
""",
    "AuthorizationPolicy": """
  selector: {matchLabels: {app: x}}
  action: DENY
  rules:
  - from: [{source: {principals: ["*"], notNamespaces: [x], ipBlocks: [10.0.0.0/8]}}]
    to: [{operation: {methods: [GET], paths: ["/a/{*}/b/{**}"], ports: ["80"]}}]
    when: [{key: "request.headers[x]", values: [a]}, {key: destination.port, notValues: ["80"]}]
""",
    "RequestAuthentication": """
  jwtRules:
  - {issuer: x, jwksUri: "https://x/keys", fromHeaders: [{name: h, prefix: "Bearer "}], timeout: 5s,
     outputClaimToHeaders: [{header: x-claim, claim: sub}]}
""",
    "Telemetry": """
  tracing: [{randomSamplingPercentage: 10, customTags: {a: {literal: {value: b}}}, providers: [{name: z}]}]
  metrics: [{overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {a: {operation: REMOVE}}}]}]
  accessLogging: [{filter: {expression: "response.code >= 400"}}]
""",
    "EgressRule": '\n  {destination: {service: "*.foo.com"}, ports: [{port: 80, protocol: http}]}\n',
    "IngressRule": "\n  {destination: {name: x}, port: 80, match: {request: {headers: {uri: {prefix: /}}}}}\n",
}


def sample(kind: str) -> str:
    return f"apiVersion: {HEADS[kind]}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {SPECS[kind]}"


def invalid(kind: str, path: str, value: Any) -> list[str]:
    """Return `path: reason` of what is invalid after one place of a sample's spec is set."""
    document = one(sample(kind))
    place = spec = msgspec.json.decode(msgspec.json.encode(document.spec))
    *above, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in above:
        place = place[part]
    place[last] = value
    problems = find_problems(msgspec.structs.replace(document, spec=spec))
    return [f"{problem.path}: {problem.reason}" for problem in problems if problem.verdict is Verdict.INVALID]


@pytest.mark.parametrize("kind", SPECS)
def test_samples_are_not_invalid(kind: str) -> None:
    assert [p for p in find_problems(one(sample(kind))) if p.verdict is Verdict.INVALID] == []


GOOD_TLS = {"mode": "SIMPLE", "serverCertificate": "a", "privateKey": "b"}
CASES: list[tuple[str, str, Any, str]] = [
    ("Gateway", "servers", [], "spec.servers: is empty"),
    ("Gateway", "servers.1.tls", None, "spec.servers[1].tls: is missing"),
    ("Gateway", "servers.0.tls", GOOD_TLS, "does not go with HTTP, which is plain text"),
    ("Gateway", "servers.1.tls", {**GOOD_TLS, "credentialName": "x"}, "exclude each other"),
    (
        "Gateway",
        "servers.1.tls",
        {"mode": "MUTUAL", "serverCertificate": "a", "privateKey": "b"},
        "caCertificates: is m",
    ),
    ("Gateway", "servers.1.port.name", "http", 'port.name: "http" is given twice'),
    ("Gateway", "servers.0.hosts", ["short"], "short names are not allowed"),
    ("Gateway", "servers.0.hosts", ["a*.com"], "a wildcard must be the whole first label"),
    ("Gateway", "servers.0.bind", "nowhere", "spec.servers[0].bind: "),
    ("Gateway", "servers.0.port.protocol", "SCTP", "is not a protocol"),
    ("ServiceEntry", "hosts", ["*"], '"*" alone is not allowed'),
    ("ServiceEntry", "resolution", "DNS", "ranges go with the resolutions NONE and STATIC"),
    ("ServiceEntry", "resolution", "NONE", "spec.endpoints: do not go with the resolution NONE"),
    ("ServiceEntry", "workloadSelector", {"labels": {"a": "b"}}, "does not go with workloadSelector"),
    ("ServiceEntry", "endpoints.0.address", "a.b.com", "is not an IP address (STATIC takes no names"),
    ("ServiceEntry", "endpoints.0.ports", {"other": 1}, "is not the name of one of spec.ports"),
    ("ServiceEntry", "exportTo", ["*", "x"], '"*" does not go with others'),
    ("ServiceEntry", "exportTo", [".", "default"], '"default" is given twice'),
    ("ServiceEntry", "addresses", ["10.0.0.0/33"], "is no IP address or range"),
    ("WorkloadEntry", "address", "a:80", "is no host name or IP address"),
    ("WorkloadEntry", "address", "", "spec.address: is missing"),
    ("WorkloadEntry", "address", "unix:///x", "spec.ports: do not go with a Unix socket"),
    ("WorkloadGroup", "template", None, "spec.template: is missing"),
    ("WorkloadGroup", "probe", {}, "needs one of httpGet, tcpSocket, exec"),
    ("WorkloadGroup", "probe.httpGet.scheme", "ftp", '"ftp" is not allowed'),
    ("Sidecar", "egress.0.port", None, "only the last listener is for any port"),
    ("Sidecar", "egress.1.hosts", ["a.b"], "is not NAMESPACE/HOST"),
    ("Sidecar", "ingress.0.defaultEndpoint", "10.0.0.1:80", "is no local endpoint"),
    ("Sidecar", "ingress.0.port.protocol", "HTTP", "does not go with a port whose protocol is not HTTPS or TLS"),
    ("Sidecar", "outboundTrafficPolicy.egressProxy", {"host": "a.b", "port": {"number": 1}}, "ALLOW_ANY only"),
    ("VirtualService", "tls.0.match.0.sniHosts", ["other.com"], "is not within spec.hosts"),
    ("VirtualService", "tls.0.match", [], "spec.tls[0].match: is empty"),
    ("VirtualService", "tcp.0.route", [], "spec.tcp[0].route: is empty"),
    ("VirtualService", "tcp.0.match.0.destinationSubnets", ["x"], "is no IP address or range"),
    ("VirtualService", "hosts", ["a.example.com", "*.example.com"], "overlap"),
    ("VirtualService", "hosts", ["*"], '"*" is for gateways only'),
    ("VirtualService", "hosts", [], "spec.tcp: does not go with a delegate"),
    ("PeerAuthentication", "selector", None, "needs a selector"),
    ("PeerAuthentication", "portLevelMtls", {"70000": {}}, '"70000" is not a port'),
    ("AuthorizationPolicy", "rules", None, "DENY without a rule does nothing"),
    ("AuthorizationPolicy", "action", "CUSTOM", "spec.provider.name: is missing"),
    ("AuthorizationPolicy", "provider", {"name": "x"}, "goes with the action CUSTOM only"),
    ("AuthorizationPolicy", "rules.0.when.0.key", "request.headers", "has no name in brackets"),
    ("AuthorizationPolicy", "rules.0.when.0.key", "x.y", '"x.y" is not an attribute'),
    ("AuthorizationPolicy", "rules.0.when.0.key", "destination.labels[a]", "is no longer an attribute"),
    ("AuthorizationPolicy", "rules.0.when.1.notValues", ["99999"], "is not a port"),
    ("AuthorizationPolicy", "rules.0.to.0.operation.paths", ["/{*}/{x}"], "is not a path template"),
    ("AuthorizationPolicy", "targetRef", {"kind": "Pod", "name": "x"}, "cannot be a target"),
    ("RequestAuthentication", "jwtRules.0.jwksUri", "ftp://x", "is no address of a key set"),
    ("RequestAuthentication", "jwtRules.0.jwks", "{", "is no JSON Web Key Set"),
    ("RequestAuthentication", "jwtRules.0.timeout", "0s", "jwtRules[0].timeout: "),
    ("Telemetry", "tracing.0.customTags", {"a": None}, "the tag has no value"),
    ("Telemetry", "metrics.0.overrides.0.tagOverrides", {"a": {}}, "is missing (UPSERT sets a value)"),
    ("Telemetry", "accessLogging.0.filter.expression", "a == (b", "is not a CEL expression"),
    ("Telemetry", "tracing.0.providers", [{}], "providers[0].name: is missing"),
    ("EgressRule", "destination.service", "10.0.0.0/8", "does not go with a range of addresses"),
    ("EgressRule", "ports", [], "spec.ports: is empty"),
    ("EgressRule", "destination", {"name": "x"}, "spec.destination.service: is missing"),
    ("IngressRule", "destination.labels", {"a": "b"}, "must be empty"),
]


@pytest.mark.parametrize(("kind", "path", "value", "expected"), CASES)
def test_what_is_invalid_is_named(kind: str, path: str, value: Any, expected: str) -> None:
    found = invalid(kind, path, value)
    assert any(expected in each for each in found), found


def test_names_and_annotations() -> None:
    (problem,) = (
        p for p in find_problems(one(sample("Gateway").replace("name: x}", "name: x.y}"))) if "servers" not in p.path
    )
    assert problem.path == "metadata.name"
    dry = "name: x, annotations: {istio.io/dry-run: 'maybe'}}"
    found = find_problems(one(sample("AuthorizationPolicy").replace("name: x}", dry)))
    assert any(problem.reason == '"maybe" is neither "true" nor "false"' for problem in found)
    found = find_problems(one(sample("Sidecar").replace("name: x}", dry)))
    assert any("is for AuthorizationPolicy only" in problem.reason for problem in found)


@settings(deadline=None)
@given(st.sampled_from(sorted(SPECS)), st.data())
def test_any_spec_gets_an_answer(kind: str, data: st.DataObject) -> None:
    document = one(sample(kind))
    changed = msgspec.structs.replace(document, spec=data.draw(mutated(dict(document.spec))))
    for problem in find_problems(changed):
        assert "\n" not in describe(changed, problem)
