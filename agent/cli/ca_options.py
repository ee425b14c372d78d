"""What the commands of `hostmesh ca` share: the option --socket, durations, times. Holds no command."""

from __future__ import annotations

import re
import time
from typing import Any

import click

from agent.cli.command import given_flags
from agent.cli.connection import resolve
from agent.errors import UserError

_DEFAULT_SOCKET = "/run/hostmesh-ca/admin.sock"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[int]):
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


socket_option = click.option(
    "--socket",
    metavar="PATH",
    default=_default_socket,
    show_default=f"the context's, or {_DEFAULT_SOCKET}",
    envvar="HOSTMESH_CA_SOCKET",
    help="hostmesh-ca's administration socket.",
)


def utc(unix: int) -> str:
    """Return a Unix time as it is shown."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))
