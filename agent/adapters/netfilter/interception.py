"""Puts interception on this host: own iptables chains and the route of the service ranges; repairs and removes them.

Runs as root or with the ambient capabilities CAP_NET_ADMIN and CAP_NET_RAW. Touches no foreign rule and no foreign
route. A host without IPv6, or without ip6tables, gets IPv4 only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from msgspec import Struct

from agent.adapters.command import CommandRunner
from agent.adapters.netfilter.rules import difference, one_table, own_lines, own_tables, own_text, removal, replacement
from agent.errors import HostError

ROUTE_PROTOCOL = "72"
"""Marks own routes (a number that iproute2's rt_protos leaves free), so that another version finds them too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Family:
    """The commands of one IP version."""

    number: int
    save: str
    restore: str

    def ip_route(self, *words: str) -> list[str]:
        """Return an `ip route` command line."""
        return ["ip", f"-{self.number}", "route", *words]


_V4 = _Family(4, "iptables-save", "iptables-restore")
_V6 = _Family(6, "ip6tables-save", "ip6tables-restore")


class Standing(Struct, frozen=True):
    """What of ours stands: restore input of both families, and the ranges that have a route."""

    v4: str
    v6: str
    ranges: tuple[IPv4Network | IPv6Network, ...]


class Interception:
    """The rules and routes that lead this host's mesh traffic to Envoy.

    The routes (`dev lo`) make connect() to a virtual address work on a host without a default route, where it would
    fail before iptables sees it. `dev lo`, not `local`: nothing on the host answers for the range, and the kernel takes
    the host's own address as the source.
    """

    def __init__(self, runner: CommandRunner, service_ranges: Sequence[IPv4Network | IPv6Network]) -> None:
        self._runner = runner
        self._ranges = {
            family: frozenset(r for r in service_ranges if r.version == family.number) for family in (_V4, _V6)
        }
        self._printed: dict[_Family, tuple[str, tuple[str, ...]]] = {}
        self._lock = asyncio.Lock()
        self._said_no_ipv6 = False
        self._has_ip6tables = False

    async def apply(self, v4: str, v6: str) -> tuple[str, ...]:
        """Make rules and routes as desired and return the differences there were, () if none; raises HostError.

        v4 and v6 are restore input (translate/netfilter.py). Each table changes in one transaction, filter before nat.
        """
        async with self._lock:
            found: list[str] = []
            for family, desired in await self._families(v4, v6):
                found += await self._apply(family, desired)
            return tuple(found)

    async def guard(self, v4: str, v6: str) -> bool:
        """Where nothing captures yet, make the filter table and the routes alone; tell whether; raises HostError.

        What is captured already is left as it is: Envoy serves it, or is about to again.
        """
        async with self._lock:
            made = False
            for family, desired in await self._families(v4, v6):
                if "nat" not in own_tables(await self._runner.run([family.save])):
                    made = bool(await self._apply(family, one_table(desired, "filter"))) or made
            return made

    async def diff(self, v4: str, v6: str) -> tuple[str, ...]:
        """Return one line for each rule or route that is missing (`-`) or in excess (`+`); changes nothing."""
        async with self._lock:
            found: list[str] = []
            for family, desired in await self._families(v4, v6):
                found += self._rule_differences(family, await self._runner.run([family.save]), desired)
                found += _route_differences(family, await self._routes(family), self._ranges[family])
            return tuple(found)

    async def standing(self) -> Standing:
        """Return what stands now; another Interception with these ranges puts it back by apply()."""
        async with self._lock:
            text, ranges = {_V4: "", _V6: ""}, list[IPv4Network | IPv6Network]()
            for family, _ in await self._families("", ""):
                text[family] = own_text(await self._runner.run([family.save]))
                ranges += sorted(await self._routes(family), key=str)
            return Standing(text[_V4], text[_V6], tuple(ranges))

    async def remove(self) -> None:
        """Take out every own rule, chain and route, those of other versions too; raises HostError."""
        async with self._lock:
            self._printed.clear()
            for family in (_V4, _V6):
                try:
                    saved = await self._runner.run([family.save])
                except HostError as error:
                    if family is _V4:
                        raise
                    log.info("no IPv6 rules to remove: %s", error)
                    continue
                await self._runner.run(family.ip_route("flush", "proto", ROUTE_PROTOCOL))
                await self._restore(family, removal, saved)

    async def _families(self, v4: str, v6: str) -> list[tuple[_Family, str]]:
        reason = await self._why_no_ipv6()
        if reason is None:
            return [(_V4, v4), (_V6, v6)]
        if not self._said_no_ipv6:
            log.warning("interception is for IPv4 only: %s", reason)
            self._said_no_ipv6 = True
        return [(_V4, v4)]

    async def _why_no_ipv6(self) -> str | None:
        """Return why IPv6 can't be intercepted here, or None if it can."""
        try:
            disabled = await self._runner.run(["cat", "/proc/sys/net/ipv6/conf/lo/disable_ipv6"])
            if disabled.strip() != "0":
                return "IPv6 is disabled (net.ipv6.conf.lo.disable_ipv6)"
            if not self._has_ip6tables:
                await self._runner.run([_V6.save])
                self._has_ip6tables = True
        except HostError as error:
            return str(error)
        return None

    async def _apply(self, family: _Family, desired: str) -> list[str]:
        saved = await self._runner.run([family.save])
        rules = self._rule_differences(family, saved, desired)
        if rules:
            await self._restore(family, lambda saved: replacement(saved, desired), saved)
            live = await self._runner.run([family.save])
            # Another iptables may print the same rules in other words; what it prints now is what is desired.
            self._printed[family] = (desired, own_lines(live))
        routes = await self._routes(family)
        await self._apply_routes(family, routes)
        return [*rules, *_route_differences(family, routes, self._ranges[family])]

    def _rule_differences(self, family: _Family, saved: str, desired: str) -> list[str]:
        if self._printed.get(family) == (desired, own_lines(saved)):
            return []
        return [f"{line[0]} ipv{family.number} {line[2:]}" for line in difference(saved, desired)]

    async def _restore(self, family: _Family, text_of: Callable[[str], str], saved: str) -> None:
        """Feed restore with what follows from the live rules; once more if these changed in between."""
        for attempt in (1, 2):
            text = text_of(saved)
            if not text:
                return
            try:
                await self._runner.run([family.restore, "--noflush", "-w"], text)
            except HostError as error:
                live = await self._runner.run([family.save])
                if attempt == 2 or own_lines(live) == own_lines(saved):
                    raise HostError(f"interception: rules not changed: {error}") from error
                saved = live
            else:
                return

    async def _routes(self, family: _Family) -> frozenset[IPv4Network | IPv6Network]:
        """Return the own routes that are there."""
        text = await self._runner.run(family.ip_route("show", "proto", ROUTE_PROTOCOL))
        return frozenset(ip_network(line.split()[0]) for line in text.splitlines() if line.strip())

    async def _apply_routes(self, family: _Family, live: frozenset[IPv4Network | IPv6Network]) -> None:
        for network in sorted(live - self._ranges[family], key=str):
            await self._runner.run(family.ip_route("del", str(network), "proto", ROUTE_PROTOCOL))
        for network in sorted(self._ranges[family] - live, key=str):
            # add, not replace: a foreign route for the range is the operator's and not ours to overwrite.
            await self._runner.run(family.ip_route("add", str(network), "dev", "lo", "proto", ROUTE_PROTOCOL))


def _route_differences(
    family: _Family, live: frozenset[IPv4Network | IPv6Network], wanted: frozenset[IPv4Network | IPv6Network]
) -> list[str]:
    missing = [f"- ipv{family.number} route: {network} dev lo" for network in sorted(map(str, wanted - live))]
    return missing + [f"+ ipv{family.number} route: {network} dev lo" for network in sorted(map(str, live - wanted))]
