"""Interception as text: what `iptables-restore --noflush` and `ip6tables-restore --noflush` are fed. Pure.

Only chains named HOSTMESH_* are filled here, and each built-in chain concerned gets one jump to its own chain (the
adapter takes out the jumps that are there already). Rules are written as iptables-save prints them, so that what is
live can be compared with what is wanted. Port 22 is never captured, whatever the options say.

What is captured goes in the nat table. The filter table says what happens without: the capture ports take redirected
connections only, virtual addresses answer at once that nobody is there, and (`closed`) the ports of this host's
services refuse other hosts whatever was not redirected. So the filter table alone is a host of which Envoy isn't ready.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from msgspec import Struct

from agent.mesh.ports import DNS_PORT, INBOUND_PORT, NEVER_CAPTURED, OUTBOUND_PORT, SSH_PORT

_MULTIPORT_LIMIT = 15
_SYN = "-m tcp --tcp-flags FIN,SYN,RST,ACK SYN"
"""New connections only: one that is older than the rules (conntrack picks it up midway) must not be cut in two."""


class OutboundMode(StrEnum):
    """Which outbound connections Envoy gets: those to the VIP range (and ranges named beside), all of them, or none."""

    MESH = "mesh"
    ALL = "all"
    NONE = "none"


CALLERS_V4 = IPv4Network("127.128.0.0/9")
CALLERS_V6 = IPv6Network("fdf0:240:241::/96")
"""Source addresses by which Envoy tells whose a captured connection is; they never leave the host."""


class CallerSource(Struct, frozen=True, order=True):
    """A Unix user whose captured connections have an identity of their own, which Envoy knows by their source."""

    uid: int

    @property
    def v4(self) -> IPv4Address:
        """Return the IPv4 source address."""
        return CALLERS_V4[self.uid % CALLERS_V4.num_addresses]

    @property
    def v6(self) -> IPv6Address:
        """Return the IPv6 source address."""
        return CALLERS_V6[self.uid % CALLERS_V6.num_addresses]


class NetfilterOptions(Struct, frozen=True):
    """What the rules depend on."""

    proxy_uid: int
    """Envoy's own user: its connections are not captured."""
    service_cidr_v4: IPv4Network
    service_cidr_v6: IPv6Network
    inbound_ports: tuple[int, ...] = ()
    """TCP ports of the instances on this host that Envoy stands in front of."""
    outbound: OutboundMode = OutboundMode.MESH
    included_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    """Destinations that `mesh` captures beside the service range."""
    excluded_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()
    """Destinations outside the service range that are left alone."""
    included_outbound_ports: tuple[int, ...] = ()
    """Destination ports that `mesh` captures beside the service range, whatever the address."""
    excluded_outbound_ports: tuple[int, ...] = ()
    """Destination ports that are left alone (the service range is captured with all its ports but 22)."""
    excluded_inbound_ports: tuple[int, ...] = ()
    excluded_uids: tuple[int, ...] = ()
    """Further users whose connections are not captured."""
    included_uids: tuple[int, ...] = ()
    """The only users whose connections are captured; none: all are."""
    callers: tuple[CallerSource, ...] = ()
    """Users whose connections have an identity of their own."""
    closed: bool = False
    """Other hosts' connections to the inbound ports that were not redirected to Envoy are refused."""
    never_captured: tuple[int, ...] = ()
    """Ports beside NEVER_CAPTURED, such as Consul's and the agent's where they are not the usual ones."""
    outbound_port: int = OUTBOUND_PORT
    inbound_port: int = INBOUND_PORT


class NetfilterText(Struct, frozen=True):
    """Input of `iptables-restore --noflush` and of `ip6tables-restore --noflush`."""

    v4: str
    v6: str


class _Family(Struct, frozen=True):
    """What differs between IPv4 and IPv6."""

    services: IPv4Network | IPv6Network
    loopback: str
    unreachable: str
    callers: IPv4Network | IPv6Network
    included: tuple[str, ...]
    excluded: tuple[str, ...]


