"""AuthorizationPolicy with a real Envoy: every attribute of requests and connections, every action, dry runs."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.guarded_mesh import PLAIN, REVIEWS, Guarded

OTHER = "ns/shop/sa/cart"
HEAD = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"


def policy(rules: str, action: str = "ALLOW", name: str = "", more: str = "", meta: str = "namespace: default") -> str:
    name = name or f"p{abs(hash((rules, action, more, meta)))}"
    return f"{HEAD}metadata: {{name: {name}, {meta}}}\nspec:\n  action: {action}\n  rules: {rules}\n{more}"


def source(said: str) -> str:
    return f"[{{from: [{{source: {{{said}}}}}]}}]"


def operation(said: str) -> str:
    return f"[{{to: [{{operation: {{{said}}}}}]}}]"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    host = Guarded(tmp_path_factory.mktemp("authorization"))
    with host.applications():
        yield host


WHO = [
    ("principals: [mesh.test/ns/default/sa/bookinfo-reviews]", [REVIEWS]),
    ("principals: [cluster.local/ns/default/sa/bookinfo-reviews]", [REVIEWS]),
    ("principals: ['*/sa/cart']", [OTHER]),
    ("principals: ['mesh.test/ns/default/*']", [REVIEWS]),
    ("principals: ['*']", [REVIEWS, OTHER]),
    ("principals: [mesh.test/ns/default/sa/bookinfo]", []),
    ("notPrincipals: ['*/sa/cart']", [REVIEWS, PLAIN]),
    ("namespaces: [shop]", [OTHER]),
    ("namespaces: ['sh*', none]", [OTHER]),
    ("notNamespaces: [shop]", [REVIEWS, PLAIN]),
    ("serviceAccounts: [bookinfo-reviews, shop/none]", [REVIEWS]),
    ("serviceAccounts: [cart]", []),
    ("notServiceAccounts: [shop/cart]", [REVIEWS, PLAIN]),
    ("trustDomains: [mesh.test]", [REVIEWS, OTHER]),
    ("trustDomains: ['*.other']", []),
    ("notTrustDomains: [mesh.test]", [PLAIN]),
    ("ipBlocks: [127.0.0.0/8]", [REVIEWS, OTHER, PLAIN]),
    ("ipBlocks: [10.1.2.3]", []),
    ("notRemoteIpBlocks: [127.0.0.0/8]", []),
    ("remoteIpBlocks: ['::/0', 127.0.0.0/8]", [REVIEWS, OTHER, PLAIN]),
    ("notIpBlocks: [127.0.0.0/8]", []),
    ("namespaces: [default], notPrincipals: ['*/sa/bookinfo-reviews']", []),
]


def test_who_may_call_requests_and_connections(host: Guarded) -> None:
    """One Envoy for all: each rule is for a path (requests); connections are tried rule by rule for a few."""
    rules = "".join(
        f"{HEAD}metadata: {{name: who-{number}}}\nspec:\n  rules: [{{from: [{{source: {{{said}}}}}], "
        f"to: [{{operation: {{paths: [/{number}]}}}}]}}]\n"
        for number, (said, _) in enumerate(WHO)
    )
    with host.serving(rules):
        callers = (REVIEWS, OTHER, PLAIN)
        for number, (said, expected) in enumerate(WHO):
            found = [caller for caller in callers if host.status(f"/{number}", caller) == 200]
            assert found == expected, said
        assert host.status("/99") == 403
        assert [host.greets(caller) for caller in callers] == [False] * 3, "rules about paths hold for no connection"


@pytest.mark.parametrize(("said", "expected"), [WHO[0], WHO[6], WHO[7], WHO[15]])
def test_who_may_connect(host: Guarded, said: str, expected: list[str]) -> None:
    with host.serving(policy(source(said))):
        assert [caller for caller in (REVIEWS, OTHER, PLAIN) if host.greets(caller)] == expected


WHAT: dict[str, tuple[str, str, dict[str, str], int]] = {
    "methods: [GET]": ("/any", "GET", {}, 200),
    "methods: [GET], paths: [/else]": ("/any", "GET", {}, 403),
    "methods: ['*']": ("/any", "POST", {}, 501),
    "notMethods: [POST, PUT]": ("/any", "POST", {}, 403),
    "paths: [/exact]": ("/exact?query=1", "GET", {}, 200),
    "paths: ['/start*']": ("/started", "GET", {}, 200),
    "paths: ['*/end']": ("/the/end", "GET", {}, 200),
    "paths: ['/a/{*}/c']": ("/a/b/c", "GET", {}, 200),
    "paths: ['/a/{*}/d']": ("/a/b/c/d", "GET", {}, 403),
    "paths: ['/x/{**}']": ("/x/y/z", "GET", {}, 200),
    "paths: ['/secret/../open']": ("/secret/../open", "GET", {}, 403),
    "paths: [/open]": ("/secret/../open", "GET", {}, 200),
    "notPaths: ['/private*']": ("/private/x", "GET", {}, 403),
    "hosts: [RATINGS]": ("/host", "GET", {}, 200),
    "hosts: ['*.example.com']": ("/host", "GET", {}, 403),
    "notHosts: [ratings]": ("/host", "GET", {}, 403),
    "hosts: ['rat*']": ("/host", "GET", {}, 200),
    "hosts: ['*']": ("/host", "GET", {}, 200),
    "methods: ['GE*']": ("/any", "GET", {}, 200),
    "paths: ['*']": ("/", "GET", {}, 200),
    "paths: ['/start*'], notPaths: ['/started']": ("/started", "GET", {}, 403),
    "paths: ['/start*'], notPaths: ['/starts']": ("/started", "GET", {}, 200),
    "paths: [/Exact]": ("/exact", "GET", {}, 403),
    "paths: ['/{*}/c']": ("//c", "GET", {}, 403),
    "paths: [/a%2Fb]": ("/a%2Fb", "GET", {}, 200),
    "paths: [/a/b]": ("/a%2Fb", "GET", {}, 403),
    "notPaths: ['*/admin']": ("/x/../admin", "GET", {}, 403),
    "notPaths: ['/b/admin']": ("/b/x/%2e%2E/admin", "GET", {}, 403),
    "notPaths: [/c/admin]": ("/c\\x\\..\\admin", "GET", {}, 403),
    "notPaths: [/d/admin]": ("/d/./admin;x?/../y", "GET", {}, 200),
    "notPaths: [/e/admin]": ("/e/%61dmin", "GET", {}, 403),
    "ports: ['1'], paths: ['/*']": ("/any", "GET", {}, 403),
    "notPorts: ['1']": ("/any", "GET", {}, 200),
}


@pytest.mark.parametrize(("said", "request_"), WHAT.items())
def test_what_may_be_asked(host: Guarded, said: str, request_: tuple[str, str, dict[str, str], int]) -> None:
    path, method, headers, expected = request_
    with host.serving(policy(operation(said))):
        assert host.status(path, REVIEWS, method, **headers) == expected


def conditions(host: Guarded) -> list[tuple[str, str, bool]]:
    """Return conditions on a request of REVIEWS with `x-token: admin, user`, and whether they hold."""
    return [
        ("request.headers[x-token]", "['admin*']", True),
        ("request.headers[x-token]", "[admin]", False),
        ("request.headers[x-none]", "['*']", False),
        ("request.experimental.inline.headers[x-token]", "[user]", True),
        ("request.experimental.inline.headers[x-token]", "[use]", False),
        ("source.ip", "[127.0.0.0/8]", True),
        ("remote.ip", "[10.9.9.9]", False),
        ("remote.ip", "[10.8.8.0/24]", True),
        ("request.headers[X-Token]", "['*user']", True),
        ("request.headers[x-token]", "['*']", True),
        ("request.headers[:method]", "[GET]", True),
        ("request.auth.principal", "['*']", False),
        ("source.namespace", "['*']", True),
        ("source.principal", "['*/sa/cart']", False),
        ("source.ip", "[10.8.8.0/24]", False),
        ("source.namespace", "[default]", True),
        ("source.principal", "['mesh.test/ns/default/sa/bookinfo-reviews']", True),
        ("source.serviceAccount", "[default/bookinfo-reviews]", True),
        ("source.trustDomain", "[mesh.test]", True),
        ("destination.ip", f"[{host.server}]", True),
        ("destination.ip", "[10.9.9.9]", False),
        ("destination.port", f"['{host.http_port}']", True),
        ("destination.port", "['1']", False),
        ("connection.sni", "['ratings.*']", True),
        ("connection.sni", "[other]", False),
        ("request.auth.claims[group]", "[admin]", False),
        ("experimental.envoy.filters.a.b[c]", "[d]", False),
    ]


def test_conditions(host: Guarded) -> None:
    said = conditions(host)
    rules = "".join(
        f"{HEAD}metadata: {{name: when-{number}-{field.lower()}}}\nspec:\n  rules: [{{when: [{{key: '{key}', "
        f"{field}: {values}}}], to: [{{operation: {{paths: [/{number}/{field}]}}}}]}}]\n"
        for number, (key, values, _) in enumerate(said)
        for field in ("values", "notValues")
    )
    with host.serving(rules):
        for number, (key, values, holds) in enumerate(said):
            sent = {"x_token": "admin,user", "x_forwarded_for": "10.8.8.8"}
            assert (host.status(f"/{number}/values", **sent) == 200) is holds, (key, values)
            assert (host.status(f"/{number}/notValues", **sent) == 200) is not holds, ("not", key, values)


def test_conditions_of_connections(host: Guarded) -> None:
    """Allowed by what holds of a connection of REVIEWS, with `ratings.default` as its server name."""
    held = [
        ("source.principal", "['*/sa/bookinfo-reviews']"),
        ("source.namespace", "[default]"),
        ("source.serviceAccount", "[default/bookinfo-reviews]"),
        ("source.trustDomain", "['mesh*']"),
        ("source.ip", "[127.0.0.1/8]"),
        ("remote.ip", "[127.0.0.1/8]"),
        ("destination.ip", f"[{host.server}]"),
        ("destination.port", f"['{host.tcp_port}']"),
        ("connection.sni", "['*.default']"),
    ]
    every = ", ".join(f"{{key: {key}, values: {values}}}" for key, values in held)
    with host.serving(policy(f"[{{when: [{every}]}}]")):
        assert host.greets(REVIEWS)
        assert not host.greets(OTHER)
    either = ", ".join(f"{{when: [{{key: {key}, notValues: {values}}}]}}" for key, values in held)
    with host.serving(policy(f"[{either}]", "DENY")):
        assert host.greets(REVIEWS)
        assert not host.greets(OTHER)
    with host.serving(policy("[{when: [{key: 'request.headers[x]', notValues: [y]}]}]")):
        assert not host.greets(REVIEWS), "a connection has no headers"


def test_what_another_filter_has_noted(host: Guarded) -> None:
    key = "experimental.envoy.filters.http.rbac[dry_run_deny_shadow_engine_result]"
    rules = policy(operation("paths: [/tried]"), "DENY", "tried", meta=DRY)
    rules += policy(f"[{{when: [{{key: '{key}', values: ['den*']}}]}}]", "DENY", "really")
    with host.serving(rules):
        assert [host.status(path) for path in ("/tried", "/other")] == [403, 200]


def test_another_root_namespace(host: Guarded) -> None:
    denied = policy(operation("paths: [/no]"), "DENY", "a", meta="namespace: mesh-root")
    denied += policy(operation("paths: [/yes]"), "DENY", "b", meta="namespace: istio-system")
    strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"
    strict += "metadata: {name: strict, namespace: mesh-root}\nspec: {mtls: {mode: STRICT}}\n"
    with host.serving(denied):
        assert [host.status(path) for path in ("/no", "/yes")] == [200, 403]
    host.settings = ", rootNamespace: mesh-root"
    try:
        with host.serving(denied + strict):
            assert [host.status(path) for path in ("/no", "/yes")] == [403, 200]
            assert host.status("/yes", PLAIN) == 0
    finally:
        host.settings = ""


def test_a_principal_of_the_mesh_is_one_of_its_aliases_too(host: Guarded) -> None:
    foreign = host.certificates(REVIEWS, "old.test")
    host.settings = ", trustDomainAliases: [old.test]"
    try:
        for said, expected in (
            ("principals: [mesh.test/ns/default/sa/bookinfo-reviews]", [200, 200]),
            ("principals: [old.test/ns/default/sa/bookinfo-reviews]", [200, 200]),
            ("principals: ['*mesh.test/ns/default/sa/bookinfo-reviews']", [200, 403]),
            ("trustDomains: [old.test]", [403, 200]),
            ("namespaces: [default]", [200, 200]),
        ):
            with host.serving(policy(source(said))):
                assert [host.status("/", caller) for caller in (REVIEWS, foreign)] == expected, said
    finally:
        host.settings = ""


ALL, NOTHING = "[{}]", "[]"
DRY = "namespace: default, annotations: {istio.io/dry-run: 'true'}"


@pytest.mark.parametrize(
    ("rules", "requests", "connects"),
    [
        ("", 200, True),
        (policy(NOTHING), 403, False),
        (f"{HEAD}metadata: {{name: allow-nothing}}\nspec: {{}}\n", 403, False),
        (policy(ALL), 200, True),
        (policy(NOTHING) + policy(ALL, name="two"), 200, True),
        (policy(ALL) + policy(ALL, "DENY"), 403, False),
        (policy(operation("methods: [GET]"), "DENY"), 403, False),
        (policy(operation("methods: [POST]"), "DENY"), 200, False),
        (policy(operation("methods: [GET]")), 200, False),
        (policy("[{to: [{operation: {methods: [GET]}}, {operation: {notPorts: ['1']}}]}]"), 200, False),
        (policy("[{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {notPorts: ['1']}}]}]"), 200, True),
        (policy("[{from: [{source: {notRequestPrincipals: ['*']}}]}]", "DENY"), 403, False),
        (policy("[{from: [{source: {requestPrincipals: ['*']}}]}]", "DENY"), 200, False),
        (policy("[{from: [{source: {notPrincipals: ['*']}}]}]", "DENY"), 200, True),
        (policy(operation("methods: [GET], ports: ['1']"), "DENY"), 200, True),
        (policy(NOTHING, meta="namespace: shop"), 200, True),
        (policy(NOTHING, meta="namespace: istio-system"), 403, False),
        (policy(NOTHING, more="  selector: {matchLabels: {app: mysql}}"), 200, False),
        (policy(NOTHING, more="  selector: {matchLabels: {app: ratings}}", meta="namespace: istio-system"), 403, True),
        (policy(NOTHING, more="  selector: {matchLabels: {app: ratings, version: v2}}"), 200, True),
        (policy(NOTHING, more="  targetRefs: [{kind: Service, group: '', name: ratings}]"), 403, True),
    ],
)
def test_actions_and_targets(host: Guarded, rules: str, requests: int, connects: bool) -> None:
    with host.serving(rules):
        assert host.status() == requests
        assert host.greets() is connects


def test_audit_and_dry_runs_refuse_nothing_and_tell(host: Guarded) -> None:
    rules = policy(operation("paths: [/audited]"), "AUDIT", "watch")
    rules += policy(operation("paths: [/would-not]"), "DENY", "later", meta=DRY)
    rules += policy(source("namespaces: [default, shop]"), "ALLOW", "only", meta=DRY)
    with host.serving(rules):
        assert host.status("/audited?secret=1") == 200
        assert host.status("/would-not", OTHER) == 200
        assert host.status("/", PLAIN) == 200
        assert host.greets(REVIEWS)
        counts = host.stats("dry_run")
        told = _lines(host, 4)
    denied = {name for name, count in counts.items() if name.startswith("http.") and count}
    assert {name.partition(".rbac.")[2] for name in denied} >= {
        "dry_run_deny_.shadow_denied",
        "dry_run_allow_.shadow_denied",
        "dry_run_allow_.shadow_allowed",
    }
    assert any('"policy":"ns[default]-policy[watch]-rule[0]"' in line and '"path":"/audited"' in line for line in told)
    assert any('"event":"dry_run_deny"' in line and "later" in line and "sa/cart" in line for line in told)
    assert any('"event":"dry_run_allow"' in line for line in told)
    assert not any("secret" in line for line in told)


def _lines(host: Guarded, least: int) -> list[str]:
    """Return the JSON lines that Envoy wrote, once there are so many."""
    deadline = time.monotonic() + 15
    while True:
        (log,) = sorted(host.folder.glob("server-*.log"), key=lambda path: path.stat().st_mtime)[-1:]
        found = [line for line in log.read_text().splitlines() if line.startswith("{")]
        if len(found) >= least or time.monotonic() > deadline:
            return found
        time.sleep(0.1)
