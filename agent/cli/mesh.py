"""`hostmesh mesh`: the mesh-wide settings, read and changed."""

from __future__ import annotations

import click

from agent.cli.command import Group, given_flags
from agent.cli.node_leave import purge
from agent.cli.output import output_option, print_records, to_json
from agent.errors import UserError


@click.group(
    cls=Group,
    help="Show and change the mesh-wide settings; every agent follows a change at once.",
    examples="""
hostmesh mesh get
hostmesh mesh set authPolicy=MUTUAL_TLS
""",
)
def mesh() -> None:
    """Hold the subcommands."""


@mesh.command(
    examples="""
hostmesh mesh get
hostmesh mesh get authPolicy
hostmesh mesh get -o json
"""
)
@click.argument("name", required=False)
@output_option("yaml", "json")
@click.pass_context
def get(ctx: click.Context, name: str | None, output: str) -> None:
    """Print the settings in force, defaults included, or the one named."""
    from agent.api.settings import setting_named
    from agent.cli.connection import resolve
    from agent.cli.settings import read_settings

    fields = read_settings(resolve(given_flags(ctx)))
    if name is None:
        print_records(fields, output)
    else:
        try:
            value = setting_named(fields, name)
        except KeyError:
            raise UserError(f"no setting {name!r} (one of: {', '.join(fields)})") from None
        click.echo(value if isinstance(value, str) and output == "yaml" else to_json(value))


@mesh.command(
    "set",
    examples="""
hostmesh mesh set authPolicy=MUTUAL_TLS
hostmesh mesh set outboundTrafficPolicy=REGISTRY_ONLY excludedServices=consul,vault
""",
)
@click.argument("assignments", metavar="NAME=VALUE...", nargs=-1, required=True)
@click.pass_context
def set_settings(ctx: click.Context, assignments: tuple[str, ...]) -> None:
    """Change settings; they are checked first, and another operator's change meanwhile is not lost."""
    from agent.cli.connection import resolve
    from agent.cli.settings import change_settings

    if len(assignments) == 2 and not any("=" in word for word in assignments):
        assignments = ("=".join(assignments),)  # NAME VALUE, as other tools want it
    changes = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not name or not equals:
            raise click.UsageError(f"{assignment!r} is not NAME=VALUE", ctx)
        changes[name] = value
    revision = change_settings(resolve(given_flags(ctx)), changes)
    click.echo(f"Updated mesh settings {', '.join(changes)} to revision {revision}")


mesh.add_command(purge)
