"""Security rules at a gateway, with real Envoys: tokens, policies about requests and connections, routes by claims."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.rendered_mesh import (
    Client,
    greeting_application,
    http_application,
    loopback_network,
    rendered_envoy,
)
from tests.integration.token_issuer import TokenIssuer
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port

ISSUER = TokenIssuer("https://issuer.test")


class Edge:
    """A gateway with a port of HTTP and one of TCP, and services in plain text behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.address, self.inside = f"{net}.1", f"{net}.10"
        self.http, self.tcp, self.web, self.admins, self.greeter = (free_port() for _ in range(5))
        certs = TestAuthority().write(folder / "certs", "spiffe://cluster.local/ns/default/sa/istio-ingressgateway")
        self.certs = str(certs)

    @property
    def catalog(self) -> str:
        services = "".join(
            f"- name: {name}\n  ports: [{{name: {protocol}, port: {port}}}]\n  instances: [{{node: inside}}]\n"
            for name, protocol, port in (
                ("web", "http", self.web),
                ("admins", "http", self.admins),
                ("greeter", "tcp", self.greeter),
            )
        )
        nodes = f"nodes: [{{name: edge, address: {self.address}}}, {{name: inside, address: {self.inside}}}]\n"
        return f"role: gateway\n{nodes}services:\n{services}"

    @property
    def rules(self) -> str:
        tokens = json.dumps([{"issuer": ISSUER.name, "jwks": ISSUER.key_set, "forwardOriginalToken": True}])
        return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{port: {{number: {self.http}, name: http, protocol: HTTP}}, bind: {self.address}, hosts: ["*"]}}
  - {{port: {{number: {self.tcp}, name: tcp, protocol: TCP}}, bind: {self.address}, hosts: ["*"]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
  - match:
    - headers: {{"@request.auth.claims.realm.Roles": {{exact: admin}}}}
      withoutHeaders: {{"@request.auth.claims[sub]": {{prefix: bob}}}}
    route: [{{destination: {{host: admins}}}}]
  - route: [{{destination: {{host: web}}}}]
  tcp:
  - route: [{{destination: {{host: greeter}}}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: tokens, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  jwtRules: {tokens}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: private, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: ingressgateway}}}}
  action: DENY
  rules:
  - from: [{{source: {{notRequestPrincipals: ["*"]}}}}]
    to: [{{operation: {{paths: ["/private*"], ports: ["{self.http}"]}}}}]
  - from: [{{source: {{remoteIpBlocks: [10.9.9.9]}}}}]
    to: [{{operation: {{paths: [/far], ports: ["{self.http}"]}}}}]
  - from: [{{source: {{remoteIpBlocks: [127.0.0.0/8]}}}}]
    to: [{{operation: {{paths: [/near], ports: ["{self.http}"]}}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: others, namespace: istio-system}}
spec:
  selector: {{matchLabels: {{istio: egressgateway}}}}
  action: DENY
  rules: [{{}}]
"""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    with ExitStack() as stack:
        for name, port in (("web", edge.web), ("admins", edge.admins)):
            stack.enter_context(http_application(name, edge.inside, port))
        stack.enter_context(greeting_application("greeter", edge.inside, edge.greeter))
        yield edge


def greets(edge: Edge) -> bool:
    try:
        with socket.create_connection((edge.address, edge.tcp), timeout=10) as client, client.makefile("rb") as stream:
            client.sendall(b"hello\n")
            return [stream.readline(), stream.readline()] == [b"greeter\n", b"hello\n"]
    except OSError:
        return False


def test_tokens_policies_and_routes_by_claims(edge: Edge) -> None:
    listening = (edge.address, edge.http)
    with rendered_envoy(edge.folder, "edge", edge.catalog, edge.rules, listening, certs=edge.certs) as said:
        assert said == ""
        client = Client(edge.address, edge.http)
        admin = {"realm": {"Roles": ["user", "admin"]}}
        for subject, claims, application in (
            ("alice", admin, "admins"),
            ("bobby", admin, "web"),
            ("alice", {"realm": {"Roles": ["user"]}}, "web"),
            ("alice", {"realm": {"roles": ["admin"]}}, "web"),
        ):
            token = ISSUER.token(subject, more=claims)
            answer = client.get("x", "/private", authorization=f"Bearer {token}")
            assert (answer.status, answer.name) == (200, application)
        assert client.get("x", "/public").name == "web"
        assert client.get("x", "/public", **{"@request.auth.claims.realm.Roles": "admin"}).status in (200, 400)
        assert client.get("x", "/private").status == 403
        forged = {"x_forwarded_for": "10.9.9.9"}
        assert [client.get("x", path, **forged).status for path in ("/far", "/near")] == [200, 403]
        assert client.get("x", "/public", authorization="Bearer x.y.z").status == 401
        assert greets(edge), "the policy is about another port"
        client.close()
    closing = edge.rules.replace(f'ports: ["{edge.http}"]', f'ports: ["{edge.tcp}"]')
    with rendered_envoy(edge.folder, "edge", edge.catalog, closing, listening, certs=edge.certs):
        assert not greets(edge), "of a connection nobody knows a path or a token"