def ruleset(options: NetfilterOptions) -> NetfilterText:
    """Return the rules of both families."""
    v4 = _Family(
        options.service_cidr_v4, "127.0.0.0/8", "icmp-port-unreachable", CALLERS_V4, *_cidrs(options, IPv4Network)
    )
    v6 = _Family(
        options.service_cidr_v6, "::1/128", "icmp6-port-unreachable", CALLERS_V6, *_cidrs(options, IPv6Network)
    )
    return NetfilterText(_text(options, v4), _text(options, v6))


def _text(options: NetfilterOptions, family: _Family) -> str:
    """Return both tables, the guard first: each table is a transaction of its own."""
    nat_jumps = (*_NAT_JUMPS, *([("POSTROUTING", "HOSTMESH_SOURCE")] if options.callers else []))
    return _table("filter", _filter_chains(options, family), _FILTER_JUMPS) + _table(
        "nat", _nat_chains(options, family), nat_jumps
    )


_FILTER_JUMPS = (("INPUT", "HOSTMESH_INPUT"), ("FORWARD", "HOSTMESH_VIP"), ("OUTPUT", "HOSTMESH_VIP"))
_NAT_JUMPS = (("PREROUTING", "HOSTMESH_INBOUND"), ("OUTPUT", "HOSTMESH_OUTPUT"))


def _filter_chains(options: NetfilterOptions, family: _Family) -> dict[str, list[str]]:
    capture_ports = _ports({options.outbound_port, options.inbound_port})[0]
    return {
        # Whoever connects to a capture port directly would borrow this host's identity from Envoy. --ctdir: not the
        # answers to a connection that has such a number as its own source port.
        "HOSTMESH_INPUT": [
            f"-p tcp {capture_ports} -m conntrack ! --ctstate DNAT --ctdir ORIGINAL -j REJECT --reject-with tcp-reset",
            *(_not_redirected(match) for match in _ports(_inbound_ports(options)) if options.closed),
        ],
        # What nat has not sent to Envoy fails at once instead of leaving the host; nat's OUTPUT comes before this.
        "HOSTMESH_VIP": [
            *_impostors(options, family),
            f"-d {family.services} -p tcp -j REJECT --reject-with tcp-reset",
            f"-d {family.services} -j REJECT --reject-with {family.unreachable}",
        ],
    }


def _not_redirected(ports: str) -> str:
    """Return the rule for other hosts' new connections that got past nat: it isn't there yet, or was flushed."""
    return f"! -i lo -p tcp {ports} {_SYN} -m conntrack ! --ctstate DNAT -j REJECT --reject-with tcp-reset"


def _impostors(options: NetfilterOptions, family: _Family) -> list[str]:
    """Return the rule for programs that took another user's source address themselves: nat gives it after this."""
    if not options.callers:
        return []
    captured = f"-o lo -p tcp -m tcp --dport {options.outbound_port} -m conntrack --ctstate DNAT --ctdir ORIGINAL"
    return [f"-s {family.callers} {captured} -j REJECT --reject-with tcp-reset"]


def _nat_chains(options: NetfilterOptions, family: _Family) -> dict[str, list[str]]:
    exempt, captured = _output_exempt(options, family), _output_captured(options, family)
    users = [f"-m owner --uid-owner {uid} -j HOSTMESH_OUT_USERS" for uid in sorted(set(options.included_uids))]
    chains = {
        "HOSTMESH_INBOUND": _inbound(options),
        "HOSTMESH_IN_REDIRECT": [f"-p tcp {_SYN} -j REDIRECT --to-ports {options.inbound_port}"],
        "HOSTMESH_OUTPUT": [*exempt, *(users or captured)],
        "HOSTMESH_OUT_REDIRECT": [f"-p tcp {_SYN} -j REDIRECT --to-ports {options.outbound_port}"],
    }
    if users:
        chains["HOSTMESH_OUT_USERS"] = captured
    if options.callers:
        chains["HOSTMESH_SOURCE"] = _sources(options, family)
    return chains


def _sources(options: NetfilterOptions, family: _Family) -> list[str]:
    """Return the rules that give captured connections of some users a source address of their own."""
    captured = f"-o lo -p tcp -m tcp --dport {options.outbound_port} -m conntrack --ctstate DNAT"
    return [
        f"{captured} -m owner --uid-owner {caller.uid} -j SNAT --to-source "
        f"{caller.v4 if family.services.version == 4 else caller.v6}"
        for caller in sorted(options.callers)
    ]


