"""CUSTOM policies with a real Envoy and authorizers by HTTP and gRPC: what they are asked about, and their order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.integration.authorizers import Authorizers
from tests.integration.guarded_mesh import PLAIN, REVIEWS, Guarded
from tests.ports import free_port

OTHER = "ns/shop/sa/cart"
HEAD = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"


def custom(provider: str, rules: str, name: str = "asked") -> str:
    return (
        f"{HEAD}metadata: {{name: {name}}}\nspec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: {rules}}}\n"
    )


def paths(path: str) -> str:
    return f"[{{to: [{{operation: {{paths: ['{path}']}}}}]}}]"


class Asking(Guarded):
    """A guarded host, and a service with two authorizers."""

    authorizers = Authorizers()

    def name_providers(self) -> None:
        """Put the authorizers into the catalog and into the mesh's settings."""
        self.http, self.grpc, self.away = free_port(), free_port(), free_port()
        self.services = "".join(
            f"- name: authz-{number}\n  ports: [{{name: {port}, port: {number}}}]\n  instances: [{{node: server}}]\n"
            for port, number in (("http-check", self.http), ("grpc-check", self.grpc), ("grpc-away", self.away))
        )
        by_http = {
            "service": f"default/authz-{self.http}.default.svc.cluster.local",
            "port": self.http,
            "pathPrefix": "/check",
            "timeout": "5s",
            "includeRequestHeadersInCheck": ["x-let-*"],
            "includeAdditionalHeadersInCheck": {"x-mesh": "test"},
            "headersToUpstreamOnAllow": ["x-decided-by"],
            "headersToDownstreamOnDeny": ["x-decided-by"],
        }
        providers = [
            {"name": "by-http", "envoyExtAuthzHttp": by_http},
            {
                "name": "by-grpc",
                "envoyExtAuthzGrpc": {"service": f"authz-{self.grpc}", "port": self.grpc, "timeout": "5s"},
            },
            {
                "name": "away",
                "envoyExtAuthzGrpc": {"service": f"authz-{self.away}", "port": self.away, "statusOnError": "503"},
            },
            {
                "name": "open",
                "envoyExtAuthzGrpc": {"service": f"authz-{self.away}", "port": self.away, "failOpen": True},
            },
            {"name": "lost", "envoyExtAuthzGrpc": {"service": "no-such-service", "port": 1}},
        ]
        self.settings = f", extensionProviders: {json.dumps(providers)}"

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Run applications and authorizers."""
        with ExitStack() as stack:
            stack.enter_context(self.applications())
            stack.enter_context(self.authorizers.by_http(self.server, self.http))
            stack.enter_context(self.authorizers.by_grpc(self.server, self.grpc))
            yield


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    host = Asking(tmp_path_factory.mktemp("custom"))
    host.name_providers()
    with host.asking():
        yield host


@pytest.mark.parametrize("provider", ["by-http", "by-grpc"])
def test_who_is_asked_about_what(host: Asking, provider: str) -> None:
    with host.serving(custom(provider, paths("/asked*"))):
        host.authorizers.asked.clear()
        assert host.status("/free", OTHER) == 200
        assert host.authorizers.asked == []
        assert host.status("/asked", OTHER) == 403
        assert host.status("/asked/more", OTHER, x_let_me="in") == 200
        assert len(host.authorizers.asked) == 2
        if provider == "by-http":
            assert host.authorizers.asked == ["/check/asked", "/check/asked/more"]
            assert host.ask("/asked", OTHER).headers["x-decided-by"] == "test"
            assert host.ask("/asked", OTHER, x_let_me="in").request_headers["x-decided-by"] == "test"


def test_custom_comes_before_deny_and_allow(host: Asking) -> None:
    rules = custom("by-grpc", paths("/both"))
    rules += f"{HEAD}metadata: {{name: never}}\nspec: {{action: DENY, rules: {paths('/both')}}}\n"
    with host.serving(rules):
        host.authorizers.asked.clear()
        assert host.status("/both", OTHER, x_let_me="in") == 403
        assert host.authorizers.asked == ["/both"]


def test_two_providers(host: Asking) -> None:
    with host.serving(custom("by-grpc", paths("/a*")) + custom("by-http", paths("/ab*"), "second")):
        host.authorizers.asked.clear()
        assert host.status("/ab", OTHER, x_let_me="in") == 200
        assert sorted(host.authorizers.asked) == ["/ab", "/check/ab"]


def test_connections(host: Asking) -> None:
    with host.serving(custom("by-grpc", "[{}]")):
        assert [host.greets(caller) for caller in (REVIEWS, OTHER, PLAIN)] == [True, False, False]
    with host.serving(custom("by-http", "[{}]")):
        assert not host.greets(REVIEWS), "an authorizer of requests cannot be asked about a connection"


def test_an_authorizer_that_cannot_be_asked(host: Asking) -> None:
    with host.serving(custom("away", paths("/asked"))):
        assert (host.status("/asked"), host.status("/free")) == (503, 200)
    with host.serving(custom("open", paths("/asked"))):
        assert host.status("/asked") == 200
    for provider in ("lost", "unnamed"):
        with host.serving(custom(provider, paths("/asked"))):
            assert (host.status("/asked"), host.status("/free")) == (403, 200)
            assert "AuthorizationPolicy/asked.default" in host.said
