"""A listener for several callers does for each what its own would do, by a plain model of how Envoy chooses chains."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from agent.translate.connections import cidr_range
from agent.translate.joined_listener import join

NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "192.168.0.0/16")
ADDRESSES = ("10.0.0.1", "10.1.0.1", "10.1.2.3", "192.168.1.1", "8.8.8.8")
NAMES = ("a.example.com", "*.example.com", "*.com", "b.org")
ASKED = ("a.example.com", "c.example.com", "x.com", "b.org", "")
PROTOCOLS = ("http/1.1", "h2c")
CALLERS = tuple((IPv4Address(f"127.128.0.{n}"), IPv6Address(f"fdf0:240:241::{n}")) for n in (1, 2))
ANYBODY = "10.9.9.9"
CLOSED = listener_components_pb2.FilterChain()
"""Without a name, as no chain at all in the model."""


class Chain(Struct, frozen=True):
    """What a chain is for; "" and 0 are any."""

    port: int = 0
    network: str = ""
    server_name: str = ""
    protocol: str = ""


CHAINS = st.lists(
    st.builds(
        Chain,
        st.sampled_from((0, 80, 443)),
        st.sampled_from(("", *NETWORKS)),
        st.sampled_from(("", *NAMES)),
        st.sampled_from(("", *PROTOCOLS)),
    ),
    unique=True,
    max_size=6,
)
CONNECTIONS = st.tuples(
    st.sampled_from((80, 443, 9999)),
    st.sampled_from(ADDRESSES),
    st.sampled_from(ASKED),
    st.sampled_from(("", *PROTOCOLS)),
)
Connection = tuple[int, str, str, str]


def listener(owner: str, chains: list[Chain]) -> Any:
    message = listener_pb2.Listener()
    for number, chain in enumerate(chains):
        match = message.filter_chains.add(name=f"{owner}{number}").filter_chain_match
        if chain.port:
            match.destination_port.value = chain.port
        if chain.network:
            match.prefix_ranges.append(cidr_range(ip_network(chain.network)))
        match.server_names.extend([chain.server_name] if chain.server_name else [])
        match.application_protocols.extend([chain.protocol] if chain.protocol else [])
    return message


def chosen(message: Any, connection: Connection, source: str) -> str:
    """Return the chain that Envoy takes: the narrowest by each thing in turn, without ever going back."""
    port, address, name, protocol = connection
    chains = list(message.filter_chains)
    chains = narrowest(chains, lambda it: [it.destination_port.value], [port, 0])
    wider = sorted({r for it in chains for r in ranges(it.filter_chain_match.prefix_ranges)}, key=lambda r: -r[1])
    holding = [r for r in wider if ip_address(address) in ip_network(f"{r[0]}/{r[1]}")]
    chains = narrowest(chains, lambda it: ranges(it.prefix_ranges) or [None], [*holding, None])
    labels = name.split(".")
    names = [name, *(f"*.{'.'.join(labels[cut:])}" for cut in range(1, len(labels)))] if name else []
    chains = narrowest(chains, lambda it: list(it.server_names) or [""], [*names, ""])
    chains = narrowest(chains, lambda it: list(it.application_protocols) or [""], [protocol, ""])
    known = [r for it in chains for r in ranges(it.filter_chain_match.direct_source_prefix_ranges)]
    mine = [r for r in known if ip_address(source) in ip_network(f"{r[0]}/{r[1]}")]
    chains = narrowest(chains, lambda it: ranges(it.direct_source_prefix_ranges) or [None], [*mine, None])
    assert len(chains) <= 1, "Envoy refuses two chains for the same connections"
    return chains[0].name if chains else ""


def ranges(networks: Any) -> list[tuple[str, int]]:
    return [(it.address_prefix, it.prefix_len.value) for it in networks]


def narrowest(chains: list[Any], of: Callable[[Any], list[Any]], values: list[Any]) -> list[Any]:
    for value in values:
        if found := [chain for chain in chains if value in of(chain.filter_chain_match)]:
            return found
    return []


@settings(max_examples=300, deadline=None)
@given(CHAINS, CHAINS, CHAINS, CONNECTIONS)
def test_everybody_gets_what_its_own_listener_has(
    own: list[Chain], one: list[Chain], other: list[Chain], connection: Connection
) -> None:
    alone = [listener("own", own), listener("one", one), listener("other", other)]
    joined = listener_pb2.Listener()
    joined.CopyFrom(alone[0])
    join(joined, dict(zip(CALLERS, alone[1:], strict=True)), CLOSED)
    for source, message in zip((ANYBODY, *(str(it[0]) for it in CALLERS)), alone, strict=True):
        assert chosen(joined, connection, source) == chosen(message, connection, source)


def test_listeners_that_are_alike_keep_their_form() -> None:
    message, other = listener("own", [Chain(), Chain(80)]), listener("one", [Chain(), Chain(80)])
    other.listener_filters.add(name="inspector")
    join(message, {CALLERS[0]: other}, CLOSED)
    assert [chain.name for chain in message.filter_chains] == ["one0", "one1", "own0", "own1"]
    assert [it.name for it in message.listener_filters] == ["inspector"]
