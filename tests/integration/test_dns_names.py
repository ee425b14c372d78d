"""The names that real dnsmasq answers from the hosts file, beside a real Consul: at once, locally, and gone at once."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.adapters.dns.hosts import HostsFile
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip
from agent.mesh.vips import allocate
from agent.translate.dns import DnsmasqOptions, dnsmasq_conf, hosts_file
from tests.integration.dnsquery import Answer, ask
from tests.integration.netns import Host, lan
from tests.waiting import wait_for

UPSTREAMS_OWN = ("--bind-interfaces", "--no-resolv", "--no-hosts", "--address=/example/93.184.216.34", "--local=/test/")
V4, V6 = IPv4Network("240.240.0.0/16"), IPv6Network("fdf0:240:240::/112")
REVIEWS, RATINGS, LATE = (ServiceKey("default", name) for name in ("reviews", "ratings", "late"))
VIPS = allocate({}, (REVIEWS, RATINGS, LATE), V4, V6)
CONSUL = {
    "node_name": "lab",
    "dns_config": {"soa": {"min_ttl": 600}},  # so that dnsmasq keeps the names that don't exist
    "recursors": ["127.0.0.1"],  # Consul asks the host's own dnsmasq, which asks Consul: it must not go round
    "services": [
        {"name": name, "id": name, "address": address, "port": 9080, "tags": ["v1"]}
        for name, address in (("reviews", "10.0.0.5"), ("billing", "10.0.0.6"), ("shop", "shop.example"))
    ],
}
OTHER_DATACENTER = {
    "datacenter": "dc2",
    "node_name": "far",
    "bind_addr": "127.0.0.2",
    "client_addr": "127.0.0.2",
    "retry_join_wan": ["127.0.0.1"],
    "retry_interval_wan": "1s",
    "services": [{"name": "reviews", "id": "reviews", "address": "10.2.0.5", "port": 9081, "tags": ["v2"]}],
}
UPSTREAM = "127.0.0.9"
OPERATORS = f"""
# An operator's own drop-in, from before there was a mesh.
no-resolv
bind-interfaces
listen-address=127.0.0.1
server={UPSTREAM}
server=/consul/127.0.0.1#8600
rev-server=10.0.0.0/8,127.0.0.1#8600
domain-needed
bogus-priv
stop-dns-rebind
cache-size=1000
"""


@dataclass(frozen=True)
class NameServer:
    """A host with dnsmasq and Consul, and its hosts file."""

    host: Host
    hosts: HostsFile
    consul_pid: int
    upstream_pid: int
    log: Path

    def write(self, *services: ServiceKey) -> None:
        """Put the names of these services on the host."""
        self.hosts.write(hosts_file(services, VIPS, "default"))

    def ask(self, name: str, kind: str = "A", timeout: float = 1.0) -> Answer:
        """Ask this host's dnsmasq."""
        return ask(self.host, (name, kind), timeout=timeout)[0]


@pytest.fixture(scope="module", params=["dnsmasq of its own", "an operator's dnsmasq"])
def server(request: pytest.FixtureRequest) -> Iterator[NameServer]:
    with lan("host") as hosts, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # dnsmasq reads as its own user
        host = hosts["host"]
        hosts_file = HostsFile(folder / "dns")
        hosts_file.prepare()
        (folder / "conf").mkdir()
        options = DnsmasqOptions(hosts_dir=str(folder / "dns"))
        if request.param == "an operator's dnsmasq":
            (folder / "conf/consul.conf").write_text(OPERATORS)
        else:
            options = replace(options, listen=("127.0.0.1",), upstreams=(UPSTREAM,))
        (folder / "conf/hostmesh.conf").write_text(dnsmasq_conf(options))
        with (
            running_dnsmasq(host, folder, f"--listen-address={UPSTREAM}", *UPSTREAMS_OWN, name="upstream") as upstream,
            running_dnsmasq(host, folder, f"--conf-dir={folder}/conf", "--log-queries", name="dnsmasq"),
            running_consul(host, folder) as consul,
        ):
            yield NameServer(host, hosts_file, consul, upstream, folder / "dnsmasq.log")


