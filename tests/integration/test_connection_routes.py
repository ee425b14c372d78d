"""Connections routed whole, on real traffic: virtual addresses behind real iptables, servers that speak first, TLS.

One calling host whose Envoy is rendered anew for each set of rules, and two hosts with an instance each of a database
and of a TLS server. What is about the host that calls is decided by its workload.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip
from agent.mesh.vips import allocate
from agent.translate.netfilter import NetfilterOptions, OutboundMode, ruleset
from tests.integration.capture import PYTHON, USER, interception
from tests.integration.netns import Host, lan
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY
from tests.waiting import wait_for

V4, V6 = IPv4Network("240.240.0.0/16"), IPv6Network("fdf0:240:240::/112")
MYSQL, TLS, CALLER = 3306, 8443, 8000
CONNECTIONS, SIGMAS = 300, 5.0
OUTSIDE = ("a.example.com", "b.example.com", "db.example.com")

SERVERS = """
import socketserver, ssl, sys, threading
name, certificate, key = sys.argv[1:4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        tls = self.server.server_address[1] == 8443
        connection = context.wrap_socket(self.request, server_side=True) if tls else self.request
        connection.sendall(name.encode() + b"\\n")
        connection.recv(10)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer.daemon_threads = True
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 100
for port in (3306, 8443):
    threading.Thread(target=Server(("0.0.0.0", port), Handler).serve_forever).start()
"""
CLIENT = """
import socket, ssl, sys
address, port, count, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for _ in range(count):
    try:
        with socket.create_connection((address, port), timeout=5) as plain:
            spoken = context.wrap_socket(plain, server_hostname=name) if name else plain
            print(spoken.makefile().readline().strip() or "closed")
    except OSError as error:
        print("closed" if isinstance(error, (ConnectionError, ssl.SSLError)) else type(error).__name__)
"""
SUBSETS = "".join(
    f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {host}}}
spec: {{host: {host}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
"""
    for host in ("mysql", "secure")
)


class Site:
    """The hosts, and connections from the calling one."""

    def __init__(self, folder: Path, hosts: dict[str, Host]) -> None:
        self._folder, self._hosts = folder, hosts
        self.client = hosts["client"]

    @contextmanager
    def following(self, rules: str, role: str = "", listening: int = 15001) -> Iterator[str]:
        """Run the calling host's Envoy with these rules; yields what rendering said."""
        (self._folder / "rules.yaml").write_text(SUBSETS + rules)
        (self._folder / "catalog.yaml").write_text(role + _catalog(self._hosts))
        config = self._folder / "client.json"
        command = ["render", "--catalog", str(self._folder / "catalog.yaml"), "--node", "client"]
        result = CliRunner().invoke(cli, [*command, "-f", str(self._folder / "rules.yaml"), "-o", str(config)])
        assert result.exit_code == 0, result.output
        arguments = ("--disable-hot-restart", "--concurrency", "1", "-l", "warning")
        with self.client.running(ENVOY, "-c", config, *arguments):
            wait_for(lambda: f":{listening} " in self.client.run("ss", "-Hltn").stdout)
            yield result.output

    def answers(self, service: str, port: int, count: int = 3, name: str = "", *, v6: bool = False) -> Counter[str]:
        """Return who answered so many connections to the service's virtual address."""
        return self.called("client", str(vip(service).v6 if v6 else vip(service).v4), port, count, name)

    def called(self, caller: str, address: str, port: int, count: int = 3, name: str = "") -> Counter[str]:
        """Return who answered so many connections of a host to an address."""
        client = (*PYTHON, CLIENT, address, str(port), str(count), name)
        return Counter(self._hosts[caller].run(*client, uid=USER, timeout=60).stdout.split())

    @contextmanager
    def capturing_all(self) -> Iterator[None]:
        """Capture every connection of the calling host until the block ends."""
        try:
            self.capture(OutboundMode.ALL)
            yield
        finally:
            self.capture(OutboundMode.MESH)

    def capture(self, mode: OutboundMode) -> None:
        """Apply interception to the calling host."""
        text = ruleset(NetfilterOptions(proxy_uid=0, service_cidr_v4=V4, service_cidr_v6=V6, outbound=mode))
        asyncio.run(interception(self.client).apply(text.v4, text.v6))


