"""Virtual addresses of services: chosen by hash with probing, never changed once given. Pure; keeping them is I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar

from agent.errors import HostError
from agent.flow.table import Table
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip

A = TypeVar("A", IPv4Address, IPv6Address)


def allocate(
    current: Mapping[ServiceKey, Vip],
    wanted: Iterable[ServiceKey],
    v4: IPv4Network,
    v6: IPv6Network,
) -> dict[ServiceKey, Vip]:
    """Return the address table with every wanted service in it; addresses given before stay.

    Services of `current` that are not wanted keep their entry too (clients may still hold the address, and the service
    may come back): it is taken away only when a wanted one finds no free address. Entries outside the ranges, or given
    twice, are dropped. Raises HostError if more services are wanted than the ranges hold.
    """
    wanted = frozenset(wanted)
    pool4, pool6 = _pools(v4, v6)
    for pool in (pool4, pool6):
        if len(wanted) > pool.size:
            raise HostError(
                f"{pool.setting}: {pool.network} has {pool.size} addresses, {len(wanted)} services are known:"
                " set a larger range"
            )
    kept = _valid(current, wanted, v4, v6)
    retired = sorted((key for key in kept if key not in wanted), reverse=True)
    pool4.taken.update(vip.v4 for vip in kept.values())
    pool6.taken.update(vip.v6 for vip in kept.values())
    for key in sorted(wanted - kept.keys()):
        while pool4.is_full or pool6.is_full:
            vip = kept.pop(retired.pop())
            pool4.taken.remove(vip.v4)
            pool6.taken.remove(vip.v6)
        kept[key] = Vip(pool4.take(key), pool6.take(key))
    return kept


class Addresses:
    """A table of addresses that services come to and go from, at the cost of those that are new."""

    def __init__(self, given: Mapping[ServiceKey, Vip], v4: IPv4Network, v6: IPv6Network) -> None:
        self.table: Table[ServiceKey, Vip] = Table(given)
        self._ranges = (v4, v6)
        self._pools = _pools(v4, v6)
        self._is_checked = False

    def add(self, fresh: Iterable[ServiceKey], wanted: Callable[[], Iterable[ServiceKey]]) -> None:
        """Give services addresses that are wanted newly; `wanted` tells all. Raises HostError as `allocate`."""
        missing = sorted({key for key in fresh if key not in self.table})
        if not self._is_checked or any(len(pool.taken) + len(missing) > pool.size for pool in self._pools):
            self._is_checked = False
            self.table = Table(allocate(self.table, wanted(), *self._ranges))
            self._pools[0].taken = {vip.v4 for vip in self.table.values()}
            self._pools[1].taken = {vip.v6 for vip in self.table.values()}
            self._is_checked = True
            return
        pool4, pool6 = self._pools
        self.table = self.table.with_changes({key: Vip(pool4.take(key), pool6.take(key)) for key in missing})


def size_v4(network: IPv4Network) -> int:
    """Return how many services the range holds: last octets 0 and 255 are left out (old gear drops them)."""
    if network.prefixlen <= 24:
        return network.num_addresses // 256 * 254
    return max(0, network.num_addresses - 2)


def address_v4(network: IPv4Network, index: int) -> IPv4Address:
    """Return the index-th usable address of the range."""
    block, rest = divmod(index, 254)
    return network.network_address + (block * 256 + rest + 1)


def size_v6(network: IPv6Network) -> int:
    """Return how many services the range holds: the first (subnet-router anycast) and the last are left out."""
    return max(0, network.num_addresses - 2)


def address_v6(network: IPv6Network, index: int) -> IPv6Address:
    """Return the index-th usable address of the range."""
    return network.network_address + (index + 1)


class _Pool(Generic[A]):
    """The addresses of one range, and which are taken."""

    def __init__(self, setting: str, network: str, size: int, address: Callable[[int], A]) -> None:
        self.setting = setting
        self.network = network
        self.size = size
        self.taken: set[A] = set()
        self._address: Callable[[int], A] = address

    @property
    def is_full(self) -> bool:
        return len(self.taken) >= self.size

    def take(self, key: ServiceKey) -> A:
        """Take the first free address at or after the service's own place in the range (every host starts alike)."""
        index = int.from_bytes(sha256(f"{key.namespace}/{key.name}".encode()).digest()) % self.size
        while (address := self._address(index)) in self.taken:
            index = (index + 1) % self.size
        self.taken.add(address)
        return address


def _pools(v4: IPv4Network, v6: IPv6Network) -> tuple[_Pool[IPv4Address], _Pool[IPv6Address]]:
    pool4 = _Pool("vips.v4", str(v4), size_v4(v4), lambda index: address_v4(v4, index))
    return pool4, _Pool("vips.v6", str(v6), size_v6(v6), lambda index: address_v6(v6, index))


def _valid(
    current: Mapping[ServiceKey, Vip],
    wanted: frozenset[ServiceKey],
    v4: IPv4Network,
    v6: IPv6Network,
) -> dict[ServiceKey, Vip]:
    """Return the entries that may stay; of two with the same address the wanted one, then the first by name."""
    kept: dict[ServiceKey, Vip] = {}
    seen: set[IPv4Address | IPv6Address] = set()
    for key in sorted(current, key=lambda key: (key not in wanted, key)):
        vip = current[key]
        if _is_usable_v4(vip.v4, v4) and _is_usable_v6(vip.v6, v6) and seen.isdisjoint((vip.v4, vip.v6)):
            kept[key] = vip
            seen.update((vip.v4, vip.v6))
    return kept


def _is_usable_v4(address: IPv4Address, network: IPv4Network) -> bool:
    ends = (network.network_address, network.broadcast_address)
    return address in network and address not in ends and address.packed[3] not in (0, 255)


def _is_usable_v6(address: IPv6Address, network: IPv6Network) -> bool:
    return address in network and address not in (network.network_address, network.broadcast_address)
