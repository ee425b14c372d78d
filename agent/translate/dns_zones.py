"""Which names another name server of this host leaves to the mesh's dnsmasq, and how it is told. Pure text.

Names of one label, as programs ask for `reviews`, can't be left to anybody as a zone: the search list makes them
`reviews.default.svc.cluster.local`, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from agent.mesh.names import DEFAULT_NAMESPACE
from agent.translate.dns import BESIDE_PORT

CLUSTER = "svc.cluster.local"


class Zones(Struct, frozen=True):
    """What is the mesh's; both are empty while the mesh has no names here."""

    routed: tuple[str, ...] = ()
    """Zones, and single hosts outside that rules name."""
    search: tuple[str, ...] = ()
    """Zones in which a name of one label is looked for, in this order."""


def zones(hosts: str) -> Zones:
    """Return the zones of the names in a hosts file (`translate.dns.hosts_file`).

    The namespaces are searched in the order that gives a name of one label the service that has it in the hosts file.
    """
    namespaces: dict[str, bool] = {}
    """Whether a service of the namespace left its short name to that of another one."""
    outside: set[str] = set()
    for line in hosts.splitlines():
        names = line.partition("#")[0].split()[1:]
        full = next((name for name in names if name.endswith(f".{CLUSTER}")), None)
        if full is None:
            outside.update(names)
            continue
        label, namespace = full.removesuffix(f".{CLUSTER}").split(".", 1)
        namespaces[namespace] = namespaces.get(namespace, False) or label not in names
    if not namespaces and not outside:
        return Zones()
    ordered = sorted(namespaces, key=lambda name: (namespaces[name], name != DEFAULT_NAMESPACE, name))
    return Zones(
        ("consul", CLUSTER, *sorted(namespaces), *sorted(outside)), tuple(f"{name}.{CLUSTER}" for name in ordered)
    )


def unbound_conf(found: Zones) -> str:
    """Return what unbound includes to ask the mesh's dnsmasq."""
    lines = [
        *_head("#", found),
        "server:",
        "    do-not-query-localhost: no",
        *(f'    domain-insecure: "{zone}"' for zone in found.routed),
    ]
    for zone in found.routed:
        lines += ["forward-zone:", f'    name: "{zone}."', f"    forward-addr: 127.0.0.1@{BESIDE_PORT}"]
    return "\n".join([*lines, ""])


def bind_conf(found: Zones) -> str:
    """Return what bind's named.conf includes to ask the mesh's dnsmasq."""
    insecure = " ".join(f'"{zone}";' for zone in found.routed)
    lines = [*_head("//", found), f"// In `options`: validate-except {{ {insecure} }};"]
    for zone in found.routed:
        forwarders = f"forwarders {{ 127.0.0.1 port {BESIDE_PORT}; }};"
        lines.append(f'zone "{zone}" {{ type forward; forward only; {forwarders} }};')
    return "\n".join([*lines, ""])


FORWARDERS: Mapping[str, Callable[[Zones], str]] = {"unbound": unbound_conf, "bind": bind_conf}


def _head(comment: str, found: Zones) -> tuple[str, ...]:
    return (
        f"{comment} Written by `hostmesh dns forward`: the mesh's names are the dnsmasq's of hostmesh-dns.service.",
        f"{comment} Beside it, for names of one label, in /etc/resolv.conf: search {' '.join(found.search)}",
    )