def vip(service: str) -> Vip:
    """Return the virtual addresses that rendering gives a service."""
    keys = [ServiceKey("" if "." in name else "default", name) for name in ("page", "mysql", "secure", *OUTSIDE)]
    return allocate({}, keys, V4, V6)[ServiceKey("" if "." in service else "default", service)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("connections")
    secret = TestAuthority().write_secret(folder / "secret", "a.example.com")
    with lan("client", "one", "two", default_route=True) as hosts, ExitStack() as stack:
        for version, name in (("v1", "one"), ("v2", "two")):
            files = (str(secret / "tls.crt"), str(secret / "tls.key"))
            stack.enter_context(hosts[name].running(*PYTHON, SERVERS, version, *files, stderr=subprocess.DEVNULL))
            listening = lambda host=hosts[name]: host.run("ss", "-Hltn").stdout.count("0.0.0.0:") >= 4  # noqa: E731
            wait_for(listening)
        made = Site(folder, hosts)
        made.capture(OutboundMode.MESH)
        yield made


def _catalog(hosts: dict[str, Host]) -> str:
    instances = "[{node: one, labels: {version: v1}}, {node: two, labels: {version: v2}}]"
    return f"""
mesh: {{mtls: disabled}}
nodes: [{", ".join(f"{{name: {name}, address: {host.v4}}}" for name, host in hosts.items())}]
services:
- {{name: page, ports: [{{port: {CALLER}}}], instances: [{{node: client, labels: {{app: page}}}}]}}
- {{name: mysql, ports: [{{name: mysql, port: {MYSQL}}}], instances: {instances}}}
- {{name: secure, ports: [{{name: tls, port: {TLS}}}], instances: {instances}}}
"""


def route_rule(name: str, precedence: int, match: str, route: str, service: str = "mysql") -> str:
    return f"""
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {{name: {name}}}
spec: {{destination: {{name: {service}}}, precedence: {precedence}, match: {match}, route: {route}}}
"""


def virtual_service(hosts: str, routes: str) -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: connections}}
spec: {{hosts: {hosts}, {routes}}}
"""


def to(version: str, service: str = "mysql") -> str:
    return f"route: [{{destination: {{host: {service}, subset: {version}}}}}]"


OLD_SPLIT = "[{labels: {version: v1}, weight: 80}, {labels: {version: v2}, weight: 20}]"
NEW_SPLIT = (
    "route: [{destination: {host: mysql, subset: v1}, weight: 80},"
    " {destination: {host: mysql, subset: v2}, weight: 20}]"
)


@pytest.mark.parametrize(
    "rules",
    [route_rule("split", 1, "{}", OLD_SPLIT), virtual_service("[mysql]", f"tcp: [{{{NEW_SPLIT}}}]")],
    ids=["RouteRule", "VirtualService"],
)
def test_a_database_is_split_by_weight(site: Site, rules: str) -> None:
    with site.following(rules):
        found = site.answers("mysql", MYSQL, CONNECTIONS)
        assert found.total() == found["v1"] + found["v2"] == CONNECTIONS
        assert abs(found["v1"] - 0.8 * CONNECTIONS) <= SIGMAS * math.sqrt(CONNECTIONS * 0.8 * 0.2), found
        by_v6 = site.answers("mysql", MYSQL, 40, v6=True)
        assert set(by_v6) == {"v1", "v2"}


ELSEWHERE, HERE = "192.0.2.0/24", "10.77.0.0/24"


@pytest.mark.parametrize(
    ("destination", "source", "winner"),
    [
        (str(V4), None, "v2"),
        (ELSEWHERE, None, "v1"),
        (None, HERE, "v2"),
        (None, ELSEWHERE, "v1"),
        (str(V4), HERE, "v2"),
    ],
)
def test_rules_with_subnets_hold_in_order(site: Site, destination: str | None, source: str | None, winner: str) -> None:
    old = {"destinationSubnet": destination, "sourceSubnet": source}
    match = ", ".join(f"{key}: [{value}]" for key, value in old.items() if value)
    rules = route_rule("all", 1, "{}", "[{labels: {version: v1}}]")
    rules += route_rule("some", 2, f"{{tcp: {{{match}}}}}", "[{labels: {version: v2}}]")
    with site.following(rules):
        assert set(site.answers("mysql", MYSQL)) == {winner}
    new = [f"destinationSubnets: [{destination}]"] * bool(destination) + [f"sourceSubnet: {source}"] * bool(source)
    tcp = f"tcp: [{{match: [{{{', '.join(new)}}}], {to('v2')}}}, {{{to('v1')}}}]"
    with site.following(virtual_service("[mysql]", tcp)):
        assert set(site.answers("mysql", MYSQL)) == {winner}


def test_precedence_and_callers_decide_whole_connections(site: Site) -> None:
    theirs = "{source: {name: page, labels: {app: page}}}"
    others = "{source: {name: other}}"
    low = route_rule("low", 1, "{}", "[{labels: {version: v1}}]")
    with site.following(low + route_rule("high", 2, theirs, "[{labels: {version: v2}}]")):
        assert set(site.answers("mysql", MYSQL)) == {"v2"}
    with site.following(low + route_rule("high", 2, others, "[{labels: {version: v2}}]")):
        assert set(site.answers("mysql", MYSQL)) == {"v1"}
    match = "match: [{sourceLabels: {app: page}, port: 3306}]"
    with site.following(virtual_service("[mysql]", f"tcp: [{{{match}, {to('v2')}}}, {{{to('v1')}}}]")):
        assert set(site.answers("mysql", MYSQL)) == {"v2"}


def test_tls_within_the_mesh_goes_by_server_name(site: Site) -> None:
    first = f"{{match: [{{sniHosts: [a.example.com], port: {TLS}}}], {to('v1', 'secure')}}}"
    second = f'{{match: [{{sniHosts: ["*.example.com"]}}], {to("v2", "secure")}}}'
    hosts = '[secure, "*.example.com"]'
    with site.following(virtual_service(hosts, f"tls: [{first}, {second}]")):
        assert site.answers("secure", TLS, name="a.example.com") == {"v1": 3}
        assert site.answers("secure", TLS, name="A.EXAMPLE.com", v6=True) == {"v1": 3}
        assert site.answers("secure", TLS, name="b.example.com") == {"v2": 3}
        assert site.answers("secure", TLS, name="example.org") == {"closed": 3}
    with site.following(virtual_service(hosts, f"tls: [{second}, {first}]")):
        assert site.answers("secure", TLS, name="a.example.com") == {"v2": 3}, "the first route that holds"


def test_tls_without_a_route_goes_to_all_instances(site: Site) -> None:
    with site.following(""):
        assert set(site.answers("secure", TLS, 20, name="example.org")) == {"v1", "v2"}


def test_what_a_virtual_service_has_no_tcp_route_for_goes_to_all_instances(site: Site) -> None:
    with site.following(virtual_service("[mysql]", f"tcp: [{{match: [{{port: 1}}], {to('v1')}}}]")):
        assert set(site.answers("mysql", MYSQL, 20)) == {"v1", "v2"}
    gone = "{route: [{destination: {host: gone}}], match: [{destinationSubnets: [240.240.0.0/16]}]}"
    with site.following(virtual_service("[mysql]", f"tcp: [{gone}, {{{to('v1')}}}]")) as said:
        assert "service gone is not in the catalog" in said
        assert site.answers("mysql", MYSQL) == {"closed": 3}
        assert site.answers("mysql", MYSQL, v6=True) == {"v1": 3}


def outside(name: str, address: str, port: int = TLS, protocol: str = "TLS") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: outside-{name}}}
spec:
  hosts: [{name}.example.com]
  resolution: STATIC
  endpoints: [{{address: {address}}}]
  ports: [{{number: {port}, name: outside, protocol: {protocol}}}]
"""


