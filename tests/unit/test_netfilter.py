"""What the interception rules capture, for any options: decided by a model of iptables, and their text's form."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.netfilter.rules import difference, own_lines, own_tables, removal, replacement
from agent.mesh.ports import DNS_PORT, NEVER_CAPTURED
from agent.translate.netfilter import NetfilterOptions, OutboundMode, ruleset
from tests.unit.netfilter_model import Packet, verdict

V4 = IPv4Network("240.240.0.0/16")
V6 = IPv6Network("fdf0:240:240::/112")
PROXY = 1337
PORTS = st.one_of(st.sampled_from([22, 53, 80, 3306, 8500, 9080, 15001, 15006]), st.integers(1, 65535))
CIDRS = st.sampled_from([IPv4Network("10.0.0.0/8"), IPv4Network("0.0.0.0/0"), IPv6Network("fd00::/8"), V4, V6])
OPTIONS = st.builds(
    NetfilterOptions,
    proxy_uid=st.just(PROXY),
    service_cidr_v4=st.just(V4),
    service_cidr_v6=st.just(V6),
    inbound_ports=st.lists(PORTS, max_size=40).map(tuple),
    outbound=st.sampled_from(OutboundMode),
    included_cidrs=st.lists(CIDRS, max_size=2).map(tuple),
    excluded_cidrs=st.lists(CIDRS, max_size=3).map(tuple),
    excluded_outbound_ports=st.lists(PORTS, max_size=20).map(tuple),
    excluded_inbound_ports=st.lists(PORTS, max_size=20).map(tuple),
    excluded_uids=st.lists(st.integers(0, 5), max_size=3).map(tuple),
    never_captured=st.lists(PORTS, max_size=20).map(tuple),
)
ADDRESSES = st.one_of(
    st.sampled_from(["240.240.3.7", "127.0.0.1", "10.1.2.3", "fdf0:240:240::9", "::1", "fd11::1"]).map(
        lambda text: IPv6Address(text) if ":" in text else IPv4Address(text)
    ),
    st.ip_addresses(),
)
PACKETS = st.builds(
    Packet,
    destination=ADDRESSES,
    port=PORTS,
    uid=st.sampled_from([0, 3, 1000, PROXY]),
    out=st.sampled_from(["lo", "eth0"]),
    is_local=st.booleans(),
    syn=st.booleans(),
)


def text_for(options: NetfilterOptions, packet: Packet) -> str:
    text = ruleset(options)
    return text.v4 if packet.destination.version == 4 else text.v6


def in_service_range(packet: Packet) -> bool:
    return packet.destination in (V4 if packet.destination.version == 4 else V6)


def is_included(options: NetfilterOptions, packet: Packet) -> bool:
    return any(packet.destination in cidr for cidr in options.included_cidrs)


def redirect(options: NetfilterOptions, hook: str, packet: Packet) -> str:
    return verdict(text_for(options, packet), "nat", hook, packet)


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_port_22_is_never_captured(options: NetfilterOptions, packet: Packet) -> None:
    ssh = Packet(packet.destination, 22, packet.uid, packet.out, packet.is_local, packet.syn)
    assert redirect(options, "PREROUTING", ssh) == "ACCEPT"
    assert redirect(options, "OUTPUT", ssh) == "ACCEPT"


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_connections_older_than_the_rules_are_left_alone(options: NetfilterOptions, packet: Packet) -> None:
    if not packet.syn:
        assert redirect(options, "PREROUTING", packet) == "ACCEPT"
        assert redirect(options, "OUTPUT", packet) == "ACCEPT"


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_inbound_is_captured_for_the_given_ports_only(options: NetfilterOptions, packet: Packet) -> None:
    wanted = set(options.inbound_ports) - NEVER_CAPTURED
    wanted -= {*options.never_captured, *options.excluded_inbound_ports}
    captured = packet.port in wanted and packet.is_local and packet.syn
    assert redirect(options, "PREROUTING", packet) == ("REDIRECT 15006" if captured else "ACCEPT")


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_the_proxy_never_gets_its_own_connections_as_outbound(options: NetfilterOptions, packet: Packet) -> None:
    own = Packet(packet.destination, packet.port, PROXY, packet.out, packet.is_local, packet.syn)
    assert redirect(options, "OUTPUT", own) in ("ACCEPT", "REDIRECT 15006")
    if packet.out != "lo" or packet.destination.is_loopback or in_service_range(packet):
        assert redirect(options, "OUTPUT", own) == "ACCEPT"


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_mesh_mode_captures_the_service_range_only(options: NetfilterOptions, packet: Packet) -> None:
    if packet.uid == PROXY or packet.uid in options.excluded_uids or packet.port == 22 or not packet.syn:
        return
    got = redirect(options, "OUTPUT", packet)
    if options.outbound is OutboundMode.NONE:
        assert got == "ACCEPT"
    elif in_service_range(packet):
        assert got == "REDIRECT 15001"
    elif options.outbound is OutboundMode.MESH and not is_included(options, packet):
        assert got == "ACCEPT"


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_foreign_capture_leaves_what_it_must(options: NetfilterOptions, packet: Packet) -> None:
    captured = options.outbound is OutboundMode.ALL
    captured |= options.outbound is OutboundMode.MESH and is_included(options, packet)
    if not captured or packet.uid == PROXY or in_service_range(packet):
        return
    left = (
        packet.destination.is_loopback
        or packet.out == "lo"
        or packet.uid in options.excluded_uids
        or packet.port in NEVER_CAPTURED.union({DNS_PORT}, options.excluded_outbound_ports, options.never_captured)
        or any(packet.destination in cidr for cidr in options.excluded_cidrs)
        or not packet.syn
    )
    assert redirect(options, "OUTPUT", packet) == ("ACCEPT" if left else "REDIRECT 15001")


@settings(max_examples=60, deadline=None)
@given(OPTIONS, PACKETS)
def test_the_guard_refuses_capture_ports_and_uncaptured_services(options: NetfilterOptions, packet: Packet) -> None:
    text = text_for(options, packet)
    to_capture_port = packet.port in (15001, 15006)
    assert verdict(text, "filter", "INPUT", packet) == ("REJECT" if to_capture_port else "ACCEPT")
    redirected = Packet(packet.destination, packet.port, redirected=True)
    assert verdict(text, "filter", "INPUT", redirected) == "ACCEPT"
    for hook in ("OUTPUT", "FORWARD"):
        assert verdict(text, "filter", hook, packet) == ("REJECT" if in_service_range(packet) else "ACCEPT")


@settings(max_examples=60, deadline=None)
@given(OPTIONS)
def test_only_own_chains_and_one_jump_each(options: NetfilterOptions) -> None:
    for text in (ruleset(options).v4, ruleset(options).v6):
        for table in own_tables(text).values():
            assert len(set(table.jumps)) == len(table.jumps)
        for line in text.splitlines():
            assert line.startswith(("*", ":HOSTMESH_", "-A HOSTMESH_", "COMMIT", "-I ")), line
            assert not line.startswith("-I ") or line.split()[-1].startswith("HOSTMESH_")


@settings(max_examples=60, deadline=None)
@given(OPTIONS, OPTIONS)
def test_the_difference_of_equal_rules_is_empty(one: NetfilterOptions, other: NetfilterOptions) -> None:
    mine, theirs = ruleset(one).v4, ruleset(other).v4
    assert difference(mine, mine) == ()
    assert (difference(theirs, mine) == ()) == (own_lines(theirs) == own_lines(mine))


def test_difference_names_what_is_missing_and_in_excess() -> None:
    desired = ruleset(NetfilterOptions(PROXY, V4, V6)).v4
    live = desired.replace("-I FORWARD 1 -j HOSTMESH_VIP\n", "").replace("--to-ports 15001", "--to-ports 1")
    redirect_to = "-A HOSTMESH_OUT_REDIRECT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REDIRECT --to-ports"
    assert set(difference(live, desired)) == {
        "- filter: -A FORWARD -j HOSTMESH_VIP",
        f"- nat: {redirect_to} 15001",
        f"+ nat: {redirect_to} 1",
    }


def test_a_second_jump_and_a_wrong_order_are_differences() -> None:
    desired = ruleset(NetfilterOptions(PROXY, V4, V6)).v4
    assert difference(desired.replace("COMMIT", "-A OUTPUT -j HOSTMESH_VIP\nCOMMIT", 1), desired) == (
        "+ filter: -A OUTPUT -j HOSTMESH_VIP",
    )
    lines = desired.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("-A HOSTMESH_VIP"))
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    assert difference("\n".join(lines), desired)


def test_nothing_to_remove_gives_no_input() -> None:
    assert removal("") == ""
    assert removal("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j DOCKER\nCOMMIT\n") == ""


def test_foreign_rules_are_never_in_a_replacement() -> None:
    foreign = '*nat\n:DOCKER - [0:0]\n-A OUTPUT -m comment --comment "-j HOSTMESH_X" -j DOCKER\nCOMMIT\n'
    assert "DOCKER" not in replacement(foreign, ruleset(NetfilterOptions(PROXY, V4, V6)).v4)
