"""Documents for the tests of agent.api: samples that are valid, and hypothesis strategies for what is not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agent.api.document import Document, read_documents

ROUTE_RULE = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata:
  name: reviews-test-v2
spec:
  destination:
    name: reviews
  precedence: 2
  match:
    source:
      name: productpage
      labels: {version: v1}
    request:
      headers:
        cookie:
          regex: "^(.*?;)?(user=jason)(;.*)?$"
        Foo: bar
        uri: {prefix: /api}
  route:
  - labels: {version: v2}
    weight: 75
  - labels: {version: v3}
    weight: 25
"""

VIRTUAL_SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  gateways: [mesh]
  exportTo: ["*"]
  http:
  - name: jason
    match:
    - uri: {prefix: /Reviews}
      ignoreUriCase: true
      method: {exact: GET}
      scheme: {exact: http}
      authority: {prefix: reviews}
      headers: {end-user: {exact: jason}, Host: {prefix: r}}
      withoutHeaders: {x-debug: {}}
      queryParams: {q: {regex: "a+"}}
      port: 9080
      sourceLabels: {version: v1}
      sourceNamespace: default
      gateways: [mesh]
    route:
    - destination: {host: reviews, subset: v2}
      weight: 90
    - destination: {host: reviews.default.svc.cluster.local, port: {number: 9080}}
      weight: 10
  - route:
    - destination: {host: reviews.service.consul, subset: v1}
"""

DESTINATION_RULE = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  exportTo: ["*"]
  subsets:
  - name: v1
    labels: {version: v1}
  - name: v2
    labels: {version: v2}
  - name: everything
"""

ROUTE_RULE_ACTIONS = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: actions}
spec:
  destination: {name: reviews}
  route:
  - {labels: {version: v1}, weight: 100}
  - {destination: {name: ratings}, weight: 0}
  rewrite: {uri: /new, authority: other}
  websocketUpgrade: true
  httpReqTimeout: {simpleTimeout: {timeout: 10s}}
  httpReqRetries: {simpleRetry: {attempts: 3, perTryTimeout: 2s}}
  httpFault: {delay: {percent: 10, fixedDelay: 5s}, abort: {httpStatus: 400}}
  mirror: {name: ratings, labels: {version: v2}}
  corsPolicy: {allowOrigin: ["*"], allowMethods: [GET], allowHeaders: [a], maxAge: 5s, allowCredentials: true}
  appendHeaders: {x-a: "%PROTOCOL%"}
"""

VIRTUAL_SERVICE_ACTIONS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: actions}
spec:
  hosts: [ratings]
  http:
  - redirect: {uri: /b, authority: c, port: 80, scheme: https, redirectCode: 302}
  - directResponse: {status: 200, body: {string: hello}}
  - route: [{destination: {host: ratings}, headers: {request: {set: {host: a, x-b: c}}}}]
    rewrite: {uriRegexRewrite: {match: "/(a)/(b)", rewrite: '/\\2'}}
    timeout: 5s
    retries: {attempts: 3, perTryTimeout: 2s, retryOn: "503,reset", backoff: 25ms, retryRemoteLocalities: true}
    fault:
      delay: {percentage: {value: 0.1}, fixedDelay: 5s}
      abort: {percentage: {value: 10}, grpcStatus: UNAVAILABLE}
    mirrors: [{destination: {host: ratings}, percentage: {value: 50}}]
    corsPolicy: {allowOrigins: [{regex: ".*"}], maxAge: 24h, unmatchedPreflights: IGNORE}
    headers: {request: {add: {x-a: b}, remove: [x-c]}, response: {set: {x-d: ""}}}
  - route: [{destination: {host: ratings}}]
    mirror: {host: ratings}
    mirrorPercentage: {value: 1}
"""

SAMPLES = (ROUTE_RULE, VIRTUAL_SERVICE, ROUTE_RULE_ACTIONS, VIRTUAL_SERVICE_ACTIONS, DESTINATION_RULE)


def read(text: str, namespace: str = "default") -> list[Document]:
    """Return the documents of a text that must be readable."""
    documents, problems = read_documents(text, "rules.yaml", namespace)
    assert problems == []
    return documents


def one(text: str, namespace: str = "default") -> Document:
    """Return the only document of a text."""
    (document,) = read(text, namespace)
    return document


_WORDS = """
spec metadata name namespace labels destination service domain precedence match source request headers exact prefix
regex route weight hosts http uri method port number subset host subsets withoutHeaders queryParams gateways exportTo
ignoreUriCase sourceLabels simple_retry
"""
_SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["*", "mesh", "reviews", "v1", "/", "(", "a{1001}", "\x00", "reviews.default", ":", "x" * 300]),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(_WORDS.split()) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """Return plain data that is like the given one but for a few places."""
    if draw(st.integers(0, 12)) == 0:
        return draw(JSON)
    if isinstance(value, dict):
        changed = {key: draw(mutated(item)) for key, item in value.items() if draw(st.integers(0, 15))}
        if draw(st.integers(0, 12)) == 0:
            changed[draw(st.sampled_from(_WORDS.split()))] = draw(JSON)
        return changed
    if isinstance(value, list):
        return [draw(mutated(item)) for item in value]
    return value
