"""The security, telemetry and first generation's kinds: their verdicts at the edges of Istio's own validation."""

from __future__ import annotations

import pytest

from agent.api.document import read_documents
from agent.api.validate import find_problems, is_invalid, validate
from tests.unit.test_api_verdicts import invalid


def source(fields: str, more: str = "") -> str:
    """Return the spec of an AuthorizationPolicy with that one source."""
    return f"{{rules: [{{from: [{{source: {{{fields}}}}}]}}]{more}}}"


def operation(fields: str) -> str:
    return f"{{rules: [{{to: [{{operation: {{{fields}}}}}]}}]}}"


def when(fields: str, more: str = "") -> str:
    return f"{{rules: [{{when: [{{{fields}}}]}}]{more}}}"


def jwt(fields: str) -> str:
    return f"{{jwtRules: [{{{fields}}}]}}"


def patched(target: str, match: str) -> str:
    """Return the spec of an EnvoyFilter with one patch."""
    return f"{{configPatches: [{{applyTo: {target}, match: {{{match}}}, patch: {{operation: REMOVE}}}}]}}"


CUSTOM = ", action: CUSTOM, provider: {name: x}"
TAKEN = {
    "AuthorizationPolicy": [
        "{}",
        "{action: DENY, rules: []}",
        "{action: CUSTOM, provider: {name: x}, rules: [{}]}",
        "{selector: {matchLabels: {app: ''}}}",
        "{selector: {}, rules: [{}]}",
        "{targetRefs: [{kind: Service, name: x}]}",
        "{targetRef: {group: gateway.networking.k8s.io, kind: GatewayClass, name: x}}",
        source("principals: ['*'], notPrincipals: [a], requestPrincipals: ['*/sub']"),
        source("serviceAccounts: [ns/a, b], ipBlocks: [10.0.0.1, 'fd00::/8']"),
        source("trustDomains: [a.b, 'a*', '*.b', '*'], notTrustDomains: [c]"),
        source("remoteIpBlocks: [10.0.0.0/8]", CUSTOM),
        operation("paths: ['/a/{*}/b', '/{**}/c', '/a*', '*/a', '*'], ports: ['0']"),
        when("key: source.trustDomain, values: [a.b]"),
        when("key: 'request.headers[:authority]', notValues: [a]"),
        when("key: 'request.experimental.inline.headers[a]', values: [a]"),
        when("key: 'request.auth.claims[a][b]', values: [c]"),
        when("key: 'experimental.envoy.filters.a.b[c]', values: [d]"),
        when("key: destination.port, values: ['65535']"),
    ],
    "PeerAuthentication": ["{}", "{selector: {}, mtls: {mode: UNSET}}", "{mtls: {}}"],
    "RequestAuthentication": [
        "{}",
        "{selector: {matchLabels: {app: ''}}, jwtRules: []}",
        jwt("jwksUri: 'http://a:8080/keys', forwardOriginalToken: true, spaceDelimitedClaims: [scope]"),
        jwt("issuer: a, jwks: '{\"keys\": []}', fromCookies: [c], outputPayloadToHeader: x"),
    ],
    "Telemetry": [
        "{}",
        "{tracing: [{}, {providers: [{name: a}, {name: b}]}]}",
        "{tracing: [{customTags: {a: {}}}]}",
        "{metrics: [{reportingInterval: 5s, overrides: [{match: {mode: CLIENT}, tagOverrides: {'': {value: x}}}]}]}",
        "{accessLogging: [{disabled: true, filter: {expression: \"response.code >= 400 && 'a(' in b\"}}]}",
    ],
    "ProxyConfig": ["{}", "{concurrency: 0, selector: {matchLabels: {a: b}}, environmentVariables: {A: b}}"],
    "WasmPlugin": [
        "{url: a.b/c}",
        f"{{url: 'oci://a.b/c:latest', sha256: '{'0a' * 32}', phase: AUTHN, priority: 10}}",
        "{url: 'file:///x', vmConfig: {env: [{name: A, value: b}, {name: B, valueFrom: HOST}]}}",
        "{url: 'https://a/b', match: [{mode: CLIENT, ports: [{number: 80}]}], pluginConfig: {a: [b]}}",
    ],
    "EnvoyFilter": [
        "{}",
        "{configPatches: [{applyTo: CLUSTER, match: {cluster: {name: a}}, patch: {operation: REMOVE}}]}",
        "{configPatches: [{applyTo: HTTP_FILTER, match: {listener: {filterChain: {filter: {name:"
        " envoy.http_connection_manager, subFilter: {name: a}}}}},"
        " patch: {operation: INSERT_FIRST, value: {a_b: c}}}]}",
        "{configPatches: [{applyTo: LISTENER, match: {listener: {filterChain: {filter: {name: a}}}},"
        " patch: {operation: MERGE, value: {}}}]}",
    ],
    "QuotaSpec": [
        "{rules: [{quotas: [{quota: a.b, charge: '1'}], match: [{clause: {request.api_key: {prefix: a}}}]}]}",
    ],
    "QuotaSpecBinding": [
        "{services: [{service: '*'}, {name: a, namespace: b}], quota_specs: [{name: c, namespace: d}]}"
    ],
    "HTTPAPISpec": [
        "{attributes: {attributes: {a.b: {stringValue: c}, d: {int64Value: 5}}},"
        " patterns: [{http_method: GET, regex: a}], api_keys: [{query: a}, {header: b}, {cookie: c}]}",
    ],
    "HTTPAPISpecBinding": ["{services: [{name: a}], api_specs: [{name: b}]}"],
    "ServiceRole": ["{rules: [{services: ['*'], methods: [GET], constraints: [{key: version, values: [v1]}]}]}"],
    "ServiceRoleBinding": ["{subjects: [{properties: {a: b}}], roleRef: {kind: ServiceRole, name: a}}"],
    "Policy": [
        "{targets: [{name: a, ports: [{number: 80}, {name: http}]}], peers: [{mtls: {}}], peerIsOptional: true}",
        "{targets: [{name: a}], origins: [{jwt: {issuer: a, jwksUri: 'https://a'}}], principalBinding: USE_ORIGIN}",
    ],
    "RouteRule": [
        "{destination: {name: a}, precedence: -1}",
        "{destination: {service: 10.0.0.0/8}}",
        "{destination: {service: '*0.0.100'}, httpFault: {abort: {httpStatus: 100}}}",
        "{destination: {name: a}, httpFault: {abort: {http2Error: x}}}",
        "{destination: {name: a, domain: svc.local, namespace: b}, match: {request: {headers: {':authority': a}}}}",
        "{destination: {name: a}, match: {tcp: {sourceSubnet: [10.2.3.4], destinationSubnet: [10.2.3.4/24]}}}",
        "{destination: {name: a}, route: [{weight: 0}]}",
    ],
    "IngressRule": [
        "{destination: {name: a}, precedence: -1}",
        "{destination: {name: a}, destination_service_port: http, match: {tcp: {source_subnet: [10.0.0.0/8]}}}",
    ],
    "DestinationPolicy": [
        "{destination: {name: a}}",
        "{destination: {name: a}, circuitBreaker: {}}",
        "{destination: {name: a}, circuitBreaker: {simpleCb: {httpMaxEjectionPercent: 100}}}",
    ],
    "EgressRule": [
        "{destination: {service: 10.2.3.4}, ports: [{port: 80, protocol: http}]}",
        "{destination: {service: '*'}, ports: [{port: 80, protocol: HTTP2}]}",
        "{destination: {service: '*.0.0.100'}, ports: [{port: 80, protocol: grpc}]}",
        "{destination: {service: '*0'}, ports: [{port: 1, protocol: mongo}], useEgressProxy: false}",
        "{destination: {service: 10.0.0.0/0}, ports: [{port: 1, protocol: tcp}, {port: 2, protocol: https}]}",
    ],
}
REFUSED = {
    "AuthorizationPolicy": [
        ("{action: DENY}", "DENY without a rule"),
        ("{action: CUSTOM, provider: {name: x}}", "CUSTOM without a rule"),
        ("{provider: {name: ''}, rules: [{}]}", "goes with the action CUSTOM only"),
        ("{rules: [null]}", "rules[0]"),
        ("{selector: {matchLabels: {'a*': b}}}", "wildcard"),
        ("{targetRef: {kind: Service, name: x, namespace: y}}", "namespace"),
        ("{targetRef: {kind: Service}}", "name: is missing"),
        ("{targetRef: {group: x, kind: Gateway, name: y}}", "cannot be a target"),
        ("{targetRefs: [{kind: Service, name: x}], selector: {}}", "exclude each other"),
        ("{rules: [{from: [{}]}]}", "source: is missing"),
        (source("principals: []"), "is empty (it says nothing)"),
        (source("serviceAccounts: [a], notNamespaces: [b]"), "serviceAccounts do not go with notNamespaces"),
        (source("serviceAccounts: ['ns/*']"), "serviceAccounts[0]"),
        (source("serviceAccounts: [a/b/c]"), "serviceAccounts[0]"),
        (source("trustDomains: ['a*b']"), "trustDomains[0]"),
        (source("trustDomains: [a/b]"), "trustDomains[0]"),
        (source("ipBlocks: [10.0.0.0/33]"), "ipBlocks[0]"),
        (source("namespaces: [a]", CUSTOM), "source.namespaces: does not go with the action CUSTOM"),
        (operation("paths: ['/a/{id}']"), "paths[0]"),
        (operation("paths: ['/a/{*}b']"), "paths[0]"),
        (operation("paths: ['/a/{**}/{*}']"), "paths[0]"),
        (operation("paths: ['/a b/{*}']"), "paths[0]"),
        (operation("notPaths: ['/a/*/{*}']"), "notPaths[0]"),
        (operation("ports: ['65536']"), "ports[0]"),
        (when("values: [a]"), "key: is missing"),
        (when("key: source.ip, values: [a]"), "values[0]"),
        (when("key: source.trustDomain, notValues: ['a*b']"), "notValues[0]"),
        (when("key: 'request.headers[]', values: [a]"), "has no name in brackets"),
        (when("key: source.trustDomain, values: [a]", CUSTOM), "does not go with the action CUSTOM"),
        (when("key: 'request.auth.claims[a]', values: [a]", CUSTOM), "does not go with the action CUSTOM"),
    ],
    "PeerAuthentication": [
        ("{mtls: {mode: OFF}}", "mode"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {}}", "is empty"),
        ("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}", "is not a port"),
    ],
    "RequestAuthentication": [
        (jwt(""), "issuer: is missing"),
        (jwt("issuer: a, audiences: ['']"), "audiences[0]"),
        (jwt("issuer: a, jwksUri: 'https://a:b'"), "jwksUri"),
        (jwt("issuer: a, fromHeaders: [{prefix: b}]"), "name: is missing"),
        (jwt("issuer: a, outputClaimToHeaders: [{header: ':a', claim: b}]"), "header"),
        (jwt("issuer: a, outputClaimToHeaders: [null]"), "outputClaimToHeaders[0]"),
    ],
    "Telemetry": [
        ("{metrics: [{providers: [{name: ''}]}]}", "name: is empty"),
        ("{metrics: [{overrides: [{tagOverrides: {a: null}}]}]}", "has no value"),
        ("{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]}", "does not go with REMOVE"),
        ("{metrics: [{overrides: [{match: {customMetric: ''}}]}]}", "customMetric: is empty"),
        ("{tracing: [{customTags: {'': {literal: {value: a}}}}]}", "without a name"),
        ("{tracing: [{customTags: {a: {header: {name: ''}}}}]}", "name: is empty"),
        ("{accessLogging: [{filter: {expression: ')++'}}]}", "expression"),
    ],
    "ProxyConfig": [("{concurrency: -1}", "concurrency"), ("{selector: {matchLabels: {'': b}}}", "matchLabels")],
    "WasmPlugin": [
        ("{}", "url: is missing"),
        ("{url: 'ftp://a/b'}", "url"),
        ("{url: a/b, sha256: abc}", "sha256"),
        (f"{{url: a/b, sha256: '{'0A' * 32}'}}", "sha256"),
        ("{url: a/b, vmConfig: {env: [{name: A}, {name: A}]}}", "is given twice"),
        ("{url: a/b, vmConfig: {env: [{name: ''}]}}", "name: is empty"),
        ("{url: a/b, vmConfig: {env: [{name: A, valueFrom: HOST, value: b}]}}", "value"),
        ("{url: a/b, match: [{ports: [{}]}]}", "number: is missing"),
        ("{url: a/b, targetRef: {kind: Service, name: x}, selector: {}}", "exclude each other"),
    ],
    "EnvoyFilter": [
        ("{configPatches: [null]}", "configPatches[0]"),
        ("{configPatches: [{patch: {operation: REMOVE}}]}", "applyTo: is missing"),
        ("{configPatches: [{applyTo: LISTENER}]}", "patch: is missing"),
        ("{configPatches: [{applyTo: LISTENER, patch: {}}]}", "patch.operation"),
        ("{configPatches: [{applyTo: LISTENER, patch: {operation: ADD}}]}", "patch.value: is missing"),
        (patched("CLUSTER", "proxy: {proxyVersion: '('}"), "proxyVersion"),
        (patched("LISTENER", "cluster: {}"), "match.cluster: does not go with LISTENER"),
        (patched("VIRTUAL_HOST", "listener: {}"), "match.listener: does not go with VIRTUAL_HOST"),
        (patched("CLUSTER", "routeConfiguration: {}"), "match.routeConfiguration"),
        (patched("NETWORK_FILTER", "listener: {filterChain: {filter: {}}}"), "filter.name: is missing"),
        (patched("NETWORK_FILTER", "listener: {filterChain: {filter: {name: a, subFilter: {}}}}"), "HTTP_FILTER only"),
        (patched("HTTP_FILTER", "listener: {filterChain: {filter: {name: a, subFilter: {}}}}"), "filter.name: must be"),
    ],
    "QuotaSpec": [
        ("{rules: []}", "rules: is empty"),
        ("{rules: [{match: [{clause: {a: {exact: b}}}]}]}", "quotas: is missing"),
        ("{rules: [{quotas: [{quota: '', charge: 1}]}]}", "quota: is empty"),
        ("{rules: [{quotas: [{quota: a, charge: 0}]}]}", "charge: 0 is not positive"),
        (
            "{rules: [{quotas: [{quota: a, charge: 1}], match: [{clause: {b: {regex: ''}}}]}]}",
            "clause.b.regex: is empty",
        ),
    ],
    "QuotaSpecBinding": [
        ("{services: [{name: a}]}", "quotaSpecs: is missing"),
        ("{services: [{service: a, name: b}], quotaSpecs: [{name: c}]}", "does not go with service"),
        ("{services: [{namespace: a}], quotaSpecs: [{name: c}]}", "name: is missing"),
        ("{services: [{name: a}], quotaSpecs: [{name: b, namespace: 'c/d'}]}", "namespace"),
    ],
    "HTTPAPISpec": [
        ("{attributes: {attributes: {a: {stringValue: b}}}}", "patterns: is missing"),
        ("{attributes: {attributes: {}}, patterns: [{httpMethod: GET, uriTemplate: /a}]}", "attributes: is empty"),
        ("{attributes: {attributes: {a: {stringValue: ''}}}, patterns: [{httpMethod: GET}]}", "stringValue: is empty"),
        ("{attributes: {attributes: {a: {boolValue: true}}}, patterns: [{uriTemplate: /a}]}", "httpMethod: is missing"),
    ],
    "HTTPAPISpecBinding": [("{services: [], apiSpecs: [{name: a}]}", "services: is empty")],
    "ServiceRole": [
        ("{}", "rules: is missing"),
        ("{rules: [{methods: [GET]}]}", "services: is missing"),
        ("{rules: [{services: [a], methods: [GET], constraints: [{key: b}]}]}", "values: is missing"),
    ],
    "ServiceRoleBinding": [
        ("{roleRef: {kind: ServiceRole, name: a}}", "subjects: is missing"),
        ("{subjects: [{user: ''}], roleRef: {kind: ServiceRole, name: a}}", "names nobody"),
        ("{subjects: [{user: a}], roleRef: {kind: Role, name: a}}", "kind"),
    ],
    "ClusterRbacConfig": [("{mode: ON}", 'must be "default"')],
    "RbacConfig": [("{mode: ON_WITH_INCLUSION}", "inclusion: is missing"), ("{mode: ON}", "metadata.name")],
    "Policy": [
        ("{peers: [{mtls: {}}]}", "metadata.name"),
        ("{targets: [{name: a.b}]}", "targets[0].name"),
        ("{targets: [{name: a, ports: [{number: 0}]}]}", "number: 0"),
        ("{targets: [{name: a}], origins: [{jwt: {issuer: b}}, {jwt: {issuer: b}}]}", '"b" is given twice'),
        ("{targets: [{name: a}], origins: [{jwt: {issuer: ''}}]}", "issuer: is empty"),
        ("{targets: [{name: a}], peers: [{jwt: {issuer: b, jwksUri: 'a:b'}}]}", "jwksUri"),
    ],
    "MeshPolicy": [("{peers: [{mtls: {}}]}", "metadata.name")],
    "RouteRule": [
        ("{}", "destination: is missing"),
        ("{destination: {name: 'a?'}}", "destination.name"),
        ("{destination: {name: a, namespace: b.c}}", "destination.namespace"),
        ("{destination: {service: '**a.b'}}", "destination.service"),
        ("{destination: {service: '*a.b', domain: c}}", "domain"),
        ("{destination: {name: a}, match: {source: {name: 'b!'}}}", "match.source.name"),
        ("{destination: {name: a}, match: {udp: {sourceSubnet: [10.2.3.4]}}}", "match.udp"),
        ("{destination: {name: a}, match: {tcp: {sourceSubnet: ['']}}}", "sourceSubnet[0]"),
        ("{destination: {name: a}, match: {request: {headers: {uri: {prefix: ''}}}}}", "headers.uri.prefix: is empty"),
        ("{destination: {name: a}, match: {request: {headers: {uri: {exact: ''}}}}}", "headers.uri.exact: is empty"),
        ("{destination: {name: a}, match: {request: {headers: {b: {}}}}}", "matches nothing"),
        ("{destination: {name: a}, route: [{weight: 50}, {weight: 49}]}", "add up to 99"),
        ("{destination: {name: a}, route: [{labels: {b: '?'}}]}", "labels.b"),
        ("{destination: {name: a}, redirect: {uri: /x}, httpFault: {}}", "redirect and httpFault exclude each other"),
        ("{destination: {name: a}, redirect: {uri: /x}, websocketUpgrade: true}", "websocketUpgrade exclude"),
        ("{destination: {name: a}, httpReqTimeout: {simpleTimeout: {timeout: -1s}}}", "timeout"),
        ("{destination: {name: a}, httpReqRetries: {simpleRetry: {attempts: -1}}}", "attempts"),
        ("{destination: {name: a}, httpFault: {delay: {percent: 5}}}", "has no fixedDelay"),
        ("{destination: {name: a}, httpFault: {abort: {grpcStatus: test}}}", "grpcStatus"),
        ("{destination: {name: a}, l4Fault: {throttle: {percent: 5}}}", "l4Fault"),
    ],
    "IngressRule": [
        ("{}", "destination: is missing"),
        ("{destination: {name: a, labels: {b: c}}}", "labels: must be empty"),
        ("{destination: {name: 'a?'}}", "destination.name"),
    ],
    "DestinationPolicy": [
        ("{}", "destination: is missing"),
        ("{source: {}}", "source.name: is missing"),
        ("{destination: {name: a}, loadBalancing: {}}", "loadBalancing"),
        ("{destination: {name: a}, circuitBreaker: {simpleCb: {httpMaxEjectionPercent: 101}}}", "101"),
        ("{destination: {name: a}, circuitBreaker: {simpleCb: {sleepWindow: -1s}}}", "sleepWindow"),
    ],
    "EgressRule": [
        ("{destination: {service: 'a..b'}, ports: [{port: 80, protocol: http}]}", "service"),
        ("{destination: {service: '*.'}, ports: [{port: 80, protocol: http}]}", "service"),
        ("{destination: {service: '*..b'}, ports: [{port: 80, protocol: http}]}", "service"),
        ("{destination: {service: a.b}, ports: [{port: 80, protocol: udp}]}", "protocol"),
        ("{destination: {service: a.b}, ports: [{port: 0, protocol: http}]}", "port"),
        ("{destination: {service: a.b}, ports: [{port: 80, protocol: http}], useEgressProxy: true}", "useEgressProxy"),
    ],
}


