"""Virtual addresses: no two alike, never changed, whatever order services come and go in."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import HostError
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip
from agent.mesh.vips import Addresses, address_v4, allocate, size_v4

V4 = IPv4Network("240.240.0.0/16")
V6 = IPv6Network("fdf0:240:240::/112")
SMALL4 = IPv4Network("10.9.8.0/28")
SMALL6 = IPv6Network("fd00::/124")
KEYS = [ServiceKey("default", f"s{number}") for number in range(30)]
SUBSETS = st.sets(st.sampled_from(KEYS), max_size=14)


@settings(max_examples=60, deadline=None)
@given(st.lists(SUBSETS, max_size=8))
def test_addresses_are_distinct_and_stay(history: list[set[ServiceKey]]) -> None:
    """Even in a range that is nearly full, where addresses of services long gone must be taken again."""
    table: dict[ServiceKey, Vip] = {}
    for wanted in history:
        before, table = table, allocate(table, wanted, SMALL4, SMALL6)
        assert wanted <= table.keys()
        assert all(table[key] == before[key] for key in wanted & before.keys())
        assert len({vip.v4 for vip in table.values()}) == len({vip.v6 for vip in table.values()}) == len(table)
        assert all(vip.v4 in SMALL4 and vip.v6 in SMALL6 for vip in table.values())
        assert not {IPv4Address("10.9.8.0"), IPv4Address("10.9.8.15")} & {vip.v4 for vip in table.values()}
        assert not {IPv6Address("fd00::"), IPv6Address("fd00::f")} & {vip.v6 for vip in table.values()}


@settings(max_examples=60, deadline=None)
@given(st.lists(SUBSETS, max_size=6))
def test_with_room_left_a_removed_services_address_is_not_given_away(history: list[set[ServiceKey]]) -> None:
    table: dict[ServiceKey, Vip] = {}
    for wanted in history:
        before, table = table, allocate(table, wanted, V4, V6)
        assert all(table[key] == vip for key, vip in before.items())


@settings(max_examples=60, deadline=None)
@given(st.permutations(KEYS), st.permutations(KEYS[:15]))
def test_the_order_of_mappings_does_not_matter(keys: list[ServiceKey], known: list[ServiceKey]) -> None:
    current = allocate({}, KEYS[:15], V4, V6)
    shuffled = {key: current[key] for key in known}
    assert allocate(shuffled, keys, V4, V6) == allocate(current, KEYS, V4, V6)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 30), st.data())
def test_no_ends_no_0_no_255(prefix: int, data: st.DataObject) -> None:
    network = IPv4Network(("240.0.0.0", prefix))
    address = address_v4(network, data.draw(st.integers(0, size_v4(network) - 1)))
    assert address in network
    assert address not in (network.network_address, network.broadcast_address)
    assert address.packed[3] not in (0, 255)


def test_every_usable_address_is_reached_once() -> None:
    network = IPv4Network("240.240.0.0/22")
    addresses = [address_v4(network, index) for index in range(size_v4(network))]
    assert len(set(addresses)) == len(addresses) == 4 * 254
    assert addresses == sorted(addresses)


def test_a_full_range_holds_exactly_its_size() -> None:
    keys = [ServiceKey("default", f"s{number}") for number in range(14)]
    assert len(allocate({}, keys, SMALL4, V6)) == 14
    with pytest.raises(HostError, match=r"vips.v4: 10.9.8.0/28 has 14 addresses, 15 services are known: set a larger"):
        allocate({}, [*keys, ServiceKey("x", "y")], SMALL4, V6)
    with pytest.raises(HostError, match=r"vips.v6: fd00::/124 has 14 addresses"):
        allocate({}, [*keys, ServiceKey("x", "y")], V4, SMALL6)


def test_tiny_ranges_have_no_room() -> None:
    with pytest.raises(HostError, match="has 0 addresses"):
        allocate({}, KEYS[:1], IPv4Network("10.0.0.0/31"), V6)
    assert allocate({}, (), IPv4Network("10.0.0.0/32"), V6) == {}


def test_another_range_gives_new_addresses() -> None:
    table = allocate({}, KEYS, V4, V6)
    moved = allocate(table, KEYS, IPv4Network("10.99.0.0/16"), V6)
    assert all(vip.v4 in IPv4Network("10.99.0.0/16") for vip in moved.values())


def test_bad_entries_of_a_table_are_dropped() -> None:
    """A table from disk may hold anything: an address twice, one outside, the network's own."""
    good = Vip(IPv4Address("240.240.0.1"), IPv6Address("fdf0:240:240::1"))
    table = {
        KEYS[0]: good,
        KEYS[1]: good,
        KEYS[2]: Vip(IPv4Address("240.240.0.0"), IPv6Address("fdf0:240:240::2")),
        KEYS[3]: Vip(IPv4Address("10.0.0.1"), IPv6Address("fdf0:240:240::3")),
        KEYS[4]: Vip(IPv4Address("240.240.1.255"), IPv6Address("fdf0:240:240::4")),
    }
    new = allocate(table, KEYS[1:5], V4, V6)
    assert new[KEYS[1]] == good, "the service that is wanted keeps it"
    assert KEYS[0] not in new
    assert len({vip.v4 for vip in new.values()}) == 4
    assert not {vip.v4 for vip in new.values()} & {table[key].v4 for key in KEYS[2:5]}


def test_the_same_on_every_host() -> None:
    assert allocate({}, [ServiceKey("default", "reviews")], V4, V6) == allocate(
        {}, [ServiceKey("default", "reviews")], V4, V6
    )


@given(st.lists(st.sets(st.integers(0, 12).map(lambda n: ServiceKey("default", f"s{n}")), max_size=9), max_size=6))
def test_addresses_are_given_one_after_the_other_as_all_at_once(rounds: list[set[ServiceKey]]) -> None:
    v4, v6 = IPv4Network("10.0.0.0/29"), IPv6Network("fd00::/112")  # six addresses
    addresses, expected, known = Addresses({}, v4, v6), dict[ServiceKey, Vip](), set[ServiceKey]()
    for wanted in rounds:
        fresh, known = wanted - known, wanted
        try:
            expected = allocate(expected, wanted, v4, v6)
        except HostError:
            with pytest.raises(HostError):
                addresses.add(fresh, lambda wanted=wanted: wanted)  # type: ignore[misc]
            continue
        addresses.add(fresh, lambda wanted=wanted: wanted)  # type: ignore[misc]
        assert addresses.table == expected
