"""`hostmesh ca`: the certificate authority's join tokens, by its socket on its own machine."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from agent.cli.command import Group, given_flags
from agent.cli.connection import resolve
from agent.cli.output import output_option, print_records, table
from agent.errors import UserError

_DEFAULT_SOCKET = "/run/hostmesh-ca/admin.sock"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Duration(click.ParamType[int]):
    """A duration such as `30m` or `1h30m`, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the seconds."""
        if not re.fullmatch(r"(\d+[smhd])+", str(value)):
            self.fail(f"{value!r} is not a duration; write 90s, 30m, 1h or 7d", param, ctx)
        return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", str(value)))


def _default_socket() -> str:
    """Return the context's socket; a context that can't be read is an error of the commands that need Consul."""
    try:
        return resolve(given_flags(click.get_current_context())).ca_admin_socket or _DEFAULT_SOCKET
    except UserError:
        return _DEFAULT_SOCKET


_socket = click.option(
    "--socket",
    metavar="PATH",
    default=_default_socket,
    show_default=f"the context's, or {_DEFAULT_SOCKET}",
    envvar="HOSTMESH_CA_SOCKET",
    help="hostmesh-ca's administration socket.",
)


@click.group(
    cls=Group,
    help="Work with the mesh's certificate authority; run it on hostmesh-ca's own machine.",
    examples="hostmesh ca token create --identity ns/default/sa/reviews",
)
def ca() -> None:
    """Hold the subcommands."""


@ca.group(
    cls=Group,
    help="Join tokens: with one, a new host gets its first certificate.",
    examples="""
hostmesh ca token create --identity ns/default/sa/reviews --ttl 1h
hostmesh ca token list
""",
)
def token() -> None:
    """Hold the subcommands."""


@token.command(
    examples="""
hostmesh ca token create --identity ns/default/sa/reviews
hostmesh ca token create --identity ns/default/sa/reviews --ttl 2d --uses 10 -o json
"""
)
@click.option("--identity", required=True, metavar="ns/NAMESPACE/sa/ACCOUNT", help="Who its bearer may become.")
@click.option("--ttl", type=_Duration(), default="1h", show_default=True, help="How long it can be used.")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="How many hosts may use it.")
@_socket
@output_option("text", "json", "yaml")
def create(identity: str, ttl: int, uses: int, socket: str, output: str) -> None:
    """Make a join token and print it, this once: the CA keeps only a hash."""
    from agent.adapters.identity.administration import CaAdministration

    text, info = CaAdministration(socket).create_token(identity, ttl, uses)
    if output == "text":
        click.echo(text)
        return
    record = {"token": text, "id": info.id, "identity": info.identity, "expiresAt": info.expires_at, "uses": info.uses}
    print_records(record, output)


@token.command("list", examples="hostmesh ca token list -o json")
@_socket
@output_option("table", "json", "yaml")
def list_tokens(socket: str, output: str) -> None:
    """List the join tokens, without their secrets."""
    from msgspec import to_builtins

    from agent.adapters.identity.administration import CaAdministration

    tokens = CaAdministration(socket).list_tokens()
    if output != "table":
        print_records(to_builtins(tokens), output)
        return
    now = time.time()
    rows = [
        (info.id, info.identity, info.state(now), f"{info.used}/{info.uses}", _utc(info.expires_at)) for info in tokens
    ]
    click.echo(table(("ID", "IDENTITY", "STATE", "USED", "EXPIRES"), rows))


def _utc(unix: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))