@contextmanager
def running_consul(host: Host, folder: Path) -> Iterator[int]:
    (folder / "consul.json").write_text(json.dumps(CONSUL))
    with (folder / "consul.log").open("wb") as log:
        arguments = ("agent", "-dev", "-log-level=warn", f"-config-file={folder}/consul.json")
        with host.running("consul", *arguments, stdout=log, stderr=log) as process:
            catalog = ("curl", "-s", "http://127.0.0.1:8500/v1/catalog/service/billing")
            wait_for(lambda: "10.0.0.6" in host.run(*catalog, check=False).stdout, timeout=20)
            yield process.pid


@contextmanager
def running_dnsmasq(host: Host, folder: Path, *arguments: str, name: str) -> Iterator[int]:
    """Run dnsmasq with these arguments until the end of the block; its pid."""
    usual = ("--keep-in-foreground", "--log-facility=-", "--pid-file=", "--conf-file=/dev/null")
    with (
        (folder / f"{name}.log").open("wb") as log,
        host.running("dnsmasq", *usual, *arguments, stdout=log, stderr=log) as process,
    ):
        address = UPSTREAM if name == "upstream" else "127.0.0.1"
        wait_for(lambda: f"{address}:53" in host.run("ss", "-Hlun").stdout, (folder / f"{name}.log").read_text())
        yield process.pid


@contextmanager
def hanging(*pids: int) -> Iterator[None]:
    """Stop processes for the length of the block: their ports are there, and nothing answers."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def addresses(key: ServiceKey) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return (str(VIPS[key].v4),), (str(VIPS[key].v6),)


def test_names_come_and_go_within_two_seconds(server: NameServer) -> None:
    v4, v6 = addresses(REVIEWS)
    for _ in range(2):
        server.write(REVIEWS, RATINGS)
        wait_for(lambda: server.ask("reviews").values == v4, timeout=2)
        for name in ("reviews", "reviews.default", "reviews.default.svc.cluster.local", "Reviews.service.consul"):
            assert (server.ask(name).values, server.ask(name, "AAAA").values) == (v4, v6)
        server.write(RATINGS)
        wait_for(lambda: server.ask("reviews").values == (), timeout=2)
        assert server.ask("reviews", "AAAA").values == ()
        assert server.ask("ratings").values == addresses(RATINGS)[0]
        server.hosts.clear()
        wait_for(lambda: server.ask("ratings").values == (), timeout=2)


def test_a_changed_address_replaces_the_old_one(server: NameServer) -> None:
    server.write(REVIEWS)
    wait_for(lambda: server.ask("reviews").values == addresses(REVIEWS)[0], timeout=2)
    moved = {REVIEWS: Vip(IPv4Address("240.240.9.9"), IPv6Address("fdf0:240:240::99"))}
    server.hosts.write(hosts_file([REVIEWS], moved, "default"))
    wait_for(lambda: server.ask("reviews").values == ("240.240.9.9",), timeout=2)
    assert server.ask("reviews", "AAAA").values == ("fdf0:240:240::99",)


def test_a_name_that_did_not_exist_before(server: NameServer) -> None:
    """Consul's "no such name" is cached by dnsmasq for ten minutes; the hosts file wins all the same."""
    server.write(RATINGS)
    for kind in ("A", "AAAA"):
        assert server.ask("late.service.consul", kind).code == 3
    with hanging(server.consul_pid):
        assert server.ask("late.service.consul").code == 3, "it is cached"
    server.write(RATINGS, LATE)
    v4, v6 = addresses(LATE)
    wait_for(lambda: server.ask("late.service.consul").values == v4, timeout=2)
    assert server.ask("late.service.consul", "AAAA").values == v6


def test_everything_else_under_consul_is_consuls(server: NameServer) -> None:
    server.write(REVIEWS)
    wait_for(lambda: server.ask("reviews.service.consul").values == addresses(REVIEWS)[0], timeout=2)
    srv = server.ask("reviews.service.consul", "SRV").values
    assert len(srv) == 1
    assert srv[0].startswith("9080 ")
    assert server.ask("v1.reviews.service.consul").values == ("10.0.0.5",)
    assert server.ask("reviews.service.dc1.consul").values == ("10.0.0.5",)
    assert server.ask("billing.service.consul").values == ("10.0.0.6",)
    assert server.ask("lab.node.consul").values == ("127.0.0.1",)
    assert server.ask("nothing.service.consul").code == 3
    assert server.ask("reviews.service.dc3.consul").code in (2, 3), "Consul knows no such datacenter, and says so"
    assert server.ask("outside.example").values == ("93.184.216.34",)
    assert server.ask("shop.service.consul").values == ("93.184.216.34",), "Consul asks for the name that it has"
    assert server.ask("nothing.test").code == 3


