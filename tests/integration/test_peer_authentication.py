"""PeerAuthentication, authPolicy and `auth.istio.io/PORT` with real Envoys: what ports accept, what callers send."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.guarded_mesh import PLAIN, Guarded
from tests.integration.rendered_mesh import Client

HEAD = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n"


def rule(mode: str, namespace: str = "istio-system", selector: str = "", ports: str = "") -> str:
    more = f"  selector: {{matchLabels: {{{selector}}}}}\n" if selector else ""
    more += f"  portLevelMtls: {{{ports}}}\n" if ports else ""
    name = f"p{len(selector)}"
    return f"{HEAD}metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  mtls: {{mode: {mode}}}\n{more}"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    host = Guarded(tmp_path_factory.mktemp("peers"))
    with host.applications():
        yield host


def takes(host: Guarded) -> dict[str, list[str]]:
    """Return what each service takes: `tls`, `plain`."""
    return {
        "ratings": [name for name, caller in (("tls", "ns/x/sa/y"), ("plain", PLAIN)) if host.status("/", caller)],
        "mysql": [name for name, caller in (("tls", "ns/x/sa/y"), ("plain", PLAIN)) if host.greets(caller)],
    }


@pytest.mark.parametrize(
    ("setting", "rules", "ratings", "mysql"),
    [
        ("PERMISSIVE", "", "tls plain", "tls plain"),
        ("MUTUAL_TLS", "", "tls", "tls"),
        ("NONE", "", "plain", "plain"),
        ("PERMISSIVE", rule("STRICT"), "tls", "tls"),
        ("NONE", rule("STRICT", "default", "app: ratings"), "tls", "plain"),
        ("MUTUAL_TLS", rule("STRICT") + rule("PERMISSIVE", "default"), "tls plain", "tls plain"),
        ("MUTUAL_TLS", rule("UNSET", "default") + rule("DISABLE", "default", "app: mysql"), "tls", "plain"),
        ("NONE", rule("STRICT", "elsewhere") + rule("STRICT", "istio-system", "app: mysql"), "plain", "plain"),
    ],
)
def test_what_ports_accept(host: Guarded, setting: str, rules: str, ratings: str, mysql: str) -> None:
    with host.serving(rules, setting):
        assert takes(host) == {"ratings": ratings.split(), "mysql": mysql.split()}


def test_a_port_and_an_annotation(host: Guarded) -> None:
    said = f'{{"auth.istio.io/{host.http_port}": MUTUAL_TLS}}'
    with host.serving("", "PERMISSIVE", said):
        assert takes(host)["ratings"] == ["tls"]
    strict = rule("STRICT", "default", "app: ratings", f"{host.http_port}: {{mode: DISABLE}}")
    with host.serving(strict, "PERMISSIVE", said):
        assert takes(host) == {"ratings": ["plain"], "mysql": ["tls", "plain"]}, "the rule's port comes first"


@pytest.mark.parametrize(
    ("setting", "rules", "annotation", "by_tls"),
    [
        ("PERMISSIVE", "", "", True),
        ("PERMISSIVE", rule("STRICT"), "", True),
        ("MUTUAL_TLS", rule("DISABLE", "default", "app: ratings"), "", False),
        ("NONE", rule("STRICT", "default"), "", True),
        ("MUTUAL_TLS", "", "NONE", False),
    ],
)
def test_callers_know_what_is_accepted(host: Guarded, setting: str, rules: str, annotation: str, by_tls: bool) -> None:
    said = f'{{"auth.istio.io/{host.http_port}": {annotation}}}' if annotation else "{}"
    with host.serving(rules, setting, said), host.calling(rules, setting, said):
        client = Client(host.client, host.http_port)
        answer = client.get("ratings")
        client.close()
        assert answer.status == 200
        assert ("x-forwarded-client-cert" in answer.request_headers) is by_tls


def test_callers_send_plain_text_to_excluded_services(host: Guarded) -> None:
    host.settings = ", mtlsExcludedServices: [ratings.default.svc.cluster.local]"
    try:
        with host.serving(), host.calling():
            client = Client(host.client, host.http_port)
            assert "x-forwarded-client-cert" not in client.get("ratings").request_headers
            client.close()
    finally:
        host.settings = ""


def test_identities_of_an_alias_domain_are_the_meshs(host: Guarded) -> None:
    foreign = host.certificates("ns/default/sa/bookinfo-reviews", "old.test")
    with host.serving("", "MUTUAL_TLS"):
        assert host.status("/", foreign) == 0
    host.settings = ", trustDomainAliases: [old.test]"
    try:
        with host.serving("", "MUTUAL_TLS"):
            assert host.status("/", foreign) == 200
    finally:
        host.settings = ""
