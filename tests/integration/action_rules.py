"""The same route actions written in both generations of the API: a path says which one a request meets."""

from __future__ import annotations

_ROUTE_RULES = """
delay-all: TO-V1, httpFault: {delay: {fixedDelay: 0.5s}}
delay-some: TO-V1, http_fault: {delay: {percent: 30, fixed_delay: 0.001s}}
abort-some: TO-V1, httpFault: {abort: {percent: 30, httpStatus: 400}}
abort-grpc: TO-V1, httpFault: {abort: {grpcStatus: UNAVAILABLE}}
both-faults: TO-V1, httpFault: {delay: {fixedDelay: 0.3s}, abort: {percent: 100, httpStatus: 503}}
timeout: TO-V1, httpReqTimeout: {simpleTimeout: {timeout: 1s}}
retries: TO-V1, httpReqRetries: {simpleRetry: {attempts: 3}}
per-try: TO-V1, http_req_retries: {simple_retry: {attempts: 2, per_try_timeout: 300ms}}
mirror: MIRRORED, mirror: {name: reviews, labels: {version: v2}}
redirect: "redirect: {uri: /new/path, authority: foo.bar.com}"
rewrite: TO-V1, rewrite: {uri: /new/path, authority: foo.bar.com}
cors: TO-V1, corsPolicy: {allowOrigin: ["http://foo.example"], CORS}
websocket: TO-V1, websocketUpgrade: true, httpReqTimeout: {simpleTimeout: {timeout: 0.5s}}
headers: TO-V1, appendHeaders: {x-added: "100%%", x-there: more}
elsewhere: "route: [{destination: {name: ratings}}]"
"""
_ROUTES = """
delay-all: TO-V1, fault: {delay: {percentage: {value: 100}, fixedDelay: 0.5s}}
delay-some: TO-V1, fault: {delay: {percentage: {value: 30}, fixedDelay: 1ms}}
abort-some: TO-V1, fault: {abort: {percentage: {value: 30}, httpStatus: 400}}
abort-grpc: TO-V1, fault: {abort: {grpcStatus: UNAVAILABLE}}
both-faults: TO-V1, fault: {delay: {fixedDelay: 0.3s}, abort: {percentage: {value: 100}, httpStatus: 503}}
timeout: TO-V1, timeout: 1s
retries: TO-V1, retries: {attempts: 3, retryOn: "503", backoff: 10ms}
per-try: TO-V1, retries: {attempts: 2, perTryTimeout: 300ms, retryOn: 5xx}
mirror: TO-V1, mirror: {host: reviews, subset: v2}
redirect: "redirect: {uri: /new/path, authority: foo.bar.com}"
rewrite: TO-V1, rewrite: {uri: /new/path, authority: foo.bar.com}
cors: TO-V1, corsPolicy: {allowOrigins: [{exact: "http://foo.example"}], CORS}
websocket: TO-V1, timeout: 0.5s
headers: TO-V1, headers: {request: {add: {x-added: "100%%", x-there: more}}}
elsewhere: "route: [{destination: {host: ratings}}]"
answer: "directResponse: {status: 418, body: {string: short and stout}}"
target-port: "redirect: {scheme: https, authority: other, port: 8443, redirectCode: 308}"
same-port: "redirect: {prefixRewrite: /q, authority: other, derivePort: FROM_REQUEST_PORT}"
regex: TO-V1, rewrite: {uriRegexRewrite: {match: "^/regex/([^/]+)/(.*)$", rewrite: '/\\2/of/\\1'}}
two-mirrors: TO-V1, mirrors: [{destination: {host: ratings}}, {destination: TWO, percentage: {value: 30}}]
no-retries: TO-V1, retries: {attempts: 0}
change: TO-V1, headers: {request: {set: {x-there: new, x-proto: "%PROTOCOL%"}, remove: [x-bad]}, response: CHANGED}
per-target: "route: [{destination: TWO, headers: {request: {set: {host: changed}}, response: {add: {x-which: two}}}}]"
origins: TO-V1, corsPolicy: {allowOrigins: [{regex: "https://[a-z]+[.]org"}], unmatchedPreflights: IGNORE}
"""
_SHORT = {
    "CORS": "allowMethods: [POST, GET], maxAge: 5s, allowHeaders: [content-type], exposeHeaders: [x-custom],"
    " allowCredentials: true",
    "CHANGED": "{set: {x-application: hidden}, add: {x-more: a}, remove: [x-secret]}",
    "TWO": "{host: reviews, subset: v2}",
    "MIRRORED": "route: [{labels: {version: v1}, weight: 100}, {labels: {version: v2}, weight: 0}]",
}


def route_rules() -> str:
    """Return the actions as RouteRules."""
    names = _fields(_ROUTE_RULES, "route: [{labels: {version: v1}}]")
    rules = [
        f"destination: {{name: reviews}}, precedence: 2, match: {{request: {{headers: {{uri: {{prefix: /{name}}}}}}}}},"
        f" {fields}"
        for name, fields in names.items()
    ]
    rules.append("destination: {name: reviews}, precedence: 1, route: [{labels: {version: v1}}]")
    return "---\n".join(
        f"apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {{name: r{number}}}\nspec: {{{rule}}}\n"
        for number, rule in enumerate(rules)
    )


def virtual_service() -> str:
    """Return the actions as routes of a VirtualService."""
    to_v1 = "route: [{destination: {host: reviews, subset: v1}}]"
    routes = [
        f"{{match: [{{uri: {{prefix: /{name}}}}}], {fields}}}" for name, fields in _fields(_ROUTES, to_v1).items()
    ]
    lines = "\n".join(f"  - {route}" for route in [*routes, f"{{{to_v1}}}"])
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec: {{host: reviews, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec:
  hosts: [reviews]
  http:
{lines}
"""


def _fields(table: str, to_v1: str) -> dict[str, str]:
    """Return name → fields of each line, with what is short written out."""
    rows = {}
    for line in table.strip().splitlines():
        name, fields = line.split(": ", 1)
        for short, whole in {**_SHORT, "TO-V1": to_v1}.items():
            fields = fields.replace(short, whole)
        rows[name] = fields.strip('"') if fields.startswith('"') else fields
    return rows