FOR_A = f"match: [{{sniHosts: [a.example.com], port: {TLS}}}]"
CROSSED = virtual_service("[a.example.com]", f"tls: [{{{FOR_A}, route: [{{destination: {{host: b.example.com}}}}]}}]")
BOTH_OUTSIDE = outside("a", "10.77.0.2") + outside("b", "10.77.0.3")


def test_a_host_outside_goes_where_its_tls_route_says(site: Site) -> None:
    with site.following(BOTH_OUTSIDE):
        assert site.answers("a.example.com", TLS, name="a.example.com") == {"v1": 3}
    with site.following(BOTH_OUTSIDE + CROSSED):
        assert site.answers("a.example.com", TLS, name="a.example.com") == {"v2": 3}
        assert site.answers("a.example.com", TLS, name="b.example.com") == {"closed": 3}
        assert site.answers("b.example.com", TLS, name="b.example.com") == {"v2": 3}


def test_a_database_outside_is_moved_into_the_mesh_by_a_tcp_route(site: Site) -> None:
    database = outside("db", "10.77.0.2", MYSQL, "TCP")
    with site.following(database):
        assert site.answers("db.example.com", MYSQL) == {"v1": 3}
    with site.following(database + virtual_service("[db.example.com]", f"tcp: [{{{to('v2')}}}]")):
        assert site.answers("db.example.com", MYSQL) == {"v2": 3}


