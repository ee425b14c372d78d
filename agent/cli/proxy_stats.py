"""`hostmesh proxy-stats`: the statistics of a host's Envoy."""

from __future__ import annotations

import re

import click

from agent.cli.agents import agent_options, find_agent, view_json
from agent.cli.command import Command
from agent.cli.output import output_option, print_records


@click.command(
    "proxy-stats",
    cls=Command,
    examples="""
hostmesh proxy-stats --filter 'upstream_rq_(pending_overflow|5xx)'
hostmesh proxy-stats productpage -o prometheus
""",
)
@agent_options
@click.option("--filter", "pattern", metavar="REGEX", default="", help="Only statistics whose name matches.")
@output_option("table", "json", "yaml", "prometheus")
@click.pass_context
def proxy_stats(
    ctx: click.Context, node: str | None, run_dir: str | None, lab: str | None, pattern: str, output: str
) -> None:
    """Print the statistics of a host's Envoy that are not 0: of this host, or of any NODE of the mesh, by its agent."""
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise click.UsageError(f"--filter {pattern!r}: {error}", ctx) from error
    agent = find_agent(node, run_dir, lab)
    if output == "prometheus":
        lines = agent.view("prometheus").decode(errors="replace").splitlines()
        click.echo("\n".join(line for line in lines if wanted.search(line)))
        return
    stats = {one["name"]: one["value"] for one in view_json(agent, "stats")["stats"] if one.get("name")}
    shown = {name: value for name, value in sorted(stats.items()) if value and wanted.search(name)}
    if output == "table":
        click.echo("\n".join(f"{name}: {value}" for name, value in shown.items()) or "Nothing found.", err=not shown)
    else:
        print_records(shown, output)
