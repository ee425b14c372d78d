"""`hostmesh dashboard`: the web pages around the mesh, opened in the browser."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser

import click

from agent.cli.command import Command
from agent.errors import UserError

_PORTS = {"prometheus": 9090, "grafana": 3000, "zipkin": 9411, "jaeger": 16686, "servicegraph": 8088}
_PATHS = {"zipkin": "zipkin/"}
_TRY_SECONDS = 3.0


@click.command(
    "dashboard",
    cls=Command,
    examples="""
hostmesh dashboard servicegraph
hostmesh dashboard grafana --address grafana.example --port 3000
""",
)
@click.argument("name", type=click.Choice(list(_PORTS)))
@click.option("--address", metavar="HOST", default="127.0.0.1", show_default=True, help="Host where it runs.")
@click.option("--port", type=click.IntRange(1, 65535), help="Its port (default: the program's own).")
def dashboard(name: str, address: str, port: int | None) -> None:
    """Open a web page in the browser: its address is printed, too, and only that where there is no browser."""
    number = port or _PORTS[name]
    try:
        socket.create_connection((address, number), _TRY_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"{name}: nothing answers on {address} port {number} ({error.strerror or error}); "
            "start it, or say where it is with --address and --port"
        ) from error
    url = f"http://{f'[{address}]' if ':' in address else address}:{number}/{_PATHS.get(name, '')}"
    click.echo(url)
    if _has_screen():
        webbrowser.open(url)


def _has_screen() -> bool:
    """Tell whether there is a desktop; else a browser of text might be found, which would take the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
