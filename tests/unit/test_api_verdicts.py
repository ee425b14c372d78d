"""The networking kinds' verdicts at the edges of Istio's own validation: what it takes is taken, what it refuses not.

Each line is a spec of this project's own; the rule behind it is one of Istio's pkg/config/validation.
"""

from __future__ import annotations

import pytest

from agent.api.kinds import KINDS_BY_NAME
from agent.api.problem import Verdict
from agent.api.validate import find_problems
from tests.unit.api_samples import one


def invalid(kind: str, spec: str, metadata: str = "name: x") -> list[str]:
    """Return `path: reason` of what is invalid in a document of that kind."""
    version = KINDS_BY_NAME[kind].api_versions[0]
    document = one(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {spec}\n")
    problems = find_problems(document)
    return [f"{problem.path}: {problem.reason}" for problem in problems if problem.verdict is Verdict.INVALID]


def http(route: str) -> str:
    """Return the spec of a VirtualService with that one http route."""
    return f"{{hosts: [a.b], http: [{{{route}}}]}}"


def matching(match: str) -> str:
    return http(f"match: [{{{match}}}], route: [{{destination: {{host: a}}}}]")


def to(destination: str, more: str = "") -> str:
    return http(f"route: [{{destination: {{{destination}}}{more}}}]")


TO = "route: [{destination: {host: a}}]"


def served(fields: str) -> str:
    """Return the spec of a VirtualService with these fields and one simple route."""
    return f"{{{', '.join(filter(None, (fields, f'http: [{{{TO}}}]')))}}}"


VIRTUAL_SERVICE_TAKEN = [
    matching("headers: {':authority': {exact: x}, ':path': {prefix: /}}"),
    matching("headers: {'odd!$#_': {regex: a+}}"),
    matching("headers: {x-there: {}}, withoutHeaders: {x-gone: {regex: '*'}, x-not: null}"),
    matching("uri: {}, method: {}, authority: {exact: ''}"),
    matching("uri: {prefix: ''}"),
    matching("uri: {exact: /}, port: 0, sourceNamespace: ''"),
    matching("queryParams: {q: {prefix: a}}, sourceNamespace: Team-A"),
    to("host: '*-a.b', subset: V1"),
    to("host: a, subset: ''"),
    to("host: a", ", weight: 2000000000"),
    to("host: a", ", headers: {response: {set: {x: '%DOWNSTREAM_PEER_CERT_V_END(%b %d %Y)%'}}}"),
    to("host: a", ", headers: {request: {add: {x: '%dynamic% 100%%', y: '%REQ(a)%'}}}"),
    http("directResponse: {status: 600}"),
    http(f"fault: {{abort: {{httpStatus: 600}}}}, {TO}"),
    http(f"fault: {{delay: {{}}}}, {TO}"),
    http(f"mirrorPercent: 7, {TO}"),
    http(f"mirrorPercentage: {{value: 0.00001}}, {TO}"),
    http("redirect: {uri: /x, redirectCode: 399}"),
    http("redirect: {derivePort: FROM_REQUEST_PORT}"),
    http(f"retries: {{attempts: 0}}, {TO}"),
    http(f"retries: {{attempts: 2, retryOn: 'retriable-headers,503,cancelled'}}, {TO}"),
    http(f"corsPolicy: {{allowMethods: ['*'], allowHeaders: ['*'], maxAge: 1m}}, {TO}"),
    served("hosts: [10.2.3.4, b.c.]"),
    served("hosts: ['*'], gateways: [edge]"),
    served("hosts: [a.b], gateways: [edge.istio-system.svc.cluster.local, mesh]"),
    served("hosts: [a.b], gateways: [Team/Edge], exportTo: ['.']"),
    served(""),
    "{hosts: [a.b], http: [{delegate: {name: x, namespace: y}, match: [{headers: {a: {prefix: b}}}]}]}",
    "{hosts: [outbound_.80_._.a.mesh], gateways: [t/edge],"
    " tls: [{match: [{sniHosts: [outbound_.80_._.a.mesh]}], route: [{destination: {host: a}}]}]}",
    "{hosts: [a.b], tls: [{match: [{sniHosts: [10.1.1.1]}], route: [{destination: {host: a}}]}]}",
    "{hosts: [a.b], tcp: [{match: [{port: 0}], route: [{destination: {host: a}, weight: 0}]}]}",
]
VIRTUAL_SERVICE_REFUSED = [
    (matching("headers: {'::': {exact: x}}"), 'headers.::: "::" is not a header name'),
    (matching("headers: {x: null}"), "headers.x"),
    (matching("headers: {x: {regex: '*'}}"), "headers.x.regex"),
    (matching("withoutHeaders: {x: {prefix: ''}}"), "withoutHeaders.x.prefix: is empty"),
    (matching("method: {prefix: ''}"), "method.prefix: is empty"),
    (matching("uri: {regex: ''}"), "uri.regex: is empty"),
    (matching("sourceNamespace: a.b"), "sourceNamespace"),
    (matching("gateways: [t/a.b]"), "gateways[0]"),
    (matching("headers: {'@request.auth.claims.sub': {exact: x}}"), "claims are for gateways only"),
    (to("host: '*'"), "destination.host"),
    (to("host: 10.1.2.3"), "destination.host"),
    (to("host: a.10"), "destination.host"),
    (to("host: 'a.*'"), "destination.host"),
    (to("host: a/b"), "destination.host"),
    (to("host: a", ", headers: {request: {set: {':path': /}}}"), ":path"),
    (to("host: a", ", headers: {response: {add: {host: x}}}"), "host"),
    (to("host: a", ", headers: {response: {set: {x: '%START_TIME%%'}}}"), "single %"),
    (to("host: a", ", headers: {response: {set: {x: '%REQ(a'}}}"), "single %"),
    (http("directResponse: {status: 601}"), "status"),
    (http("directResponse: {}"), "status: is missing"),
    (http(f"fault: {{}}, {TO}"), "has neither delay nor abort"),
    (http(f"fault: {{abort: {{http2Error: x}}}}, {TO}"), "http2Error"),
    (http(f"fault: {{delay: {{fixedDelay: 3s, percentage: {{value: 0.00001}}}}}}, {TO}"), "percentage"),
    (http(f"mirror: {{}}, {TO}"), "mirror.host"),
    (http(f"mirrors: [{{percentage: {{value: 3}}}}], {TO}"), "mirrors[0].destination: is missing"),
    (http("redirect: {uri: '', authority: ''}"), "says nothing about where to"),
    (http("redirect: {uri: /x, redirectCode: 299}"), "redirectCode"),
    (http("redirect: {scheme: ftp}"), "scheme"),
    (http("redirect: {uri: /x}, rewrite: {uri: /y}"), "redirect and rewrite exclude each other"),
    (http(f"rewrite: {{uri: /x, uriRegexRewrite: {{match: a, rewrite: b}}}}, {TO}"), "exclude each other"),
    (http(f"rewrite: {{uriRegexRewrite: {{}}}}, {TO}"), "uriRegexRewrite.match: is missing"),
    (http(f"retries: {{attempts: 0, retryRemoteLocalities: false}}, {TO}"), "attempts is 0"),
    (http(f"retries: {{attempts: 2, retryOn: '5xx, 503'}}, {TO}"), "retryOn"),
    (http(f"retries: {{attempts: 2, backoff: 999ns}}, {TO}"), "backoff"),
    (http(f"corsPolicy: {{allowOrigins: [{{}}]}}, {TO}"), "allowOrigins[0]"),
    (http(f"corsPolicy: {{maxAge: 1.5s}}, {TO}"), "maxAge"),
    (http(f"timeout: 0s, {TO}"), "timeout"),
    (http("name: x"), "route: is missing"),
    ("{hosts: [a.b], http: [null]}", "http[0]"),
    ("{hosts: [a.b]}", "http: is missing"),
    (served("hosts: [a!b]"), "hosts[0]"),
    (served("hosts: ['*.a.b', '*.b']"), "overlap"),
    (served("hosts: [a.b], gateways: [t/*]"), "gateways[0]"),
    (served("hosts: [a.b], gateways: [t/a.b]"), "gateways[0]"),
    (served("hosts: [a.b], exportTo: ['~']"), "exportTo[0]"),
    (served("hosts: [a.b], exportTo: ['*', t]"), "exportTo"),
    (served("hosts: [a.b], exportTo: [., default]"), "exportTo[1]"),
    ("{http: [{delegate: {name: x}}]}", "http[0].delegate"),
    (served("gateways: [edge]"), "spec.gateways"),
    ("{hosts: [a.b], http: [{delegate: {name: x}, redirect: {uri: /}}]}", "exclude each other"),
    (
        "{hosts: [a.b], gateways: [t/edge],"
        " tls: [{match: [{sniHosts: [outbound_80]}], route: [{destination: {host: a}}]}]}",
        "sniHosts[0]",
    ),
    ("{hosts: [a.b], tls: [{match: [{sniHosts: [a.*.b]}], route: [{destination: {host: a}}]}]}", "sniHosts[0]"),
    ("{hosts: [a.b], tls: [{match: [{sniHosts: [a.b]}]}]}", "route: is missing"),
    ("{hosts: [a.b], tcp: [{match: [null], route: [{destination: {host: a}}]}]}", "match[0]"),
    (
        "{hosts: [a.b], tcp: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]}]}",
        "the weights add up to 0",
    ),
]


def policy(trafficPolicy: str) -> str:
    return f"{{host: a, trafficPolicy: {{{trafficPolicy}}}}}"


DESTINATION_RULE_TAKEN = [
    "{host: '*', subsets: [{name: V1-a, labels: {version: ''}}]}",
    "{host: '*.a.b', workloadSelector: {}, exportTo: [default]}",
    "{host: a, exportTo: ['.', t]}",
    policy("portLevelSettings: []"),
    policy("retryBudget: {percent: 25, minRetryConcurrency: 10}"),
    policy("tunnel: {targetHost: 'fd00::1', targetPort: 443, protocol: POST}"),
    policy("tunnel: {targetHost: proxy.a.b, targetPort: 443}"),
    policy("proxyProtocol: {version: V2}"),
    policy("connectionPool: {http: {}}"),
    policy("connectionPool: {tcp: {idleTimeout: 0s, maxConnectionDuration: 1h}}"),
    policy("connectionPool: {http: {http2KeepAlive: {interval: 15s, timeout: 5s}, useClientProtocol: true}}"),
    policy("outlierDetection: {consecutiveErrors: 5, maxEjectionPercent: 100}"),
    policy("outlierDetection: {consecutiveLocalOriginFailures: 5, splitExternalLocalOriginErrors: true}"),
    policy("tls: {mode: SIMPLE, caCertificates: '', credentialName: ''}"),
    policy("tls: {mode: SIMPLE, insecureSkipVerify: true}"),
    policy("tls: {mode: MUTUAL, credentialName: x, insecureSkipVerify: true}"),
    policy("loadBalancer: {simple: LEAST_REQUEST, warmup: {duration: 10s, minimumPercent: 0.5, aggression: 1}}"),
    policy("loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}, minimumRingSize: 64}}"),
    policy("loadBalancer: {consistentHash: {maglev: {tableSize: 65537}, useSourceIp: true}}"),
    policy("loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}], failoverPriority: [version]}}"),
]
DESTINATION_RULE_REFUSED = [
    ("{host: ''}", "host"),
    ("{host: 10.0.0.1}", "host"),
    ("{host: a, subsets: [{labels: {a: b}}]}", "subsets[0].name: is missing"),
    ("{host: a, subsets: [{name: v_1}]}", "subsets[0].name"),
    ("{host: a, subsets: [null]}", "subsets[0]"),
    ("{host: a, subsets: [{name: v1, labels: {a: '?'}}]}", "labels.a"),
    ("{host: a, workloadSelector: {matchLabels: {a: b}}, exportTo: [t]}", "exportTo"),
    ("{host: a, workloadSelector: {matchLabels: {'': b}}}", "matchLabels."),
    (policy(""), "says nothing"),
    (policy("tunnel: {targetHost: a.b, targetPort: 1}, proxyProtocol: {version: V1}"), "does not go with tunnel"),
    (policy("tunnel: {targetHost: a.b}"), "targetPort: is missing"),
    (policy("tunnel: {targetHost: a.b, targetPort: 1, protocol: GET}"), "protocol"),
    (policy("connectionPool: {}"), "is empty"),
    (policy("connectionPool: {http: {idleTimeout: 0s}}"), "idleTimeout"),
    (policy("connectionPool: {http: {http2KeepAlive: {timeout: 5.0000001s}}}"), "timeout"),
    (policy("connectionPool: {tcp: {tcpKeepalive: {time: 1us}}}"), "time"),
    (policy("outlierDetection: {minHealthPercent: -1}"), "minHealthPercent"),
    (policy("tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}"), "subjectAltNames"),
    (policy("tls: {mode: MUTUAL, clientCertificate: /c}"), "privateKey: is missing"),
    (policy("tls: {mode: SIMPLE, credentialName: x, caCrl: /l}"), "caCrl"),
    (policy("portLevelSettings: [{loadBalancer: {simple: RANDOM}}]"), "port: is missing"),
    (policy("portLevelSettings: [{port: {number: 1}}]"), "says nothing"),
    (policy("loadBalancer: {consistentHash: {httpCookie: {ttl: 1s}}}"), "name: is missing"),
    (policy("loadBalancer: {consistentHash: {httpCookie: {name: c, attributes: [{name: ''}]}}}"), "attributes[0].name"),
    (policy("loadBalancer: {consistentHash: {maglev: {}}}"), "tableSize: is missing"),
    (policy("loadBalancer: {consistentHash: {maglev: {tableSize: 65536}}}"), "not a prime number"),
    (policy("loadBalancer: {warmup: {minimumPercent: 5}}"), "duration: is missing"),
    (policy("loadBalancer: {warmup: {duration: 5s, aggression: 0.5}}"), "aggression"),
    (policy("loadBalancer: {localityLbSetting: {failover: [{from: eu, to: eu}]}}"), "different regions"),
    (policy("loadBalancer: {localityLbSetting: {failover: [{from: eu/a, to: us}]}}"), "is not a region"),
    (policy("loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {us: 99}}]}}"), "add up to 99"),
]


def server(more: str, protocol: str = "HTTP", hosts: str = "a.b") -> str:
    """Return the spec of a Gateway with that one server."""
    return f"{{servers: [{{port: {{number: 8080, name: p, protocol: {protocol}}}, hosts: ['{hosts}']{more}}}]}}"


FILES = "serverCertificate: /c, privateKey: /k"
GATEWAY_TAKEN = [
    server("", hosts="t/10.1.1.1"),
    server("", hosts="10.1.1.1"),
    server("", hosts="*/*"),
    server("", "grpc-web"),
    server(", tls: {httpsRedirect: true}", "HTTPS"),
    server(", tls: {mode: SIMPLE, credentialName: x, caCrl: /l}", "HTTPS"),
    server(", tls: {mode: SIMPLE, credentialName: x, cipherSuites: [NO-SUCH]}", "HTTPS"),
    server(", tls: {mode: PASSTHROUGH, caCrl: /l}", "TLS"),
    server(f", tls: {{mode: MUTUAL, caCertificates: /a, tlsCertificates: [{', '.join([f'{{{FILES}}}'] * 3)}]}}", "TLS"),
    server(", tls: {mode: SIMPLE, minProtocolVersion: TLSV1_0, credentialName: x}", "HTTPS"),
    "{servers: [{port: {number: 0, name: p, protocol: HTTP}, bind: 'unix://@x', hosts: [a.b]}]}",
]
GATEWAY_REFUSED = [
    (server("", hosts="~/a.b"), "hosts[0]"),
    (server("", hosts="fd00::1"), "short names are not allowed"),
    (server("", hosts="a.*.b"), "hosts[0]"),
    (server("", hosts="*a.b"), "a wildcard must be the whole first label"),
    (server("", hosts="10.0.0.0/8"), "hosts[0]"),
    (server(", bind: a.b"), "bind"),
    (server(", bind: 'unix://@x'"), "must be 0 for a Unix socket"),
    (server(", tls: {}", "TCP"), "does not go with the protocol TCP"),
    (server(", tls: {mode: PASSTHROUGH, credentialName: x, caCrl: /l}", "TLS"), "caCrl"),
    (server(f", tls: {{mode: SIMPLE, {FILES}, caCrl: /l}}", "TLS"), "caCrl"),
    (server(", tls: {mode: ISTIO_MUTUAL, credentialNames: [x]}", "TLS"), "credentialNames"),
    (server(f", tls: {{mode: MUTUAL, tlsCertificates: [{{{FILES}}}]}}", "TLS"), "caCertificates: is missing"),
    (server(f", tls: {{mode: MUTUAL, credentialNames: [x], {FILES}}}", "TLS"), "exclude each other"),
    ("{servers: [null]}", "servers[0]"),
    ("{servers: [{hosts: [a.b]}]}", "port: is missing"),
    ("{servers: [{port: {number: 1, protocol: HTTP}, hosts: [a.b]}]}", "port.name: is missing"),
    ("{servers: [{port: {number: 1, name: p, protocol: HTTP, targetPort: 2}, hosts: [a.b]}]}", "targetPort"),
]


def web(more: str) -> str:
    """Return the spec of a ServiceEntry of one web server."""
    return f"{{hosts: [a.b], ports: [{{number: 80, name: p, protocol: HTTP}}]{more}}}"


SERVICE_ENTRY_TAKEN = [
    "{hosts: ['*x']}",
    "{hosts: [a.b], workloadSelector: {}}",
    "{hosts: [a.b], addresses: [10.1.2.3/16, '001:db8::'], ports: [{number: 80, name: p}]}",
    web(", resolution: STATIC, endpoints: [{network: n}]"),
    web(", resolution: STATIC"),
    web(", resolution: DNS, endpoints: [{address: 10.1.1.1}, {address: c.d}]"),
    "{hosts: [short, c.d], resolution: DNS, ports: [{number: 80, name: P, protocol: TLS, targetPort: 0}]}",
    "{hosts: [a, b], ports: [{number: 80, name: p, protocol: TCP}], exportTo: ['~']}",
    "{hosts: ['*.a.b'], resolution: DYNAMIC_DNS, ports: [{number: 80, name: p, protocol: GRPC}]}",
]
SERVICE_ENTRY_REFUSED = [
    ("{ports: []}", "hosts: is missing"),
    ("{hosts: [10.1.1.1]}", "hosts[0]"),
    ("{hosts: [a.b], ports: [{number: 80}]}", "name: is missing"),
    ("{hosts: [a.b], ports: [{number: 80, name: p_q}]}", "name"),
    ("{hosts: [a.b], ports: [{number: 80, name: p, targetPort: 65536}]}", "targetPort"),
    ("{hosts: [a.b], workloadSelector: {labels: {a: 'b*'}}}", "wildcard"),
    ("{hosts: [a.b], exportTo: ['~', t]}", '"~" does not go with others'),
    ("{hosts: ['*.a.b'], resolution: DNS}", "cannot be looked up"),
    ("{hosts: [a.b], resolution: DNS, endpoints: [{address: 'unix:///x'}]}", "address"),
    ("{hosts: [a.b], resolution: DNS, endpoints: [{network: n}]}", "address"),
    ("{hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.d}, {address: e.f}]}", "at most 1"),
    ("{hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix://x'}]}", "is not a Unix socket"),
    ("{hosts: [a, b], resolution: STATIC, ports: [{number: 80, name: p}]}", "cannot be told apart"),
    ("{hosts: [a.b], resolution: DYNAMIC_DNS}", "is no wildcard"),
    ("{hosts: ['*.b'], resolution: DYNAMIC_DNS, addresses: [10.1.1.1]}", "addresses"),
    ("{hosts: ['*.b'], resolution: DYNAMIC_DNS, endpoints: [{address: a.b}]}", "endpoints"),
    ("{hosts: ['*.b'], resolution: DYNAMIC_DNS, ports: [{number: 443, name: p, protocol: HTTPS}]}", "protocol"),
]


def inbound(more: str) -> str:
    """Return the spec of a Sidecar with one ingress listener."""
    return f"{{ingress: [{{port: {{number: 90, protocol: HTTP}}{more}}}]}}"


SIDECAR_TAKEN = [
    "{egress: [{hosts: ['*/*', t/a.b]}], workloadSelector: {}}",
    inbound(", defaultEndpoint: ':8080'"),
    "{ingress: [{port: {number: 90}, bind: '::', defaultEndpoint: '[::]:8080'}]}",
    "{ingress: [{port: {number: 90, protocol: TCP}, connectionPool: {http: {maxRetries: 1}}}]}",
    "{egress: [{port: {number: 0, protocol: HTTP}, bind: 'unix://@x', captureMode: NONE, hosts: [./a.b]}]}",
    "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b, subset: V1, port: {number: 1}}}}",
    "{inboundConnectionPool: {http: {http1MaxPendingRequests: 3}}}",
]
SIDECAR_REFUSED = [
    ("{}", "says nothing"),
    ("{egress: [{hosts: ['*/10.1.1.1']}]}", "hosts[0]"),
    ("{egress: [{hosts: [t/short]}]}", "short names are not allowed"),
    ("{egress: [{hosts: ['t/*a.b']}]}", "a wildcard must be the whole first label"),
    ("{egress: [{hosts: [/]}]}", "hosts[0]"),
    ("{egress: [{hosts: [t/a.b]}, {hosts: [u/a.b]}]}", "only the last listener is for any port"),
    ("{egress: [{port: {number: 0}, bind: 10.1.1.1, hosts: [./a.b]}]}", "must be a Unix socket"),
    (inbound(", bind: 'unix:///x'"), "bind"),
    (inbound(", defaultEndpoint: 'localhost:1'"), "defaultEndpoint"),
    (inbound(", defaultEndpoint: '127.0.0.1:x'"), "defaultEndpoint"),
    (inbound("}, {port: {number: 90, protocol: HTTP}"), "is given twice"),
    (inbound(f", tls: {{mode: SIMPLE, {FILES}}}"), "does not go with a port whose protocol"),
    ("{ingress: [{port: {number: 90, targetPort: 80}}]}", "targetPort"),
    ("{inboundConnectionPool: {}}", "is empty"),
    ("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: 'a*b', port: {number: 1}}}}", "host"),
    ("{outboundTrafficPolicy: {egressProxy: {host: a.b, port: {number: 1}}}}", "ALLOW_ANY"),
]

WORKLOAD_GROUP_TAKEN = [
    "{template: {}}",
    "{template: {labels: {a: '?'}}, probe: {tcpSocket: {port: 1}}}",
    "{template: {}, probe: {exec: {command: [x]}, periodSeconds: 0}}",
]
WORKLOAD_GROUP_REFUSED = [
    ("{template: {}, metadata: {labels: {'.': '~'}}}", "metadata.labels"),
    ("{template: {}, probe: {httpGet: {}}}", "port: is missing"),
    ("{template: {}, probe: {tcpSocket: {port: 65536}}}", "tcpSocket.port"),
    ("{template: {}, probe: {exec: {}}}", "command: is missing"),
    ("{template: {}, probe: {httpGet: {port: 1, httpHeaders: [{name: x_y}]}}}", "httpHeaders[0].name"),
    ("{template: {}, probe: {tcpSocket: {port: 1}, timeoutSeconds: -1}}", "timeoutSeconds"),
]
TAKEN = {
    "VirtualService": VIRTUAL_SERVICE_TAKEN,
    "DestinationRule": DESTINATION_RULE_TAKEN,
    "Gateway": GATEWAY_TAKEN,
    "ServiceEntry": SERVICE_ENTRY_TAKEN,
    "Sidecar": SIDECAR_TAKEN,
    "WorkloadGroup": WORKLOAD_GROUP_TAKEN,
}
REFUSED = {
    "VirtualService": VIRTUAL_SERVICE_REFUSED,
    "DestinationRule": DESTINATION_RULE_REFUSED,
    "Gateway": GATEWAY_REFUSED,
    "ServiceEntry": SERVICE_ENTRY_REFUSED,
    "Sidecar": SIDECAR_REFUSED,
    "WorkloadGroup": WORKLOAD_GROUP_REFUSED,
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
