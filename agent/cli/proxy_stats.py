"""`hostmesh proxy-stats`: the statistics of a host's Envoy."""

from __future__ import annotations

import re

import click

from agent.cli.agents import agent_options, find_agent
from agent.cli.command import Command
from agent.cli.output import to_json


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
@click.option("-o", "--output", type=click.Choice(["short", "json", "prometheus"]), default="short", show_default=True)
@click.pass_context
def proxy_stats(
    ctx: click.Context, node: str | None, run_dir: str | None, lab: str | None, pattern: str, output: str
) -> None:
    """Print the statistics of a host's Envoy that are not 0: of this host, or of a host of the lab."""
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise click.UsageError(f"--filter {pattern!r}: {error}", ctx) from error
    agent = find_agent(node, run_dir, lab)
    if output == "prometheus":
        lines = agent.get("/envoy/prometheus").decode(errors="replace").splitlines()
        click.echo("\n".join(line for line in lines if wanted.search(line)))
        return
    stats = {one["name"]: one["value"] for one in agent.json("/envoy/stats")["stats"] if one.get("name")}
    shown = {name: value for name, value in sorted(stats.items()) if value and wanted.search(name)}
    click.echo(to_json(shown) if output == "json" else "\n".join(f"{name}: {value}" for name, value in shown.items()))
