"""Whatever security rules may say, Envoy takes it: odd values in every field; what is refused is refused before."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.api.document import read_documents
from agent.api.validate import find_problems
from agent.cli.main import cli
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY

ODD = (
    *(
        "a",
        "*",
        "**",
        "*a",
        "a*",
        "*a*",
        "a b",
        "a\nb",
        "ä/€",
        "(",
        "[",
        "a/b",
        "/",
        "//",
        "%",
        "\\",
        "x" * 300,
        "a]",
        "a][",
    ),
    *(
        "{*}",
        "/{*}/{**}",
        "/a{*}",
        "/{*}" * 12,
        "/a/{*}/b/{**}",
        "/%2F/{*}",
        "/a b/{*}",
        "{}",
        "a][b",
        "][",
        ".",
        "..",
        "a.b",
    ),
    *("http://x", "https://x:99999/", "https://[::1]/k", "http://x/ü", "http:///k", "10.0.0.0/8", "::/0", "1.2.3.4/33"),
    *("0", "65536", "'", '"', "\t", "x:y", ":authority", "Bearer ", "é", "499", "403"),
)
CATALOG = """
mesh: {trustDomain: mesh.test}
nodes: [{name: vm-1, address: 10.0.0.1}]
services:
- {name: web, ports: [{name: http, port: 80}], instances: [{node: vm-1, proxied: true}]}
- {name: db, ports: [{name: tcp, port: 81}], instances: [{node: vm-1, proxied: true}]}
- {name: any, ports: [{name: auto, port: 82}], instances: [{node: vm-1, proxied: true}]}
"""


def _specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield kinds and specs, one with each odd value in each field."""
    sources = ("principals", "requestPrincipals", "namespaces", "serviceAccounts", "trustDomains", "ipBlocks")
    for word in ODD:
        for field in (*sources, "remoteIpBlocks"):
            yield "AuthorizationPolicy", {"rules": [{"from": [{"source": {field: [word]}}]}]}
        for field in ("hosts", "ports", "methods", "paths", "notPaths"):
            yield "AuthorizationPolicy", {"action": "DENY", "rules": [{"to": [{"operation": {field: [word]}}]}]}
        for key in ("request.headers[x]", "request.experimental.inline.headers[x]", "connection.sni", "source.ip",
                    "request.auth.claims[x]", "request.auth.principal", "experimental.envoy.filters.a[b]"):  # fmt: skip
            yield "AuthorizationPolicy", {"rules": [{"when": [{"key": key, "values": [word]}]}]}
        for key in ("request.headers[{}]", "request.auth.claims[{}]", "request.auth.claims[a][{}]",
                    "request.experimental.inline.headers[{}]", "experimental.envoy.filters.{}[a]",
                    "experimental.envoy.filters.a[{}]"):  # fmt: skip
            yield "AuthorizationPolicy", {"rules": [{"when": [{"key": key.replace("{}", word), "values": ["x"]}]}]}
        keys = '{"keys": [{"kty": "oct", "k": "Zm9v"}]}'
        for field, value in (
            ("issuer", word),
            ("audiences", [word]),
            ("jwksUri", word),
            ("jwks", word),
            ("fromHeaders", [{"name": word}]),
            ("fromHeaders", [{"name": "x", "prefix": word}]),
            ("fromParams", [word]),
            ("fromCookies", [word]),
            ("outputPayloadToHeader", word),
            ("outputClaimToHeaders", [{"header": word, "claim": "a"}]),
            ("outputClaimToHeaders", [{"header": "x", "claim": word}]),
            ("spaceDelimitedClaims", [word]),
            ("timeout", word),
        ):
            rule = {"issuer": "i", **({} if field == "jwksUri" else {"jwks": keys}), field: value}
            yield "RequestAuthentication", {"jwtRules": [rule]}
    for keys in ('{"keys": []}', '{"kty": "EC", "crv": "P-999"}', '{"keys": [{"kty": "RSA", "n": "AQ", "e": "AQAB"}]}'):
        yield "RequestAuthentication", {"jwtRules": [{"issuer": "i", "jwks": keys}]}


def _documents() -> list[dict[str, Any]]:
    """Return those that validation finds nothing wrong with, for all workloads."""
    found = []
    for number, (kind, spec) in enumerate(_specs()):
        metadata = {"name": f"p{number}", "namespace": "istio-system"}
        plain = {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}
        read, problems = read_documents(json.dumps(plain), "x", "default")
        if read and not problems and not find_problems(read[0]):
            found.append(plain)
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(TestAuthority().write(tmp_path_factory.mktemp("odd"), "spiffe://mesh.test/ns/default/sa/default"))


def test_envoy_takes_every_valid_policy(tmp_path: Path, certificates: str) -> None:
    documents = _documents()
    assert len(documents) > 700

    def refused(some: list[dict[str, Any]]) -> str:
        (tmp_path / "catalog.yaml").write_text(CATALOG)
        (tmp_path / "rules.json").write_text(json.dumps({"kind": "List", "items": some}))
        files = ["--catalog", str(tmp_path / "catalog.yaml"), "-f", str(tmp_path / "rules.json")]
        command = ["render", *files, "--node", "vm-1", "--certs", certificates, "-o", str(tmp_path / "envoy.json")]
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
        envoy = [str(ENVOY), "--mode", "validate", "-l", "critical", "-c", str(tmp_path / "envoy.json")]
        checked = subprocess.run(envoy, capture_output=True, text=True, check=False, timeout=60)
        return "" if checked.returncode == 0 else checked.stderr[-600:] + checked.stdout[-600:]

    wrong: list[str] = []
    suspects = [documents] if refused(documents) else []
    while suspects and len(wrong) < 30:
        some = suspects.pop()
        if not (reason := refused(some)):
            continue
        if len(some) == 1:
            wrong.append(f"{json.dumps(some[0]['spec'])}: {reason}")
        else:
            suspects += [some[: len(some) // 2], some[len(some) // 2 :]]
    assert not wrong, "\n".join(wrong)
