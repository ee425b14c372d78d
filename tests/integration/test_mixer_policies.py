"""Mixer's rules with a real Envoy: denier, listchecker and memquota; by caller and by request."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.integration.guarded_mesh import PLAIN, REVIEWS, Guarded

PAGE = "ns/default/sa/bookinfo-productpage"

NOTHING = """
apiVersion: config.istio.io/v1alpha2
kind: checknothing
metadata: {name: nothing, namespace: istio-system}
spec:
"""
DENY = f"""{NOTHING}---
apiVersion: config.istio.io/v1alpha2
kind: denier
metadata: {{name: deny, namespace: istio-system}}
spec: {{status: {{code: 7, message: Not allowed}}}}
"""


def rule(match: str, handler: str = "deny.denier", instance: str = "nothing.checknothing", more: str = "") -> str:
    """Return a rule of the root namespace; the match stands as it is in YAML."""
    return f"""---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {{name: r{abs(hash((match, handler, instance)))}, namespace: istio-system{more}}}
spec:
  match: {json.dumps(match)}
  actions: [{{handler: {handler}, instances: [{instance}]}}]
"""


AT: dict[str, str] = {}
"""Who calls → the address of the catalog that they call from."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two versions of reviews share an account, the page has its own; each has its address."""
    host = Guarded(tmp_path_factory.mktemp("mixer"))
    net = host.server.rpartition(".")[0]
    AT.update({"v2": f"{net}.22", "v3": f"{net}.23", "page": f"{net}.24", "elsewhere": f"{net}.99"})
    host.nodes = "".join(f", {{name: {name}, address: {address}}}" for name, address in AT.items())
    host.services = """
- name: reviewers
  serviceAccount: bookinfo-reviews
  ports: [{name: http, port: 9996}]
  instances:
  - {node: v2, proxied: true, labels: {app: reviews, version: v2}}
  - {node: v3, proxied: true, labels: {app: reviews, version: v3}}
- name: productpage
  serviceAccount: bookinfo-productpage
  ports: [{name: http, port: 9995}]
  instances:
  - {node: page, proxied: true, labels: {app: productpage}}
"""
    with host.applications():
        yield host


def status(host: Guarded, at: str, caller: str = REVIEWS, path: str = "/", **headers: str) -> int:
    """Return the status of a request from a place of the catalog."""
    host.source = AT[at]
    return host.status(path, caller, **headers)


def greets(host: Guarded, at: str, caller: str = REVIEWS) -> bool:
    host.source = AT[at]
    return host.greets(caller)


def test_by_label_of_the_caller(host: Guarded) -> None:
    reviews = 'source.labels["app"]=="reviews" && source.labels["version"] == "v3"'
    match = f'destination.labels["app"] == "ratings" && {reviews}'
    with host.serving(DENY + rule(match)):
        assert [status(host, at) for at in ("v2", "v3", "elsewhere")] == [200, 403, 200]
        assert status(host, "page", PAGE) == 200
        assert status(host, "v3", PAGE) == 200, "another account at that address is not that instance"
        assert status(host, "v3", PLAIN) == 200, "without a certificate nothing is known of the caller"
        forged = {"X_Forwarded_For": AT["v3"], "X_Envoy_Peer": "p0"}
        assert status(host, "v2", **forged) == 200, "an address in a header is nobody's"
        host.source = AT["v3"]
        answer = host.ask("/", REVIEWS)
        assert (answer.status, answer.body) == (403, b"PERMISSION_DENIED:deny.denier.istio-system:Not allowed")


@pytest.mark.parametrize("scheme", ["", "spiffe://"])
def test_by_service_account(host: Guarded, scheme: str) -> None:
    with host.serving(DENY + rule(f'source.user == "{scheme}mesh.test/{PAGE}"')):
        assert [status(host, "page", PAGE), status(host, "elsewhere", PAGE)] == [403, 403]
        assert [status(host, "v2"), status(host, "page", PLAIN)] == [200, 200]
    with host.serving(DENY + rule(f'source.user != "{scheme}mesh.test/{PAGE}"')):
        found = [status(host, "page", PAGE), status(host, "v2"), status(host, "v2", PLAIN)]
        assert found == [200, 403, 200], "of a caller without a user nothing is true"


