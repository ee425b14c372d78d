"""Ordered conditions on connections to Envoy's filter chains. Pure.

Rules say: the first that holds. Envoy instead takes the narrowest range of the address a connection was going to, in it
the narrowest server name, in that the narrowest range of sources, and never goes back. So for every range, name and
source that some rule names the first rule that holds for all of it is found, and what a wider one says too is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import product
from typing import Any, TypeVar

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from google.protobuf import wrappers_pb2
from msgspec import Struct

from agent.mesh.routes import ConnectionMatch
from agent.translate.resource import packed

_Network = IPv4Network | IPv6Network
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
_ROOTS: tuple[_Network, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
_ANY_NAME = ""


class Way(Struct, frozen=True):
    """A filter chain and the connections it is for: those that any of the matches holds for."""

    matches: tuple[ConnectionMatch, ...]
    chain: Any
    """envoy.config.listener.v3.FilterChain; its match may say more than addresses and server names."""


class Cell(Struct, frozen=True):
    """Connections that Envoy tells from all others, and which of the choices they get; () means any."""

    destinations: tuple[str, ...]
    server_names: tuple[str, ...]
    sources: tuple[str, ...]
    choice: int


def add_chains(listener: Any, ways: Sequence[Way]) -> frozenset[int]:
    """Add the filter chains to a listener (envoy.config.listener.v3.Listener); the first way that holds counts.

    Returns the positions of those that no connection can come to.
    """
    first: dict[bytes, int] = {}
    outcomes = [first.setdefault(way.chain.SerializeToString(deterministic=True), at) for at, way in enumerate(ways)]
    cells = decision_table([way.matches for way in ways], outcomes)
    for cell in cells:
        chain = listener_components_pb2.FilterChain()
        chain.CopyFrom(ways[cell.choice].chain)
        if cell.destinations or cell.server_names or cell.sources:
            match = chain.filter_chain_match
            match.prefix_ranges.extend(cidr_range(ip_network(text)) for text in cell.destinations)
            match.server_names.extend(cell.server_names)
            match.source_prefix_ranges.extend(cidr_range(ip_network(text)) for text in cell.sources)
        listener.filter_chains.append(chain)
    used = {cell.choice for cell in cells}
    return frozenset(position for position, outcome in enumerate(outcomes) if outcome not in used)


def add_tls_inspector(listener: Any) -> None:
    """Let a listener find out which server name a TLS client asks for."""
    listener.listener_filters.append(
        listener_components_pb2.ListenerFilter(
            name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
        )
    )


def tells_names(listener: Any) -> bool:
    """Tell whether some chain of a listener is for server names."""
    return any(chain.filter_chain_match.server_names for chain in listener.filter_chains)


def cidr_range(network: _Network) -> Any:
    """Return a range of addresses (envoy.config.core.v3.CidrRange)."""
    return address_pb2.CidrRange(
        address_prefix=str(network.network_address), prefix_len=wrappers_pb2.UInt32Value(value=network.prefixlen)
    )


def decision_table(choices: Sequence[Sequence[ConnectionMatch]], outcomes: Sequence[int]) -> tuple[Cell, ...]:
    """Return what Envoy must be told so that each connection gets the first choice one of whose matches holds.

    `outcomes` are what the choices come to, several to the same perhaps; the cells name these.
    """
    if choices and ConnectionMatch() in choices[0]:
        return (Cell((), (), (), outcomes[0]),)  # as below, but nearly every service is like that
    first: dict[tuple[_Network, str, _Network], int] = {}
    for index, matches in enumerate(choices):
        for match in matches:
            for place in product(_networks(match.destinations), _names(match.server_names), _networks(match.sources)):
                first.setdefault(place, index)
    destinations = _wider_networks({place[0] for place in first})
    names = _wider_names({place[1] for place in first})
    sources = _wider_networks({place[2] for place in first})

    def of_source(destination: _Network, name: str, source: _Network) -> int | None:
        around = product(destinations[destination], names[name], sources[source])
        choice = min((first[place] for place in around if place in first), default=None)
        return None if choice is None else outcomes[choice]

    def of_name(destination: _Network, name: str) -> tuple[tuple[tuple[str, ...], int], ...]:
        return _ranges(_narrowing({source: of_source(destination, name, source) for source in sources}, sources))

    def of_destination(destination: _Network) -> tuple[tuple[tuple[str, ...], Any], ...]:
        return _named(_narrowing({name: of_name(destination, name) or None for name in names}, names))

    table = _narrowing({network: of_destination(network) or None for network in destinations}, destinations)
    return tuple(
        Cell(ranges, server_names, callers, choice)
        for ranges, by_name in _ranges(table)
        for server_names, by_source in by_name
        for callers, choice in by_source
    )


@lru_cache(maxsize=4096)
def network_of(text: str) -> _Network:
    """Return the range that an address or range means, whatever its host bits; Envoy knows no IPv6 zones."""
    address, _, rest = text.partition("%")
    _, slash, bits = rest.partition("/")
    return ip_network(f"{address}{slash}{bits}", strict=False)


def _networks(texts: Iterable[str]) -> tuple[_Network, ...]:
    return tuple(network_of(text) for text in texts) or _ROOTS


def _names(names: Iterable[str]) -> tuple[str, ...]:
    """Return server names as Envoy compares them; `*` is any, TLS or not."""
    return tuple(_ANY_NAME if name == "*" else name.lower().rstrip(".") for name in names) or (_ANY_NAME,)


def _wider_networks(found: Iterable[_Network]) -> dict[_Network, tuple[_Network, ...]]:
    """Return each range with those that it lies in, itself first and the widest last."""
    known = {*found, *_ROOTS}
    lengths = sorted({network.prefixlen for network in known}, reverse=True)
    wider = {}
    for network in sorted(known, key=lambda network: (network.version, -network.prefixlen, str(network))):
        around = (network.supernet(new_prefix=length) for length in lengths if length <= network.prefixlen)
        wider[network] = tuple(other for other in around if other in known)
    return wider


def _wider_names(found: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return each server name with the wildcards that it lies in, itself first and any name last."""
    known = {*found, _ANY_NAME}
    wider = {}
    for name in sorted(known):
        labels = name.removeprefix("*.").split(".")
        start = 0 if name.startswith("*.") else 1
        wildcards = [f"*.{'.'.join(labels[cut:])}" for cut in range(start, len(labels))]
        around = dict.fromkeys((name, *wildcards, _ANY_NAME))
        wider[name] = tuple(other for other in around if other in known)
    return wider


def _narrowing(found: Mapping[K, V | None], wider: Mapping[K, tuple[K, ...]]) -> dict[K, V]:
    """Return what each key has that the next wider one has not."""
    return {
        key: value
        for key, value in found.items()
        if value is not None and (len(wider[key]) == 1 or found[wider[key][1]] != value)
    }


def _ranges(found: Mapping[_Network, V]) -> tuple[tuple[tuple[str, ...], V], ...]:
    """Return the values, each with its ranges; () are all addresses of both families."""
    together: dict[V, list[_Network]] = {}
    for network, value in found.items():
        together.setdefault(value, []).append(network)
    return tuple(
        (() if set(networks) == set(_ROOTS) else tuple(map(str, sorted(networks, key=_place))), value)
        for value, networks in together.items()
    )


def _place(network: _Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


def _named(found: Mapping[str, V]) -> tuple[tuple[tuple[str, ...], V], ...]:
    """Return the values, each with its names; one with () is for connections without one of the others."""
    together: dict[tuple[bool, V], list[str]] = {}
    for name, value in found.items():
        together.setdefault((name == _ANY_NAME, value), []).append(name)
    return tuple((() if is_any else tuple(names), value) for (is_any, value), names in together.items())
