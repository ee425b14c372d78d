"""`hostmesh proxy-config`: what a host's Envoy is configured with, as Envoy itself says it. Secrets are never shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from agent.cli import envoy_view
from agent.cli.agents import agent_options, find_agent, view_json
from agent.cli.command import Group
from agent.cli.output import output_option, print_records, table

_FORMAT = output_option("table", "json", "yaml")
_NAME = click.option("--name", "part", metavar="TEXT", default="", help="Only what has this text in its name.")


@click.group(
    "proxy-config",
    cls=Group,
    help="Show what a host's Envoy is configured with, as Envoy itself says it: of this host, or of any NODE of the "
    "mesh, by its agent.\n\nOn this host the agent's socket is asked (as root or the user hostmesh; no Consul needed), "
    "of another NODE its agent's operator port, by HTTPS: the Consul token must be allowed to read hostmesh/status/ "
    "and to write hostmesh/tickets/.",
    examples="""
hostmesh proxy-config routes
hostmesh proxy-config endpoints productpage --name reviews
hostmesh proxy-config secret vm-7 -o json
hostmesh proxy-config bootstrap > bootstrap.json
""",
)
def proxy_config() -> None:
    """Hold the subcommands."""


def _show(records: list[Any], header: tuple[str, ...], rows: list[envoy_view.Row], part: str, output: str) -> None:
    if output == "table":
        shown = [row for row in rows if any(part in cell for cell in row)]
        click.echo(table(header, shown) if shown else "Nothing found.", err=not shown)
        return
    print_records([envoy_view.redact(one) for one in records if part in _name_of(one)], output)


def _name_of(record: Any) -> str:
    return str(record.get("name") or record.get("cluster_name") or "")


@proxy_config.command(examples="hostmesh proxy-config bootstrap\nhostmesh proxy-config bootstrap productpage -o yaml")
@agent_options
@output_option("json", "yaml")
def bootstrap(node: str | None, run_dir: str | None, lab: str | None, output: str) -> None:
    """Print the configuration that Envoy was started with."""
    dump = view_json(find_agent(node, run_dir, lab), "bootstrap")
    print_records(envoy_view.redact(envoy_view.bootstrap(dump)), output)


def _view(
    name: str,
    summary: str,
    header: tuple[str, ...],
    records: Callable[[Any], list[Any]],
    rows: Callable[[list[Any]], list[envoy_view.Row]],
) -> None:
    """Add a subcommand that shows one kind of resource of the config dump."""

    def show(node: str | None, run_dir: str | None, lab: str | None, part: str, output: str) -> None:
        found = records(view_json(find_agent(node, run_dir, lab), name))
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
    answer = view_json(find_agent(node, run_dir, lab), "endpoints")
    rows = envoy_view.endpoint_rows(answer)
    _show(answer.get("cluster_statuses", []), ("ENDPOINT", "HEALTH", "CLUSTER"), rows, part, output)