REQUESTS = {
    'request.headers["x-user"] == ""': [("/", {}, 403), ("/", {"x_user": "a"}, 200), ("/", {"x_user": ""}, 403)],
    '(request.headers["x-user"] | "none") == "none"': [("/", {}, 403), ("/", {"x_user": ""}, 200)],
    'request.headers["X-User"] == "jason" || request.path == "/b"': [
        ("/", {}, 200),
        ("/b", {}, 403),
        ("/", {"x_user": "jason"}, 403),
    ],
    'match(request.path, "/a*")': [("/abc", {}, 403), ("/b", {}, 200)],
    '"^/v[0-9]+/".matches(request.path) && request.method == "GET"': [("/v12/x", {}, 403), ("/vx/", {}, 200)],
    'request.path.endsWith(".html") && request.host.startsWith("rat")': [("/x.html", {}, 403), ("/x.htm", {}, 200)],
    'request.useragent == "curl" && size(request.path) > 2': [
        ("/abc", {"user_agent": "curl"}, 403),
        ("/", {"user_agent": "curl"}, 200),
        ("/abc", {}, 200),
    ],
    'source.labels["version"] == "v2" || request.path == "/x"': [("/", {}, 403)],
    'request.time < timestamp("2020-01-02T15:04:05Z")': [("/", {}, 200)],
    'request.time > timestamp("2020-01-02T15:04:05Z")': [("/", {}, 403)],
    "connection.mtls && request.size < 10": [("/", {}, 403)],
    'context.protocol == "http"': [("/", {}, 403)],
    'context.protocol == "tcp"': [("/", {}, 200)],
    'conditional(request.path == "/a", "no", "yes") == "no"': [("/a", {}, 403), ("/b", {}, 200)],
    'destination.service == "other.default.svc.cluster.local"': [("/", {}, 200)],
    'destination.service == "ratings.default.svc.cluster.local" && destination.name == "ratings"': [("/", {}, 403)],
    "source.namespace != destination.namespace": [("/", {}, 200)],
    'source.namespace == destination.namespace && source.service == "reviewers.default.svc.cluster.local"': [
        ("/", {}, 403)
    ],
    'source.uid == "x" || true': [("/", {}, 200)],
}


@pytest.mark.parametrize(("match", "asked"), REQUESTS.items())
def test_by_what_is_asked(host: Guarded, match: str, asked: list[tuple[str, dict[str, str], int]]) -> None:
    with host.serving(DENY + rule(match)):
        for path, headers, expected in asked:
            assert status(host, "v2", REVIEWS, path, **headers) == expected, (path, headers)


@pytest.mark.parametrize(("code", "expected"), [(5, 404), (8, 429), (16, 401), (14, 503), (0, 200)])
def test_the_code_is_https(host: Guarded, code: int, expected: int) -> None:
    with host.serving(DENY.replace("code: 7", f"code: {code}") + rule("true")):
        assert status(host, "v2") == expected


def listed(spec: str, value: str, match: str = "true") -> str:
    """Return a list, what is looked up on it, and the rule."""
    return f"""
apiVersion: config.istio.io/v1alpha2
kind: listchecker
metadata: {{name: list, namespace: istio-system}}
spec: {spec}
---
apiVersion: config.istio.io/v1alpha2
kind: listentry
metadata: {{name: entry, namespace: istio-system}}
spec: {{value: '{value}'}}
{rule(match, "list.listchecker", "entry.listentry")}"""


VERSION = 'source.labels["version"]'
LISTS = [
    ('{overrides: ["v1", "v2"], blacklist: false}', VERSION, [200, 404, 404]),
    ('{overrides: ["v1", "v2"], blacklist: true}', VERSION, [403, 200, 200]),
    ('{overrides: ["V3"], blacklist: true, entryType: CASE_INSENSITIVE_STRINGS}', VERSION, [200, 403, 200]),
    ('{overrides: ["^v[23]$"], blacklist: true, entryType: REGEX}', VERSION, [403, 403, 200]),
    ("{overrides: [NET.22, NET.96/28], entryType: IP_ADDRESSES}", "source.ip", [200, 404, 200]),
    ("{overrides: [NET.22/31], blacklist: true, entryType: IP_ADDRESSES}", "source.ip", [403, 403, 200]),
    ('{overrides: ["/", "/b"]}', "request.path", [200, 200, 200]),
    ("{overrides: [b, A], blacklist: true, entryType: CASE_INSENSITIVE_STRINGS}", 'request.headers["x"]', [403] * 3),
    ('{overrides: ["z"], entryType: REGEX}', 'request.headers["x"] | "zero"', [404] * 3),
    (f"{{overrides: ['mesh.test/{REVIEWS}']}}", "source.user", [200, 200, 200]),
    (f"{{overrides: ['mesh.test/{PAGE}']}}", "source.user", [404, 404, 404]),
]


@pytest.mark.parametrize(("spec", "value", "expected"), LISTS)
def test_lists(host: Guarded, spec: str, value: str, expected: list[int]) -> None:
    net = host.server.rpartition(".")[0]
    with host.serving(listed(spec.replace("NET", net), value)):
        assert [status(host, at, x="a") for at in ("v2", "v3", "elsewhere")] == expected


