"""`hostmesh servicegraph`: the graph of who calls whom, out of Prometheus, served to browsers and programs."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit

import click

from agent.cli.command import Command
from agent.servicegraph.prometheus import Prometheus
from agent.servicegraph.server import DEFAULT_PORT, GraphServer


@click.command(
    "servicegraph",
    cls=Command,
    examples="""
hostmesh servicegraph
hostmesh servicegraph --prometheus http://prometheus.example:9090 --port 8088
curl 'http://127.0.0.1:8088/graph?time_horizon=1m&filter_empty=true'
""",
)
@click.option(
    "--prometheus", metavar="URL", default="http://127.0.0.1:9090", show_default=True, help="Prometheus that is asked."
)
@click.option(
    "--address", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address of this host to listen on."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="Port to listen on."
)
@click.pass_context
def servicegraph(ctx: click.Context, prometheus: str, address: str, port: int) -> None:
    """Serve the graph of services until interrupted.

    At / is a live page; /graph has the graph as JSON, /dotgraph in Graphviz' language, /dotviz drawn (SVG). Their
    parameters: time_horizon (how far back, 5m unless given) and filter_empty=true (only what has traffic). Everybody
    who reaches the port may look.
    """
    url = urlsplit(prometheus)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise click.UsageError(f"--prometheus {prometheus!r}: must be http://HOST:PORT or https://HOST:PORT", ctx)

    def started() -> None:
        shown = f"[{address}]" if ":" in address else address
        click.echo(f"Service graph: http://{shown}:{port}/")

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(GraphServer(Prometheus(prometheus)).serve(address, port, started))
