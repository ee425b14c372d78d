"""Rendered Envoys behind real iptables on two hosts: virtual addresses, IPv4 and IPv6, strict mutual TLS."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip
from agent.mesh.vips import allocate
from agent.translate.netfilter import NetfilterOptions, ruleset
from tests.integration.capture import PYTHON, USER, interception
from tests.integration.netns import Host, lan
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY
from tests.waiting import wait_for

V4, V6 = IPv4Network("240.240.0.0/16"), IPv6Network("fdf0:240:240::/112")
HTTP, MYSQL, SECOND = 9080, 3306, 8000
RATINGS, DB, CALLER = (ServiceKey("default", name) for name in ("ratings", "mysql", "caller"))
ACCOUNT = "spiffe://cluster.local/ns/default/sa/"

HTTP_APPLICATION = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{self.headers['x-forwarded-client-cert']} {self.headers['host']}\\n".encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
TCP_APPLICATION = """
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"mysql\\n")
        self.wfile.write(self.rfile.readline())
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""
TALK = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as connection:
    stream = connection.makefile("rwb", buffering=0)
    print(stream.readline().decode().strip())
    stream.write(b"echo\\n")
    print(stream.readline().decode().strip())
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """Return client and server, each with rules, Envoy (as root, whom the rules leave alone) and its applications."""
    folder = tmp_path_factory.mktemp("capture")
    with lan("client", "server") as made, ExitStack() as stack:
        catalog = _catalog(made)
        for name, ports, account in (("client", (SECOND,), "caller"), ("server", (HTTP, MYSQL), "ratings")):
            _start_mesh(stack, folder, name, made[name], ports, account, catalog)
        stack.enter_context(made["server"].running(*PYTHON, HTTP_APPLICATION, str(HTTP), stderr=subprocess.DEVNULL))
        stack.enter_context(made["server"].running(*PYTHON, TCP_APPLICATION, str(MYSQL), stderr=subprocess.DEVNULL))
        ratings = f"http://{vip(RATINGS).v4}:{HTTP}/"
        wait_for(lambda: curl(made["client"], ratings, "ratings").startswith("200"), timeout=15)
        wait_for(lambda: talk(made["client"], str(vip(DB).v4)) == ["mysql", "echo"], timeout=15)
        yield made


def _catalog(hosts: dict[str, Host]) -> str:
    return f"""
mesh: {{mtls: strict}}
nodes: [{{name: client, address: {hosts["client"].v4}}}, {{name: server, address: {hosts["server"].v4}}}]
services:
- {{name: caller, serviceAccount: caller, ports: [{{port: {SECOND}}}], instances: [{{node: client, proxied: true}}]}}
- name: ratings
  serviceAccount: ratings
  ports: [{{name: http, port: {HTTP}}}]
  instances: [{{node: server, proxied: true}}]
- name: mysql
  serviceAccount: ratings
  ports: [{{name: mysql, port: {MYSQL}}}]
  instances: [{{node: server, proxied: true}}]
"""


AUTHORITY = TestAuthority()


def _start_mesh(
    stack: ExitStack, folder: Path, name: str, host: Host, ports: tuple[int, ...], account: str, catalog: str
) -> None:
    (folder / "catalog.yaml").write_text(catalog)
    certs = AUTHORITY.write(folder / name, ACCOUNT + account)
    config = folder / f"{name}.json"
    command = ["render", "--catalog", str(folder / "catalog.yaml"), "--node", name, "--certs", str(certs)]
    result = CliRunner().invoke(cli, [*command, "-o", str(config)])
    assert result.exit_code == 0, result.output
    text = ruleset(NetfilterOptions(proxy_uid=0, service_cidr_v4=V4, service_cidr_v6=V6, inbound_ports=ports))
    asyncio.run(interception(host).apply(text.v4, text.v6))
    arguments = ("--disable-hot-restart", "--concurrency", "1", "-l", "warning")
    stack.enter_context(host.running(ENVOY, "-c", config, *arguments))


def vip(key: ServiceKey) -> Vip:
    """Return the virtual addresses that rendering gives a service."""
    return allocate({}, (RATINGS, DB, CALLER), V4, V6)[key]


def curl(host: Host, url: str, host_header: str, *, v6: bool = False) -> str:
    """Return status and body of a request by an ordinary user, or curl's exit code."""
    options = ("-gsS", "-m", "10", "-w", "\n%{http_code}", "-H", f"Host: {host_header}")
    done = host.run("curl", *options, url, uid=USER, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return f"{status} {body}" if done.returncode == 0 else f"curl: {done.returncode}"


def talk(host: Host, address: str, seconds: float = 10.0) -> list[str]:
    """Return what an ordinary user hears from a server that speaks first, then echoes; nothing if it keeps silent."""
    return host.run(*PYTHON, TALK, address, str(MYSQL), str(seconds), uid=USER, check=False).stdout.split()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_virtual_addresses_lead_to_the_service_by_mutual_tls(hosts: dict[str, Host], family: int) -> None:
    name = "v4" if family == socket.AF_INET else "v6"
    address = str(getattr(vip(RATINGS), name))
    url = f"http://[{address}]:{HTTP}/" if name == "v6" else f"http://{address}:{HTTP}/"
    answer = curl(hosts["client"], url, "ratings")
    assert answer.startswith("200")
    assert f"URI={ACCOUNT}caller" in answer
    assert curl(hosts["client"], url, url.removeprefix("http://").rstrip("/")).startswith("200"), "by address alone"
    assert talk(hosts["client"], str(getattr(vip(DB), name))) == ["mysql", "echo"]


def test_a_host_calls_its_own_instance_by_the_mesh_too(hosts: dict[str, Host]) -> None:
    assert f"URI={ACCOUNT}ratings" in curl(hosts["server"], f"http://{vip(RATINGS).v4}:{HTTP}/", "ratings")
    assert talk(hosts["server"], str(vip(DB).v4)) == ["mysql", "echo"]


def test_plain_text_from_outside_is_refused(hosts: dict[str, Host]) -> None:
    outside, address = hosts["client"], hosts["server"].v4
    assert curl(outside, f"http://{address}:{HTTP}/", "ratings").startswith("curl: ")
    assert talk(outside, address, 1.0) == []


def test_virtual_addresses_where_nothing_lives_fail_at_once(hosts: dict[str, Host]) -> None:
    assert curl(hosts["client"], f"http://{vip(DB).v4}:1234/", "x").startswith("curl: ")
    assert curl(hosts["client"], f"http://240.240.255.1:{MYSQL}/", "x").startswith("curl: ")
    assert curl(hosts["client"], f"http://240.240.255.1:{HTTP}/", "ratings").startswith("200"), "HTTP goes by Host"
    assert curl(hosts["client"], f"http://240.240.255.1:{HTTP}/", "unknown").startswith("503")
