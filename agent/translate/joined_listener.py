"""One listener for several callers, whom Envoy tells apart by the address that they come from. Pure.

Envoy looks at the port and address a connection was going to, the server name and the protocol before it looks at who
calls, takes the narrowest each time, and never goes back. So wherever one caller's listener has chains, those that the
others' listeners would take for the same connection are put beside them: nobody ever gets another's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from msgspec import Struct, structs

from agent.translate.connections import cidr_range, network_of

Sources = tuple[IPv4Address, IPv6Address]


class _Place(Struct, frozen=True):
    """What Envoy looks at before the caller; None and "" are any."""

    port: int | None
    network: str | None
    server_name: str
    transport: str
    protocol: str


def join(listener: Any, others: Mapping[Sources, Any], closed: Any) -> None:
    """Let a listener (envoy.config.listener.v3.Listener) serve other callers as their own listeners would.

    `closed` is the chain for connections that a caller's own listener would not take.
    """
    whose: list[Sources | None] = [*others, None]
    chains = [list(other.filter_chains) for other in others.values()] + [[_copy(it) for it in listener.filter_chains]]
    places = [{place for chain in of_party for place in _places(chain)} for of_party in chains]
    if any(other != places[0] for other in places):
        rest = [it.default_filter_chain if it.HasField("default_filter_chain") else closed for it in others.values()]
        chains = _spread(chains, rest)
    del listener.filter_chains[:]
    for sources, of_party in zip(whose, chains, strict=True):
        for chain in of_party:
            added = listener.filter_chains.add()
            added.CopyFrom(chain)
            ranges = (cidr_range(ip_network(address)) for address in sources or ())
            added.filter_chain_match.direct_source_prefix_ranges.extend(ranges)
    for other in others.values():
        _take_listener_filters(listener, other)


def _spread(chains: Sequence[Sequence[Any]], rest: Sequence[Any]) -> list[list[Any]]:
    """Return the chains of each party, one for each place at which any of them has one.

    Where a caller has none it gets its `rest`: it would come to the chain that is for everybody, the last party's.
    """
    known = [[(place, chain) for chain in of_party for place in _places(chain)] for of_party in chains]
    found: list[list[Any]] = [[] for _ in chains]
    for place, of_parties in _decided(known, _Place(None, None, "", "", ""), 0):
        for party, of_party in enumerate(of_parties):
            there = [chain for _, chain in of_party] or list(rest[party : party + 1])
            found[party] += [_only_at(place, chain) for chain in there]
    return found


def _decided(known: Sequence[_Known], place: _Place, level: int) -> Iterator[tuple[_Place, Sequence[_Known]]]:
    """Yield where Envoy may come to when it looks at one thing after the other, and what each party has there."""
    if level == len(_LEVELS):
        yield place, known
        return
    name, wider = _LEVELS[level]
    values = {getattr(each, name) for of_party in known for each, _ in of_party}
    for value in sorted(values, key=repr):
        around = wider(value, values)
        yield from _decided(
            [_narrowest(of_party, name, around) for of_party in known],
            structs.replace(place, **{name: value}),
            level + 1,
        )


def _narrowest(known: _Known, name: str, values: Iterable[Any]) -> _Known:
    for value in values:
        if found := [each for each in known if getattr(each[0], name) == value]:
            return found
    return []


def _only_at(place: _Place, chain: Any) -> Any:
    """Return the chain for that place alone, still for whatever sources it is for."""
    only = _copy(chain)
    match = only.filter_chain_match
    for field in ("destination_port", "prefix_ranges", "server_names", "transport_protocol", "application_protocols"):
        match.ClearField(field)
    if place.port is not None:
        match.destination_port.value = place.port
    if place.network is not None:
        match.prefix_ranges.append(cidr_range(network_of(place.network)))
    match.server_names.extend([place.server_name] if place.server_name else [])
    match.transport_protocol = place.transport
    match.application_protocols.extend([place.protocol] if place.protocol else [])
    return only


def _wider_networks(network: str | None, known: Iterable[str | None]) -> list[str | None]:
    """Return the ranges that this one lies in, itself first and all addresses last."""
    if network is None:
        return [None]
    inner = network_of(network)
    around = {
        text: outer.prefixlen
        for text in known
        if text is not None
        and (outer := network_of(text)).version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and inner.network_address in outer
    }
    return [*sorted(around, key=lambda text: -around[text]), None]


def _wider_names(name: str, _: Iterable[str]) -> list[str]:
    labels = name.removeprefix("*.").split(".") if name else []
    start = 0 if name.startswith("*.") else 1
    return [*dict.fromkeys([name, *(f"*.{'.'.join(labels[cut:])}" for cut in range(start, len(labels)))]), ""]


def _places(chain: Any) -> list[_Place]:
    match = chain.filter_chain_match
    port = match.destination_port.value if match.HasField("destination_port") else None
    ranges = [f"{it.address_prefix}/{it.prefix_len.value}" for it in match.prefix_ranges]
    networks: list[str | None] = [*ranges] or [None]
    return [
        _Place(port, network, name, match.transport_protocol, protocol)
        for network in networks
        for name in list(match.server_names) or [""]
        for protocol in list(match.application_protocols) or [""]
    ]


_Known = Sequence[tuple[_Place, Any]]
"""Places, each with a chain that is for it."""
_LEVELS: tuple[tuple[str, Callable[[Any, Any], list[Any]]], ...] = (
    ("port", lambda value, _: [value, None]),
    ("network", _wider_networks),
    ("server_name", _wider_names),
    ("transport", lambda value, _: [value, ""]),
    ("protocol", lambda value, _: [value, ""]),
)
"""What Envoy looks at, in its order, and what counts where nothing is for this very value."""


def _take_listener_filters(listener: Any, other: Any) -> None:
    """Look at connections as the other caller's listener needs it, too."""
    known = {it.name for it in listener.listener_filters}
    added = [it for it in other.listener_filters if it.name not in known]
    listener.listener_filters.extend(added)
    if added:
        listener.listener_filters_timeout.CopyFrom(other.listener_filters_timeout)
        listener.continue_on_listener_filters_timeout = other.continue_on_listener_filters_timeout


def _copy(chain: Any) -> Any:
    copied = type(chain)()
    copied.CopyFrom(chain)
    return copied