def test_connections(host: Guarded) -> None:
    tcp = ", labels: {istio-protocol: tcp}"
    deny_v3 = rule(f'{VERSION} == "v3"', more=tcp)
    with host.serving(DENY + deny_v3):
        assert [greets(host, at) for at in ("v2", "v3", "elsewhere")] == [True, False, True]
        assert status(host, "v3") == 200, "the rule is for connections that are no requests"
    other = rule(f'destination.service == "mysql.default.svc.cluster.local" && source.ip != ip("{AT["v2"]}")', more=tcp)
    with host.serving(DENY + other):
        assert [greets(host, at) for at in ("v2", "v3", "elsewhere")] == [True, False, False]
    with host.serving(DENY + rule(f'{VERSION} == "v3" && (context.protocol == "tcp" || request.path == "/x")')):
        assert [greets(host, at) for at in ("v2", "v3")] == [True, False]
        assert [status(host, "v3"), status(host, "v3", path="/x")] == [200, 403]


def test_without_mutual_tls_the_address_is_all_there_is(host: Guarded) -> None:
    with host.serving(DENY + rule(f'{VERSION} == "v3"'), mode="NONE"):
        assert [status(host, at, PLAIN) for at in ("v2", "v3", "elsewhere")] == [200, 403, 200]


QUOTA = """
apiVersion: config.istio.io/v1alpha2
kind: memquota
metadata: {name: handler, namespace: istio-system}
spec:
  quotas:
  - name: requestcount.quota.istio-system
    maxAmount: 5000
    validDuration: 1000s
    overrides:
    - dimensions: {destination: ratings, source: reviews, sourceVersion: v2}
      maxAmount: 3
      validDuration: 1000s
    - dimensions: {destination: ratings, source: reviews}
      maxAmount: 5
      validDuration: 1000s
    - dimensions: {user: nobody}
      maxAmount: 0
      validDuration: 1000s
---
apiVersion: config.istio.io/v1alpha2
kind: quota
metadata: {name: requestcount, namespace: istio-system}
spec:
  dimensions:
    source: source.labels["app"] | source.service | "unknown"
    sourceVersion: source.labels["version"] | "unknown"
    destination: destination.labels["app"] | destination.service | "unknown"
    destinationVersion: destination.labels["version"] | "unknown"
    user: request.headers["user"] | "unknown"
---
"""


def passed(host: Guarded, at: str, requests: int, caller: str = REVIEWS, **headers: str) -> int:
    """Return how many requests pass; the others get 429."""
    found = [status(host, at, caller, **headers) for _ in range(requests)]
    assert set(found) <= {200, 429}
    return found.count(200)


def test_quotas_count_by_dimension_values_and_the_first_override_counts(host: Guarded) -> None:
    with host.serving(QUOTA + rule("true", "handler.memquota", "requestcount.quota")):
        assert passed(host, "v2", 5) == 3
        assert passed(host, "v2", 5, user="a") == 3, "each tuple of values has its own counter"
        assert passed(host, "v3", 8) == 5
        assert passed(host, "page", 8, PAGE) == 8
        assert passed(host, "elsewhere", 8) == 8
        host.source = AT["v2"]
        assert host.ask("/", REVIEWS).body == b"RESOURCE_EXHAUSTED:Quota is exhausted"


def test_a_quota_of_none_and_a_quota_with_a_condition(host: Guarded) -> None:
    match = 'source.labels["app"] != destination.labels["app"] && request.path == "/"'
    conditional = rule(match, "handler.memquota", "requestcount.quota")
    with host.serving(QUOTA + conditional):
        assert passed(host, "v2", 5) == 3
        assert [status(host, "v2", path="/free") for _ in range(5)] == [200] * 5
        assert passed(host, "page", 3, PAGE, user="nobody") == 0
        assert passed(host, "elsewhere", 3, user="nobody") == 3, "of an unknown caller the rule's match has no value"


def test_a_bucket_fills_again(host: Guarded) -> None:
    quick = QUOTA.replace("maxAmount: 3", "maxAmount: 2").replace("1000s", "1s")
    with host.serving(quick + rule("true", "handler.memquota", "requestcount.quota")):
        began = time.monotonic()
        assert passed(host, "v2", 20) < 20
        while status(host, "v2") != 200:
            assert time.monotonic() < began + 30


def test_a_rule_is_inactive_until_what_it_names_is_there(host: Guarded) -> None:
    with host.serving(NOTHING + rule("true")):
        assert status(host, "v2") == 200
        assert "is inactive until there is deny.denier.istio-system" in host.said
