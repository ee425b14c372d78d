"""`hostmesh version`: this command's version, and the nodes' if Consul answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent import __version__
from agent.cli.command import Command, given_flags
from agent.cli.output import output_option, print_records, table
from agent.errors import ConsulUnavailable, HostmeshError

if TYPE_CHECKING:
    from agent.mesh.status import NodeStatus


@click.command(
    cls=Command,
    examples="""
hostmesh version
hostmesh version --client -o json
""",
)
@click.option("--client", "client_only", is_flag=True, help="Only this command's version; Consul is not asked.")
@output_option("table", "json", "yaml")
@click.pass_context
def version(ctx: click.Context, client_only: bool, output: str) -> None:
    """Print the versions of this command and, if Consul answers, of each node's agent and Envoy."""
    nodes, reason = ([], "") if client_only else _nodes(ctx)
    if output == "table":
        click.echo(f"hostmesh {__version__}")
        if nodes:
            click.echo(table(("NODE", "AGENT", "ENVOY"), [(n.node, n.agent_version, n.proxy.version) for n in nodes]))
        if reason:
            click.echo(f"The nodes' versions are not known: {reason}", err=True)
        return
    document = {
        "client": {"version": __version__},
        "nodes": [{"node": n.node, "agent": n.agent_version, "envoy": n.proxy.version} for n in nodes],
    }
    print_records(document, output)


def _nodes(ctx: click.Context) -> tuple[list[NodeStatus], str]:
    """Return the nodes' status documents, or why there are none; a version is printed in any case."""
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_statuses

    connection = resolve(given_flags(ctx))
    try:
        return read_statuses(connection), ""
    except ConsulUnavailable:
        return [], f"Consul at {connection.address} does not answer"
    except HostmeshError as error:
        return [], str(error)
