"""The hosts file and dnsmasq's configuration as text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip
from agent.translate.dns import DnsmasqOptions, beside_options, dnsmasq_conf, hosts_file
from tests.golden.compare import assert_golden

SERVICES = [
    ServiceKey("default", "reviews"),
    ServiceKey("default", "ratings"),
    ServiceKey("shop", "reviews"),
    ServiceKey("shop", "cart"),
    ServiceKey("default", "Catalog"),
]
VIPS = {
    key: Vip(IPv4Address("240.240.0.1") + number, IPv6Address("fdf0:240:240::1") + number)
    for number, key in enumerate(SERVICES)
}


def test_hosts_file() -> None:
    assert_golden("dns/hosts-default", hosts_file(SERVICES, VIPS, "default"))


def test_hosts_file_as_another_namespace_sees_it() -> None:
    assert_golden("dns/hosts-shop", hosts_file(SERVICES, VIPS, "shop"))


def test_drop_in() -> None:
    assert_golden("dns/drop-in.conf", dnsmasq_conf(DnsmasqOptions()))


def test_beside_another_name_server() -> None:
    resolved = "/run/systemd/resolve/resolv.conf"
    assert_golden("dns/beside.conf", dnsmasq_conf(beside_options("/var/lib/hostmesh/dns", resolved)))


def test_stand_alone() -> None:
    options = DnsmasqOptions(
        hosts_dir="/tmp/lab/dns", consul_dns=("10.0.0.1", 8601), listen=("127.0.0.1", "::1"), upstreams=("10.0.0.254",)
    )
    assert_golden("dns/stand-alone.conf", dnsmasq_conf(options))