def test_a_server_name_is_routed_whatever_the_address_where_all_is_captured(site: Site) -> None:
    with site.capturing_all(), site.following(BOTH_OUTSIDE + CROSSED, role="interception: {outbound: all}\n"):
        assert site.called("client", "10.77.0.2", TLS, name="a.example.com") == {"v2": 3}
        assert site.called("client", "10.77.0.3", TLS, name="example.org") == {"v2": 3}, "unknown names pass"
        assert site.called("client", "10.77.0.2", TLS, name="example.org") == {"v1": 3}


GATEWAY = f"""
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  servers:
  - {{port: {{number: {MYSQL}, name: tcp, protocol: TCP}}, hosts: ["*"]}}
  - {{port: {{number: {TLS}, name: tls, protocol: TLS}}, hosts: ["*.example.com"], tls: {{mode: PASSTHROUGH}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edge}}
spec:
  hosts: ["*.example.com", mysql]
  gateways: [edge, mesh]
  tcp:
  - match: [{{port: {MYSQL}, sourceSubnet: 10.77.0.2/32, gateways: [edge]}}]
    {to("v2")}
  - match: [{{port: {MYSQL}}}]
    {to("v1")}
  tls:
  - match: [{{sniHosts: ["*.example.com"], destinationSubnets: [192.0.2.0/24]}}, {{sniHosts: [a.example.com]}}]
    {to("v1", "secure")}
  - match: [{{sniHosts: ["*.example.com"]}}]
    {to("v2", "secure")}
"""


def test_one_virtual_service_for_the_mesh_and_a_gateway(site: Site) -> None:
    """The gateway tells clients by their own address; in the mesh the first route is not for anybody."""
    address = site.client.v4
    with site.following(GATEWAY, role="role: gateway\n", listening=MYSQL):
        assert site.called("one", address, MYSQL) == {"v2": 3}
        assert site.called("two", address, MYSQL) == {"v1": 3}
        assert site.called("one", address, TLS, name="a.example.com") == {"v1": 3}
        assert site.called("one", address, TLS, name="b.example.com") == {"v2": 3}
        assert site.called("one", address, TLS, name="example.org") == {"closed": 3}
    with site.following(GATEWAY):
        assert site.answers("mysql", MYSQL) == {"v1": 3}
