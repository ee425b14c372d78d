"""Mesh names for dnsmasq: the hosts file with the virtual addresses, and dnsmasq's own configuration. Pure text.

May not put a name on the host that a catalog entry chose freely: only names of one valid label in a namespace that is
one valid label get in. Hosts outside, which operators' rules name, get in whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache

from msgspec import Struct

from agent.flow.ordered import Ordered
from agent.flow.table import changed_keys
from agent.mesh.names import hosts_by_service
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip

HEADER = "# Written by hostmesh-agent; always replaced whole. Mesh names and their virtual addresses.\n"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED = frozenset({"localhost", "localdomain", "local", "ip6-localhost", "ip6-loopback", "broadcasthost", "wpad"})
"""Single names that programs believe in without asking whose they are (RFC 6761; wpad hands out proxy settings)."""


BESIDE_PORT = 15053
"""Of a dnsmasq of the mesh's own on 127.0.0.1, where another program has port 53 (Istio's DNS proxy has this one)."""

Lines = tuple[tuple[str, str], str]
"""What of the hosts file is about one service, after what it is ordered by."""


class DnsmasqOptions(Struct, frozen=True):
    """What dnsmasq's configuration depends on. Without `listen` it is a drop-in beside the host's own configuration."""

    hosts_dir: str = "/var/lib/hostmesh/dns"
    consul_dns: tuple[str, int] = ("127.0.0.1", 8600)
    listen: tuple[str, ...] = ()
    """Addresses; given, the text is a complete configuration that reads nothing else of the machine."""
    port: int = 53
    upstreams: tuple[str, ...] = ()
    """Servers for all other names (with `listen`); none: such names don't exist."""
    resolv_file: str = ""
    """With `listen`: the file that names such servers, followed as it changes."""
    local: tuple[str, ...] = ()
    """Domains that have the names of the hosts file and no others."""


def hosts_file(services: Collection[ServiceKey], vips: Mapping[ServiceKey, Vip], namespace: str) -> str:
    """Return the hosts file: each service's names, as seen from this namespace, with its IPv4 and IPv6 address.

    A service without an address, or whose name or namespace is not a DNS label (RFC 1123), is left out.
    """
    return HostsFile().text({"": host_lines(services, vips, namespace)})


def host_lines(services: Collection[ServiceKey], vips: Mapping[ServiceKey, Vip], namespace: str) -> tuple[Lines, ...]:
    """Return the lines of the hosts file about these services; no other one may have a name that begins alike."""
    nameable = _nameable(services)
    return tuple(
        ((key.namespace, key.name), _lines(vip, names))
        for key, names in hosts_by_service(nameable, namespace.lower()).items()
        if (vip := vips.get(nameable[key]))
    )


class HostsFile:
    """The text of lines that come in groups: made anew where they have changed, and put together from the rest."""

    def __init__(self) -> None:
        self._groups: Mapping[str, tuple[Lines, ...]] = {}
        self._lines: Ordered[tuple[str, str], str] = Ordered()
        self._text = HEADER

    def text(self, groups: Mapping[str, tuple[Lines, ...]]) -> str:
        """Return the hosts file of all these lines; the same object as long as they are the same."""
        before, self._groups = self._groups, groups
        changed = changed_keys(before, groups)
        if changed:
            gone = {place: None for group in changed for place, _ in before.get(group, ())}
            now = {place: text for group in changed for place, text in groups.get(group, ())}
            self._lines = self._lines.with_changes({**gone, **now})
            self._text = HEADER + "".join([block.made(_joined) for block in self._lines.blocks])
        return self._text


def _joined(texts: tuple[str, ...]) -> str:
    return "".join(texts)


def beside_options(hosts_dir: str, resolv_file: str) -> DnsmasqOptions:
    """Return the options of a dnsmasq that another name server of this host asks for the mesh's zones.

    What it doesn't know it asks the servers of that file (`""`: nobody), among which the one that asks may not be.
    """
    return DnsmasqOptions(
        hosts_dir=hosts_dir,
        listen=("127.0.0.1",),
        port=BESIDE_PORT,
        resolv_file=resolv_file,
        local=("svc.cluster.local",),
    )


def dnsmasq_conf(options: DnsmasqOptions) -> str:
    """Return the drop-in for /etc/dnsmasq.d, or with `listen` a complete configuration.

    No `local-ttl` and no `no-negcache`: they would change the host's other names too, and names of a hosts file
    have TTL 0 and win over cached answers by themselves.
    """
    address, port = options.consul_dns
    lines = [
        "# Written by hostmesh: mesh names come from the hosts file in this folder, re-read by itself when it changes,",
        "# all else under .consul from Consul.",
        f"hostsdir={options.hosts_dir}",
        f"server=/consul/{address}#{port}",
        "# Consul answers with private addresses; stop-dns-rebind, if the host has it, shall let them through.",
        "rebind-domain-ok=/consul/",
        *(f"local=/{domain}/" for domain in options.local),
    ]
    return "\n".join([*(_stand_alone(options) if options.listen else ()), *lines, ""])


def _nameable(services: Collection[ServiceKey]) -> dict[ServiceKey, ServiceKey]:
    """Return the services that may have names, by their key in lower case, as DNS has it.

    Of two that differ by case only, the first in order.
    """
    by_name: dict[ServiceKey, ServiceKey] = {}
    for key in sorted(services):
        lower = ServiceKey(key.namespace.lower(), key.name.lower())
        if lower.name not in _RESERVED and (_is_host(lower.name) if key.is_outside else _is_service(lower)):
            by_name.setdefault(lower, key)
    return by_name


# A new service changes the whole file, but only by its own lines: Python takes 5 µs to write out an IPv6 address.
@lru_cache(maxsize=65_536)
def _lines(vip: Vip, names: tuple[str, ...]) -> str:
    text = " ".join(names)
    return f"{vip.v4} {text}\n{vip.v6} {text}\n"


def _is_service(key: ServiceKey) -> bool:
    return bool(_LABEL.fullmatch(key.name) and _LABEL.fullmatch(key.namespace))


def _is_host(name: str) -> bool:
    return all(_LABEL.fullmatch(label) for label in name.split("."))


def _stand_alone(options: DnsmasqOptions) -> list[str]:
    return [
        *(f"listen-address={address}" for address in options.listen),
        f"port={options.port}",
        "bind-interfaces",
        f"resolv-file={options.resolv_file}" if options.resolv_file else "no-resolv",
        "no-hosts",
        *(f"server={upstream}" for upstream in options.upstreams),
    ]