@pytest.mark.parametrize(("kind", "spec"), [(kind, spec) for kind, specs in TAKEN.items() for spec in specs])
def test_what_istio_takes_is_not_invalid(kind: str, spec: str) -> None:
    assert invalid(kind, spec) == []


@pytest.mark.parametrize(
    ("kind", "spec", "expected"), [(kind, *case) for kind, cases in REFUSED.items() for case in cases]
)
def test_what_istio_refuses_is_invalid_for_that_field(kind: str, spec: str, expected: str) -> None:
    found = invalid(kind, spec)
    assert any(expected in each for each in found), found


@pytest.mark.parametrize("annotation", ["webhook-always-reject", "parents", "parent-namespace"])
def test_annotations_of_istios_own_are_refused(annotation: str) -> None:
    metadata = f"name: x, annotations: {{internal.istio.io/{annotation}: x}}"
    (line,) = invalid("Sidecar", "{egress: [{hosts: ['./*']}]}", metadata)
    assert annotation in line


@pytest.mark.parametrize(
    ("version", "kind", "advice"),
    [
        ("v1", "Service", "services.d"),
        ("apps/v1", "Deployment", "services.d"),
        ("v1", "Secret", "hostmesh secret install"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", "write a VirtualService"),
    ],
)
def test_what_stands_beside_istio_s_kinds_in_its_samples_is_told(version: str, kind: str, advice: str) -> None:
    (document,), _ = read_documents(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n", "f", "default")
    (line,) = validate(document)
    assert f"kind: {kind} is Kubernetes' own: " in line
    assert advice in line


@pytest.mark.parametrize("port", ["", "port: {number: 81, protocol: HTTP, name: a}, "])
def test_what_a_listener_of_a_sidecar_s_calls_would_bind_is_named(port: str) -> None:
    text = (
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: x}\n"
        f"spec: {{egress: [{{{port}hosts: ['./*'], bind: 127.0.0.1, captureMode: NONE}}]}}\n"
    )
    (document,), _ = read_documents(text, "f", "default")
    problems = find_problems(document)
    assert [problem.path for problem in problems] == ["spec.egress[0].bind", "spec.egress[0].captureMode"]
    assert not is_invalid(problems)
