"""Which zones another name server leaves to the mesh, from the hosts file alone."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from agent.mesh.service import ServiceKey
from agent.mesh.vips import allocate
from agent.translate.dns import hosts_file
from agent.translate.dns_zones import Zones, bind_conf, unbound_conf, zones


def of(namespace: str, *keys: ServiceKey) -> Zones:
    vips = allocate({}, keys, IPv4Network("240.240.0.0/16"), IPv6Network("fdf0:240:240::/112"))
    return zones(hosts_file(keys, vips, namespace))


def test_no_names_no_zones() -> None:
    assert of("default") == Zones()
    assert zones("") == Zones()


def test_namespaces_and_outside_hosts_are_routed() -> None:
    found = of("default", ServiceKey("default", "a"), ServiceKey("shop", "b"), ServiceKey("", "www.shop.example"))
    assert found.routed == ("consul", "svc.cluster.local", "default", "shop", "www.shop.example")
    assert found.search == ("default.svc.cluster.local", "shop.svc.cluster.local")


def test_a_short_name_is_searched_first_where_the_hosts_file_has_it() -> None:
    """`a` means the service of the host's own namespace, then of default."""
    both = ServiceKey("default", "a"), ServiceKey("shop", "a")
    assert of("default", *both).search == ("default.svc.cluster.local", "shop.svc.cluster.local")
    assert of("shop", *both).search == ("shop.svc.cluster.local", "default.svc.cluster.local")


def test_name_servers_are_told_every_zone_and_port() -> None:
    found = of("default", ServiceKey("default", "a"))
    for zone in found.routed:
        assert f'name: "{zone}."\n    forward-addr: 127.0.0.1@15053' in unbound_conf(found)
        assert f'domain-insecure: "{zone}"' in unbound_conf(found)
        assert f'zone "{zone}" {{ type forward; forward only; forwarders {{ 127.0.0.1 port 15053; }}; }};' in bind_conf(
            found
        )
