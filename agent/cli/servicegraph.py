"""`hostmesh servicegraph`: the graph of who calls whom, out of Prometheus, served to browsers and programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

import click

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.store import KvConnection
from agent.cli.command import Command, given_flags
from agent.cli.connection import resolve
from agent.mesh.names import AGENT_SERVICE
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

    /targets has the agents that Consul knows, for http_sd_configs of a Prometheus that cannot ask Consul (Debian's).
    """
    url = urlsplit(prometheus)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise click.UsageError(f"--prometheus {prometheus!r}: must be http://HOST:PORT or https://HOST:PORT", ctx)

    def started() -> None:
        shown = f"[{address}]" if ":" in address else address
        click.echo(f"Service graph: http://{shown}:{port}/")

    consul = resolve(given_flags(ctx)).consul()
    server = GraphServer(Prometheus(prometheus), lambda: asyncio.to_thread(_agents, consul))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(address, port, started))


def _agents(consul: ConsulAddress) -> Mapping[str, str]:
    """Return node → address and port of its agent's metrics."""
    answer = KvConnection(consul).send("get", f"/v1/catalog/service/{AGENT_SERVICE}")
    found = {}
    for entry in json.loads(answer.body):
        address = entry["ServiceAddress"] or entry["Address"]
        found[entry["Node"]] = (
            f"[{address}]:{entry['ServicePort']}" if ":" in address else f"{address}:{entry['ServicePort']}"
        )
    return found
