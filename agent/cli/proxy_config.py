"""`hostmesh proxy-config`: what a host's Envoy is configured with, as Envoy itself says it. Secrets are never shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from agent.cli import envoy_view
from agent.cli.agents import agent_options, find_agent
from agent.cli.command import Group
from agent.cli.output import table, to_json, to_yaml

_FORMAT = click.option(
    "-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="short", show_default=True
)
_NAME = click.option("--name", "part", metavar="TEXT", default="", help="Only what has this text in its name.")


@click.group(
    "proxy-config",
    cls=Group,
    help="Show what a host's Envoy is configured with, as Envoy itself says it: of this host, or of a host of the lab. "
    "Of other hosts: run it there.",
    examples="""
hostmesh proxy-config routes
hostmesh proxy-config endpoints productpage --name reviews
hostmesh proxy-config bootstrap > bootstrap.json
""",
)
def proxy_config() -> None:
    """Hold the subcommands."""


def _show(records: list[Any], header: tuple[str, ...], rows: list[envoy_view.Row], part: str, output: str) -> None:
    if output == "short":
        shown = [row for row in rows if any(part in cell for cell in row)]
        click.echo(table(header, shown) if shown else "Nothing found.", err=not shown)
        return
    wanted = [envoy_view.redact(one) for one in records if part in _name_of(one)]
    click.echo(to_json(wanted) if output == "json" else to_yaml(wanted).rstrip())


def _name_of(record: Any) -> str:
    return str(record.get("name") or record.get("cluster_name") or "")


@proxy_config.command(examples="hostmesh proxy-config bootstrap\nhostmesh proxy-config bootstrap productpage -o yaml")
@agent_options
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), default="json", show_default=True)
def bootstrap(node: str | None, run_dir: str | None, lab: str | None, output: str) -> None:
    """Print the configuration that Envoy was started with."""
    dump = find_agent(node, run_dir, lab).json("/envoy/config")
    found = envoy_view.redact(envoy_view.bootstrap(dump))
    click.echo(to_json(found) if output == "json" else to_yaml(found).rstrip())


def _view(
    name: str,
    summary: str,
    header: tuple[str, ...],
    records: Callable[[Any], list[Any]],
    rows: Callable[[list[Any]], list[envoy_view.Row]],
) -> None:
    """Add a subcommand that shows one kind of resource of the config dump."""

    def show(node: str | None, run_dir: str | None, lab: str | None, part: str, output: str) -> None:
        found = records(find_agent(node, run_dir, lab).json("/envoy/config"))
        _show(found, header, rows(found), part, output)

    show.__doc__ = summary
    examples = f"hostmesh proxy-config {name}\nhostmesh proxy-config {name} productpage -o json"
    proxy_config.command(name, examples=examples)(agent_options(_NAME(_FORMAT(show))))


_view(
    "listeners",
    "List the active listeners.",
    ("LISTENER", "ADDRESS", "PORT", "LEADS TO"),
    envoy_view.listeners,
    envoy_view.listener_rows,
)
_view(
    "routes",
    "List the routes of every route table.",
    ("TABLE", "VIRTUAL HOST", "MATCH", "DESTINATION"),
    envoy_view.routes,
    envoy_view.route_rows,
)
_view(
    "clusters",
    "List the active clusters.",
    ("CLUSTER", "TYPE", "BALANCING"),
    envoy_view.clusters,
    envoy_view.cluster_rows,
)
_view(
    "secret",
    "List the certificates and trust bundles; keys are never shown.",
    ("SECRET", "KIND", "SERIAL", "VALID UNTIL"),
    envoy_view.secrets,
    envoy_view.secret_rows,
)


@proxy_config.command(
    examples="hostmesh proxy-config endpoints\nhostmesh proxy-config endpoints productpage --name reviews"
)
@agent_options
@_NAME
@_FORMAT
def endpoints(node: str | None, run_dir: str | None, lab: str | None, part: str, output: str) -> None:
    """List the endpoints of every cluster with their health as Envoy sees it."""
    answer = find_agent(node, run_dir, lab).json("/envoy/clusters")
    rows = envoy_view.endpoint_rows(answer)
    _show(answer.get("cluster_statuses", []), ("ENDPOINT", "HEALTH", "CLUSTER"), rows, part, output)