def test_names_of_another_datacenter_are_consuls(server: NameServer, tmp_path: Path) -> None:
    """A second Consul, joined to the first over the WAN, has a service of the same name."""
    server.write(REVIEWS)
    (tmp_path / "far.json").write_text(json.dumps(OTHER_DATACENTER))
    arguments = ("agent", "-dev", "-log-level=warn", f"-config-file={tmp_path}/far.json")
    with (tmp_path / "far.log").open("wb") as log, server.host.running("consul", *arguments, stdout=log, stderr=log):
        # Not by DNS: that there is none yet would be cached.
        there = ("curl", "-s", "http://127.0.0.1:8500/v1/catalog/service/reviews?dc=dc2")
        wait_for(lambda: "10.2.0.5" in server.host.run(*there, check=False).stdout, "dc2 is known", 60, 0.3)
        assert server.ask("reviews.service.dc2.consul").values == ("10.2.0.5",)
        assert server.ask("v2.reviews.service.dc2.consul").values == ("10.2.0.5",)
        assert server.ask("reviews.service.dc2.consul", "SRV").values[0].startswith("9081 ")
        assert server.ask("far.node.dc2.consul").values == ("127.0.0.2",)
        assert server.ask("reviews.service.dc1.consul").values == ("10.0.0.5",)
        wait_for(lambda: server.ask("reviews.service.consul").values == addresses(REVIEWS)[0], timeout=2)


def test_no_question_goes_round(server: NameServer) -> None:
    """Consul's recursor is the host's dnsmasq, whose server for .consul is Consul."""
    server.write(REVIEWS)
    before = server.log.read_text().count("query[")
    asked = ("reviews", "unknown", "unknown.default", "unknown.service.consul", "unknown.consul", "shop.service.consul")
    for name in asked:
        for kind in ("A", "AAAA", "SRV"):
            server.ask(name, kind)
    # Each once by us, and what Consul asks for an address that is a name, itself.
    assert server.log.read_text().count("query[") - before <= 2 * 3 * len(asked)


def test_mesh_names_are_answered_while_consul_and_the_upstream_hang(server: NameServer) -> None:
    """No agent runs here at all, so it is as if it were dead."""
    server.write(REVIEWS)
    wait_for(lambda: server.ask("reviews.service.consul").values == addresses(REVIEWS)[0], timeout=2)
    with hanging(server.consul_pid, server.upstream_pid):
        assert server.ask("other.service.consul", timeout=0.3).code == -1, "Consul does hang"
        assert server.ask("other.example", timeout=0.3).code == -1, "the upstream does hang"
        for name in ("reviews", "reviews.default", "reviews.service.consul", "reviews.default.svc.cluster.local"):
            for kind, values in zip(("A", "AAAA"), addresses(REVIEWS), strict=True):
                answer = server.ask(name, kind)
                assert answer.values == values
                assert answer.seconds < 0.2
        server.write(REVIEWS, RATINGS)
        started = time.monotonic()
        wait_for(lambda: server.ask("ratings").values == addresses(RATINGS)[0], timeout=2)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "first", ["search corp.example\noptions ndots:0", "search default.svc.cluster.local corp.example"]
)
def test_names_of_one_label_beside_a_search_list(server: NameServer, tmp_path: Path, first: str) -> None:
    """As docs/names.md says it: what comes of the list's own domain, whose DNS hangs, is not waited for."""
    server.write(REVIEWS)
    wait_for(lambda: server.ask("reviews").values == addresses(REVIEWS)[0], timeout=2)
    (tmp_path / "resolv.conf").write_text(f"{first}\nnameserver 127.0.0.1\n")
    look = f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf && timeout 4 getent ahostsv4 reviews"
    with hanging(server.consul_pid, server.upstream_pid):
        done = server.host.run("unshare", "--mount", "sh", "-c", look)
    assert done.stdout.split()[0] == addresses(REVIEWS)[0][0]


def test_two_thousand_services(server: NameServer) -> None:
    keys = [ServiceKey("default", f"service-{number}") for number in range(2000)]
    vips = allocate({}, keys, V4, V6)
    server.hosts.write(hosts_file(keys, vips, "default"))
    wait_for(lambda: server.ask("service-1999").values == (str(vips[keys[1999]].v4),), timeout=5)
    server.hosts.clear()
    wait_for(lambda: server.ask("service-1999").values == (), timeout=5)
