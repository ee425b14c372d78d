"""`hostmesh dns`: the mesh's names beside another name server than dnsmasq on port 53."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.command import Command, Group
from agent.errors import HostmeshError, UserError

if TYPE_CHECKING:
    from agent.adapters.dns.resolved import ResolvedLink
    from agent.translate.dns_zones import Zones

_LOOK_SECONDS = 1.0

_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
_STATE_DIR = click.option(
    "--state-dir", envvar="HOSTMESH_STATE_DIR", type=click.Path(path_type=Path), default=Path("/var/lib/hostmesh"),
    show_default=True,
)  # fmt: skip


@click.group(
    cls=Group,
    examples="""
hostmesh dns forward unbound >/etc/unbound/unbound.conf.d/hostmesh.conf
hostmesh dns forward bind >/etc/bind/hostmesh.conf
""",
)
def dns() -> None:
    """Let systemd-resolved, unbound or bind answer the mesh's names on this host."""


@dns.command(cls=Command, examples="hostmesh dns forward unbound >/etc/unbound/unbound.conf.d/hostmesh.conf")
@click.argument("program", type=click.Choice(["unbound", "bind"]))
@_STATE_DIR
def forward(program: str, state_dir: Path) -> None:
    """Print what that name server is to be told to ask hostmesh-dns.service for the mesh's names.

    Print it again when the mesh has got another namespace or a rule names another host outside.
    """
    from agent.translate.dns_zones import FORWARDERS, zones

    found = zones(_hosts(state_dir))
    if not found.routed:
        raise UserError("the mesh has no names on this host yet: start hostmesh-agent, and try again")
    click.echo(FORWARDERS[program](found), nl=False)


@dns.command(cls=Command, examples="hostmesh dns resolved")
@click.option("--follow", is_flag=True, help="Go on as the names change, until it is ended; the last state stays.")
@_STATE_DIR
def resolved(follow: bool, state_dir: Path) -> None:
    """Have systemd-resolved ask hostmesh-dns.service for the mesh's names (as root); without names, take it back."""
    from agent.adapters.command import SystemRunner
    from agent.adapters.dns.resolved import ResolvedLink
    from agent.translate.dns import BESIDE_PORT

    link = ResolvedLink(SystemRunner(), f"127.0.0.1:{BESIDE_PORT}")
    asyncio.run(_follow(link, state_dir) if follow else _apply(link, state_dir))


async def _follow(link: ResolvedLink, state_dir: Path) -> None:
    applied: Zones | None = None
    said = ""
    while True:
        try:
            applied, said = await _apply(link, state_dir, applied), ""
        except HostmeshError as error:  # systemd-resolved starts again, say
            if str(error) != said:
                said = str(error)
                click.echo(f"hostmesh: {said}", err=True)
        await asyncio.sleep(_LOOK_SECONDS)


async def _apply(link: ResolvedLink, state_dir: Path, applied: Zones | None = None) -> Zones:
    from agent.translate.dns_zones import zones

    found = zones(_hosts(state_dir))
    if found != applied:
        await (link.apply(found.routed, found.search) if found.routed else link.remove())
    return found


@dns.command(cls=Command, examples="hostmesh dns dnsmasq")
@_STATE_DIR
def dnsmasq(state_dir: Path) -> None:
    """Print the configuration of the dnsmasq of hostmesh-dns.service."""
    from agent.translate.dns import beside_options, dnsmasq_conf

    # Of systemd-resolved: the servers that it has found itself. dnsmasq doesn't start without the folder.
    resolv_file = str(_RESOLVED) if _RESOLVED.parent.is_dir() else ""
    click.echo(dnsmasq_conf(beside_options(str(state_dir / "dns"), resolv_file)), nl=False)


def _hosts(state_dir: Path) -> str:
    from agent.adapters.dns.hosts import FILE_NAME
    from agent.adapters.files import read_optional

    return (read_optional(state_dir / "dns" / FILE_NAME) or b"").decode()