def _inbound(options: NetfilterOptions) -> list[str]:
    """Return the rules for connections that come in; LOCAL: what this host only forwards is not its own."""
    rules = [f"-p tcp -m tcp --dport {SSH_PORT} -j RETURN"]
    ports = _ports(_inbound_ports(options))
    return rules + [f"-p tcp {match} -m addrtype --dst-type LOCAL -j HOSTMESH_IN_REDIRECT" for match in ports]


def _output_exempt(options: NetfilterOptions, family: _Family) -> list[str]:
    """Return the rules for port 22 and for the proxy itself.

    Envoy's connections to an instance on its own host don't pass PREROUTING; they must get the instance's inbound
    policy all the same. Those to 127.0.0.0/8 are Envoy's from inbound to the instance.
    """
    proxy = f"-m owner --uid-owner {options.proxy_uid}"
    return [
        f"-p tcp -m tcp --dport {SSH_PORT} -j RETURN",
        f"-d {family.services} {proxy} -j RETURN",
        *(
            f"! -d {family.loopback} -o lo -p tcp {proxy} {match} -j HOSTMESH_IN_REDIRECT"
            for match in _ports(_inbound_ports(options))
        ),
        *(f"-m owner --uid-owner {uid} -j RETURN" for uid in sorted({options.proxy_uid, *options.excluded_uids})),
    ]


def _output_captured(options: NetfilterOptions, family: _Family) -> list[str]:
    if options.outbound is OutboundMode.NONE:
        return []
    services = f"-d {family.services} -p tcp -j HOSTMESH_OUT_REDIRECT"
    captured = [f"{_to(cidr)}-p tcp -j HOSTMESH_OUT_REDIRECT" for cidr in family.included]
    included_ports = set(options.included_outbound_ports)
    captured += [f"-p tcp {match} -j HOSTMESH_OUT_REDIRECT" for match in _ports(included_ports)]
    if options.outbound is OutboundMode.ALL:
        captured = ["-p tcp -j HOSTMESH_OUT_REDIRECT"]
    elif not captured:
        return [services]
    excluded_ports = NEVER_CAPTURED.union({DNS_PORT}, options.never_captured, options.excluded_outbound_ports)
    return [
        services,
        f"-d {family.loopback} -j RETURN",
        "-o lo -j RETURN",
        *(f"{_to(cidr)}-j RETURN" for cidr in family.excluded),
        *(f"-p tcp {match} -j RETURN" for match in _ports(excluded_ports)),
        *captured,
    ]


def _inbound_ports(options: NetfilterOptions) -> set[int]:
    never = NEVER_CAPTURED.union(
        options.never_captured, options.excluded_inbound_ports, (options.inbound_port, options.outbound_port)
    )
    return set(options.inbound_ports) - never


def _cidrs(
    options: NetfilterOptions, kind: type[IPv4Network] | type[IPv6Network]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the included and the excluded ranges of a family."""
    included, excluded = (
        tuple(str(cidr) for cidr in sorted({c for c in cidrs if isinstance(c, kind)}))
        for cidrs in (options.included_cidrs, options.excluded_cidrs)
    )
    return included, excluded


def _to(cidr: str) -> str:
    """Return the match of a destination; iptables-save shows none for every address."""
    return "" if cidr.endswith("/0") else f"-d {cidr} "


def _ports(ports: Collection[int]) -> list[str]:
    """Return the matches for these destination ports: `-m multiport` takes 15 at most."""
    ordered = sorted(ports)
    groups = [ordered[start : start + _MULTIPORT_LIMIT] for start in range(0, len(ordered), _MULTIPORT_LIMIT)]
    return [f"-m multiport --dports {','.join(map(str, group))}" for group in groups]


def _table(name: str, chains: dict[str, list[str]], jumps: Iterable[tuple[str, str]]) -> str:
    """Return one table. Declaring an own chain empties it, so an older version's rules are gone in the same step."""
    return "\n".join(
        [
            f"*{name}",
            *(f":{chain} - [0:0]" for chain in chains),
            *(f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules),
            *(f"-I {builtin} 1 -j {chain}" for builtin, chain in jumps),
            "COMMIT\n",
        ]
    )
