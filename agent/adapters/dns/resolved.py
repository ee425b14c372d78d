"""Lets systemd-resolved ask the mesh's dnsmasq for the mesh's names, and nothing else (split domains).

By a link of its own: servers that resolved knows for the whole host (`DNS=`) would be asked for every name. It carries
nothing, but resolved counts only links that are up and have an address; so it is a pair of virtual Ethernet ends, which
every kernel has (dummy links are a module of their own). Needs root. May not know what a mesh is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress

from agent.adapters.command import CommandRunner
from agent.errors import HostError

LINK, OTHER_END = "hostmesh", "hostmesh-end"
ADDRESS = "169.254.240.53/32"
MAX_DOMAINS = 1000
"""resolved takes 1024 of a link."""


class ResolvedLink:
    """The link, and what resolved knows of it (it keeps that over a restart of its own)."""

    def __init__(self, runner: CommandRunner, server: str) -> None:
        self._runner = runner
        self._server = server

    async def apply(self, routed: Collection[str], search: Sequence[str]) -> None:
        """Have resolved ask the server for the zones; names of one label are looked for in `search`.

        Raises HostError.
        """
        if not await self._is_there():
            await self._runner.run(["ip", "link", "add", LINK, "type", "veth", "peer", "name", OTHER_END])
        for end in (OTHER_END, LINK):
            await self._runner.run(["ip", "link", "set", end, "addrgenmode", "none", "up"])
        await self._runner.run(["ip", "address", "replace", ADDRESS, "dev", LINK])
        domains = [*search, *(f"~{zone}" for zone in routed)]
        if len(domains) > MAX_DOMAINS:
            raise HostError(f"systemd-resolved takes {MAX_DOMAINS} domains of a link, the mesh has {len(domains)}")
        for setting, *values in (
            ("llmnr", "no"),
            ("mdns", "no"),
            ("dnssec", "no"),
            ("dnsovertls", "no"),
            ("default-route", "no"),
            ("domain", *domains),
            ("dns", self._server),
        ):
            await self._runner.run(["resolvectl", setting, LINK, *values])

    async def remove(self) -> None:
        """Take the link away, and with it what resolved knows of it; raises HostError."""
        if await self._is_there():
            await self._runner.run(["ip", "link", "delete", LINK])

    async def _is_there(self) -> bool:
        with suppress(HostError):
            await self._runner.run(["ip", "link", "show", LINK])
            return True
        return False
